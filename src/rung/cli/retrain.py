"""Bodies of `rung retrain` and `rung retrains`."""

import getpass
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from rung.cli.printing import print_json, print_table
from rung.cli.train import model_of
from rung.domain.retraining import Retraining
from rung.jobs.queue import JobStore
from rung.loop import requests
from rung.loop.retrainer import Retrainer
from rung.settings.file import project_here
from rung.store.blobs import open_store
from rung.store.database import open_database

__all__ = ["retrain", "retrains"]

_POLL = 0.5


def retrain(model: str, because: str, *, wait: bool, as_json: bool) -> None:
    """Ask for a retraining.

    Raises:
        InvalidInput: there is no such model.
        ConfigurationError: the project's database cannot be had.
    """
    settings = project_here()
    data = open_store(settings.project.data)
    with open_database(settings.project.store) as database:
        retrainer = Retrainer(JobStore(database), open_store(settings.project.repository), data, settings.models)
        made = retrainer.ask(model, getpass.getuser(), because)
        if not wait:
            if as_json:
                print_json(made)
            else:
                print(f"retraining {made.number} of {model} was asked for; rung retrains {model} shows how it goes")
            return
        said: set[str] = set()
        while True:
            made = requests.find(data, model, made.number)
            for step, decision in made.decisions.items():
                if step not in said and not as_json:
                    print(f"{step:<9} {decision.outcome:<13} {decision.why}", flush=True)
                said.add(step)
            if made.over:
                break
            time.sleep(_POLL)
    if as_json:
        print_json(made)


def retrains(model: str, number: int | None, *, as_json: bool) -> None:
    """All retrainings of a model, a line each, or one with its decisions.

    Raises:
        NotFound: there is no such model, or no such retraining.
    """
    settings = project_here()
    store = open_store(settings.project.data)
    there = requests.retrainings(store, model)
    if model not in settings.models and not there:
        # Not a model that has been taken out of the file: what was done with it can still be read.
        model_of(settings, model)
    if number is not None:
        found = requests.find(store, model, number)
        print_json(found) if as_json else print("\n".join(_whole(found)))
        return
    if as_json:
        print_json(there)
    elif not there:
        print(f"{model} was never trained anew; rung retrain {model} asks for it")
    else:
        lines = [
            (str(one.number), _moment(one.request.at), one.request.cause, one.standing, _last(one)) for one in there
        ]
        print_table(("NUMBER", "ASKED", "CAUSE", "STANDING", "WHY"), lines)


def _last(retraining: Retraining) -> str:
    return [retraining.request.why, *(one.why for one in retraining.decisions.values())][-1]


def _whole(retraining: Retraining) -> Iterator[str]:
    request = retraining.request
    yield f"retraining {retraining.number} of {retraining.model}: {retraining.standing}"
    yield f"{request.cause:<9} {_moment(request.at)}  {request.why}  (by {request.by})"
    for step, decision in retraining.decisions.items():
        yield f"{step:<9} {_moment(decision.at)}  {decision.outcome}  {decision.why}"
        for verdict in decision.result.get("verdict", {}).get("verdicts", ()):
            yield f"            {verdict['outcome']:<13} {verdict['why']}"


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")

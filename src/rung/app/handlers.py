"""Who does which kind of job: the table of the workers, and the handlers that only know the project."""

import time
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.jobs import Handler
from rung.jobs.context import JobContext
from rung.loop.chain import KINDS
from rung.settings.file import load_project
from rung.store.blobs import open_store

__all__ = [
    "HANDLERS",
    "SUBMITTED",
    "call_back",
    "erase",
    "notify",
    "retrain_due",
    "retrain_step",
    "score",
    "train",
    "verify",
    "watch",
]

HANDLERS: dict[str, Handler] = {
    "alerts.notify": Handler("rung.app.handlers:notify", limit=2),
    # In processes of their own: what they import would stay in an idle worker.
    **{
        f"mapreduce.{step}": Handler("rung.offline.mapreduce.run:do", process=True)
        for step in ("map", "shuffled", "reduce", "finish")
    },
    # One at a time: they take all cores.
    "models.score": Handler("rung.app.handlers:score", limit=1, process=True),
    "models.train": Handler("rung.app.handlers:train", limit=1, process=True),
    "models.verify": Handler("rung.app.handlers:verify", limit=1, process=True),
    "models.watch": Handler("rung.app.handlers:watch", limit=1, process=True),
    "predictions.erase": Handler("rung.app.handlers:erase", limit=1, process=True),
    "predictions.maintain": Handler("rung.data.predictions:maintain", limit=1, process=True),
    "requests.call": Handler("rung.app.handlers:call_back", limit=2),
    "retrain.due": Handler("rung.app.handlers:retrain_due", limit=1, process=True),
    **{kind: Handler("rung.app.handlers:retrain_step", limit=1, process=True) for kind in KINDS},
}
"""Kind of a job -> the function that does it."""

SUBMITTED: tuple[str, ...] = ("models.score", "models.train", "models.verify", "predictions.erase")
"""Kinds that may be submitted by request; the others are the platform's own."""

_Arguments = TypeVar("_Arguments", bound=msgspec.Struct)


class _Version(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    version: int | None = None


class _Training(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    set: dict[str, Any] = {}


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    model: str


class _Scoring(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    name: str


class _Retraining(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    number: int


class _Unit(msgspec.Struct, forbid_unknown_fields=True):
    unit: str


def verify(context: JobContext) -> dict[str, Any]:
    """Check a version's bytes, load it and compare its golden answers: `{"model": NAME, "version": NUMBER}`."""
    from rung.catalog import models

    wanted = _arguments(context, _Version)
    found = models.verify(open_store(load_project(Path()).project.repository), wanted.model, wanted.version)
    result: dict[str, Any] = msgspec.to_builtins(found)
    return result


def train(context: JobContext) -> dict[str, Any]:
    """Train a model of the project and register it: `{"model": NAME, "set": {PARAMETER: VALUE}}`.

    However often the job is tried, it makes one version.
    """
    from rung.training import submitted

    wanted = _arguments(context, _Training)
    # Ids of jobs begin again where a database does: the moment of submission tells them apart.
    job = f"{context.job.id}-{context.job.created:.6f}"
    found = submitted.train(
        Path(), job, wanted.model, wanted.set, progress=context.progress, should_stop=context.should_stop
    )
    result: dict[str, Any] = msgspec.to_builtins(found)
    return result


def score(context: JobContext) -> dict[str, Any]:
    """Score a data set of the project: `{"model": NAME, "name": NAME}`, as `[models.MODEL.score.NAME]` says.

    Tried again, it goes on where the try before was cut off.
    """
    from rung.jobs.schedule import moment_of
    from rung.offline.scoring import run, schedule

    wanted, project = _arguments(context, _Scoring), load_project(Path())
    order = schedule.order_of(project.models, wanted.model, wanted.name, moment_of(context.job))
    found = run.score(
        order,
        Path(),
        open_store(project.project.repository),
        project.project.store,
        progress=lambda done, of: context.progress(done / of if of else 0.0, f"{done:,} rows"),
        should_stop=context.should_stop,
    )
    result: dict[str, Any] = msgspec.to_builtins(found)
    return result


def notify(context: JobContext) -> dict[str, Any]:
    """Tell of alerts by the channels of the project; the platform's own."""
    from rung.loop import notify as telling

    return telling.send(load_project(Path()).alerts, context.arguments, context.job.idempotency_key)


def call_back(context: JobContext) -> dict[str, Any]:
    """Tell that a request has been answered, where it said; the platform's own."""
    from rung.offline import callbacks
    from rung.store.database import open_database

    project = load_project(Path())
    with open_database(project.project.store) as database:
        request = str(context.arguments["request"])
        return callbacks.call(project.offline, database, request, context.job.idempotency_key)


def watch(context: JobContext) -> dict[str, Any]:
    """Measure a model's traffic for the triggers: `{"model": NAME}`."""
    from rung.loop import measuring

    found = measuring.measure(load_project(Path()), Path(), _arguments(context, _Model).model, time.time())
    result: dict[str, Any] = msgspec.to_builtins(found)
    return result


def retrain_due(context: JobContext) -> dict[str, Any]:
    """Ask for the retraining that a schedule wants: `{"model": NAME}`."""
    from rung.jobs.queue import JobStore
    from rung.loop.retrainer import Retrainer
    from rung.store.database import open_database

    name, project = _arguments(context, _Model).model, load_project(Path())
    with open_database(project.project.store) as database:
        places = (open_store(project.project.repository), open_store(project.project.data))
        # The moment of submission is the tick's, however often the job is tried.
        decided = Retrainer(JobStore(database), *places, project.models).due(name, context.job.created)
    return {"asked": decided.request is not None, "why": decided.why}


def retrain_step(context: JobContext) -> dict[str, Any]:
    """Do one step of a retraining, the one that the kind of the job names: `{"model": NAME, "number": NUMBER}`."""
    from rung.loop import requests, steps

    wanted, project = _arguments(context, _Retraining), load_project(Path())
    there = requests.find(open_store(project.project.data), wanted.model, wanted.number)
    work = steps.Work(project, Path(), there, context.progress, context.should_stop)
    result: dict[str, Any] = msgspec.to_builtins(steps.do(work, KINDS[context.job.kind]))
    return result


def erase(context: JobContext) -> dict[str, Any]:
    """Remove a unit's requests and answers from the prediction log, its tables and what was asked later:
    `{"unit": UNIT}`.
    """
    from rung.offline import forgetting

    wanted = _arguments(context, _Unit)
    project = load_project(Path()).project
    found, requests = forgetting.erase(Path(project.log), open_store(project.data), project.store, wanted.unit)
    result: dict[str, Any] = msgspec.to_builtins(found) | {"requests": requests}
    return result


def _arguments(context: JobContext, kind: type[_Arguments]) -> _Arguments:
    try:
        return msgspec.convert(context.arguments, kind)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the arguments of {context.job.kind} will not do: {error}", field="arguments") from None

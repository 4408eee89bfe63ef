"""Bodies of `rung jobs asked|answers|replay`: what models are asked later."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import msgspec

from rung.app.asking import queue_of
from rung.cli.printing import print_json, print_table
from rung.domain.errors import ConfigurationError
from rung.domain.inference import REPLAYED, InferenceRequest, ItemAnswer, ItemState
from rung.offline.requests import Requests
from rung.settings.file import project_here
from rung.store.database import open_database

__all__ = ["answers", "list_requests", "replay"]

_WIDEST = 80


@contextmanager
def _open(url: str) -> Iterator[Requests]:
    settings = project_here()
    with open_database(url or settings.project.store, create=False) as database:
        yield Requests(database, queue_of(settings, database))


def list_requests(url: str, model: str, *, dead: bool, limit: int, as_json: bool) -> None:
    """One line for each request. Raises ConfigurationError: there is no database."""
    with _open(url) as requests:
        found = requests.find(model, state="dead" if dead else None, limit=limit)
    if as_json:
        print_json(found)
        return
    if not found:
        print("nothing has been asked later" if not (model or dead) else "no request is like that")
        return
    print_table(("ID", "MODEL", "STATE", "ITEMS", "OF THESE", "SUBMITTED (UTC)"), [_line(one) for one in found])


def _line(one: InferenceRequest) -> tuple[str, ...]:
    counts = ", ".join(f"{count:,} {state}" for state, count in one.counts.items())
    submitted = datetime.fromtimestamp(one.created, UTC).isoformat(" ", "seconds")[:19]
    return (one.id, one.model, one.state, f"{one.items:,}", counts, submitted)


def answers(url: str, request: str, *, after: int, limit: int, as_json: bool) -> None:
    """One line for each item. Raises NotFound."""
    with _open(url) as requests:
        requests.get(request)
        found = requests.answers(request, after=after, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(("PLACE", "ID", "STATE", "TRIES", "WHAT"), [_item(one) for one in found])


def _item(one: ItemAnswer) -> tuple[str, ...]:
    what = one.error or ("" if one.answer is None else msgspec.json.encode(one.answer).decode())
    return (str(one.place), one.id or "-", one.state, str(one.tries), what[:_WIDEST])


def replay(url: str, request: str, states: Sequence[str]) -> None:
    """Ask for items anew. Raises NotFound, Conflict, and ConfigurationError: there is no such state."""
    wanted: list[ItemState] = [state for state in REPLAYED if state in states]
    if unknown := [state for state in states if state not in REPLAYED]:
        raise ConfigurationError(f"--state {unknown[0]!r} is none: use one of {', '.join(REPLAYED)}")
    with _open(url) as requests:
        shown = requests.replay(request, wanted)
    print(f"request {request} is open again: {shown.counts.get('waiting', 0):,} items wait")

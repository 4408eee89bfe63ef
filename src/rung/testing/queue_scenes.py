"""Where queues are tried: a place with an empty one, the database of its results, and what a worker does with both."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

import msgspec
from sqlalchemy import Connection, text

from rung.domain.messages import Lease, Outcome
from rung.ports import Queue
from rung.store.database import Database

__all__ = ["QueueScene", "drain", "results_of", "until", "with_results", "write_results"]

_LONG = 60.0
_PATIENCE = 30.0


class QueueScene(msgspec.Struct):
    """A place for queues, and the database of their results."""

    database: Database
    """With a table made by `with_results`."""
    opening: Callable[[str, float], Queue]
    """Opens a queue by its name and the seconds of a lease, as one more process would."""
    name: str
    """Of a queue that is empty."""

    @contextmanager
    def open(self, seconds: float = _LONG) -> Iterator[Queue]:
        """One more user of the queue."""
        queue = self.opening(self.name, seconds)
        try:
            yield queue
        finally:
            queue.close()


def with_results(database: Database) -> Database:
    """Make the table of results: one for each id, whoever writes first."""
    table = text("CREATE TABLE IF NOT EXISTS results (id VARCHAR(200) PRIMARY KEY, what TEXT)")
    database.write(lambda connection: connection.execute(table))
    return database


_RESULTS = {
    # WHERE true: without it SQLite takes ON for a join.
    "sqlite": text(
        "INSERT INTO results (id, what) SELECT value, :what FROM json_each(:ids) WHERE true ON CONFLICT (id) DO NOTHING"
    ),
    "postgresql": text(
        "INSERT INTO results (id, what) SELECT value, :what FROM json_array_elements_text(CAST(:ids AS json)) AS value"
        " ON CONFLICT (id) DO NOTHING"
    ),
}


def write_results(what: str = "done") -> Callable[[Connection, Sequence[Outcome]], None]:
    """What a worker writes beside the ends of its leases; a second result of an id is not written."""

    def write(connection: Connection, outcomes: Sequence[Outcome]) -> None:
        ids = [one.lease.message.id for one in outcomes if one.ending in ("done", "dead")]
        if ids:
            # All in one parameter: a statement for each row would cost more than the queue does.
            connection.execute(
                _RESULTS[connection.dialect.name], {"ids": msgspec.json.encode(ids).decode(), "what": what}
            )

    return write


def results_of(database: Database) -> dict[str, str]:
    """Id -> what was written as its result."""
    query = text("SELECT id, what FROM results")
    return database.read(lambda connection: {row.id: row.what for row in connection.execute(query)})


def until(look: Callable[[], Any], what: str = "what was waited for") -> Any:
    """Look again and again until there is something; returns it."""
    ends = monotonic() + _PATIENCE
    while monotonic() < ends:
        found = look()
        if found:
            return found
    raise AssertionError(f"{what} did not come within {_PATIENCE:g} seconds")


def drain(queue: Queue, batch: int = 50) -> list[Lease]:
    """Take and settle until the queue is empty; returns all leases in their order."""
    taken: list[Lease] = []
    while leases := queue.take(batch):
        taken += leases
        assert queue.settle([Outcome(lease) for lease in leases]) == {lease.message.id for lease in leases}
    return taken

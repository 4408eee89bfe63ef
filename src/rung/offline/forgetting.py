"""A person forgotten: what they asked and were answered, at once and later."""

from pathlib import Path

from sqlalchemy import Connection, delete, func, select

from rung.data import erasure
from rung.domain.errors import InvalidInput
from rung.offline.tables import ITEMS, REQUESTS
from rung.ports import BlobStore
from rung.store.database import Database, open_database

__all__ = ["erase", "forget"]


def erase(log: Path, store: BlobStore, database: str, unit: str) -> tuple[erasure.Erased, int]:
    """Remove a unit from the prediction log and its tables, and from the requests in the database of that URL.

    Returns:
        What was removed of the log, and how many requests.

    Raises:
        InvalidInput, Conflict, RungError: as `rung.data.erasure.erase`; ConfigurationError, NotReady: the database
            cannot be had.
    """
    done = erasure.erase(log, store, unit)
    with open_database(database) as opened:
        return done, forget(opened, unit)


def forget(database: Database, unit: str) -> int:
    """Remove all requests of a unit with their items and answers, also those that wait; how many there were.

    Their messages find nothing to do. A callback that is under way tells of a request that is not there any more.

    Raises:
        InvalidInput: the unit is empty, which stands for requests of nobody in particular.
    """
    if not unit:
        raise InvalidInput("say which unit to erase: an empty one stands for requests without a unit", field="unit")
    theirs = REQUESTS.c.unit == unit

    def write(connection: Connection) -> int:
        count = connection.execute(select(func.count()).select_from(REQUESTS).where(theirs)).scalar_one()
        connection.execute(delete(ITEMS).where(ITEMS.c.request.in_(select(REQUESTS.c.id).where(theirs))))
        connection.execute(delete(REQUESTS).where(theirs))
        return int(count)

    return database.write(write)

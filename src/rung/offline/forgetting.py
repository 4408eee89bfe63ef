"""What somebody asked later, removed."""

from sqlalchemy import Connection, delete, func, select

from rung.domain.errors import InvalidInput
from rung.offline.tables import ITEMS, REQUESTS
from rung.store.database import Database

__all__ = ["forget"]


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

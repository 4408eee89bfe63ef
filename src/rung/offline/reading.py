"""Items as a worker asks for them, read by the ids of their messages."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import TextClause, text

from rung.domain.inference import AskedItem, item_of, message_id
from rung.jobs.tables import encode
from rung.store.database import Database

__all__ = ["read"]

_ITEMS = """
SELECT items.request, items.place, items.media, items.body,
       requests.model, requests.accept, requests.unit, requests.deadline
FROM {wanted}
JOIN rung_request_items AS items ON items.request = wanted.request AND items.place = wanted.place
JOIN rung_requests AS requests ON requests.id = items.request
WHERE items.state = 'waiting'
"""
_READ: dict[str, TextClause] = {
    "sqlite": text(
        _ITEMS.format(
            wanted="(SELECT value ->> 'request' AS request, value ->> 'place' AS place FROM json_each(:wanted))"
            " AS wanted"
        )
    ),
    "postgresql": text(
        _ITEMS.format(wanted="json_to_recordset(CAST(:wanted AS json)) AS wanted(request text, place integer)")
    ),
}


def read(database: Database, messages: Sequence[str]) -> dict[str, AskedItem]:
    """The items of these messages that still wait; those that have ended are left out.

    Raises:
        NotReady: the database cannot be reached.
    """
    wanted = encode([dict(zip(("request", "place"), item_of(message), strict=True)) for message in messages])
    rows = database.read(lambda one: one.execute(_READ[one.dialect.name], {"wanted": wanted}).all())
    return {message_id(row.request, row.place): _item(row) for row in rows}


def _item(row: Any) -> AskedItem:
    return AskedItem(
        model=row.model,
        media=row.media,
        body=bytes(row.body),
        accept=row.accept,
        unit=row.unit,
        deadline=row.deadline,
    )

"""Requests and their items as rows and messages, and back."""

from base64 import b64encode
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

import msgspec

from rung.domain.inference import ITEM_STATES, InferenceRequest, ItemAnswer, ItemState, NewRequest, message_id
from rung.domain.messages import Message
from rung.offline.tables import ITEMS

__all__ = ["ANSWERED", "answer_of", "digest_of", "items_of", "message_again", "message_of", "request_of", "row_of"]

_JSON = "application/json"

ANSWERED = (
    ITEMS.c.place,
    ITEMS.c.name,
    ITEMS.c.state,
    ITEMS.c.tries,
    ITEMS.c.answer,
    ITEMS.c.answer_media,
    ITEMS.c.version,
    ITEMS.c.prediction,
    ITEMS.c.error,
    ITEMS.c.finished,
)
"""Columns that `answer_of` takes."""


def digest_of(new: NewRequest) -> str:
    """Of all that is asked; the deadline and the callback may differ in a second try."""
    said = sha256(msgspec.json.encode([new.priority, new.key, new.unit, new.accept]))
    for item in new.items:
        said.update(msgspec.json.encode([item.name, item.media, len(item.body)]))
        said.update(item.body)
    return said.hexdigest()


def row_of(new: NewRequest, request: str, digest: str, now: float, queued: float) -> dict[str, Any]:
    """The row of a new request; `queued` as in the table."""
    return {
        "id": request,
        "model": new.model,
        "owner": new.owner,
        "digest": digest,
        "idempotency_key": new.idempotency_key or None,
        "priority": new.priority,
        "key": new.key,
        "unit": new.unit,
        "accept": new.accept,
        "deadline": new.deadline,
        "callback": new.callback,
        "total": len(new.items),
        "queued": queued,
        "reason": "",
        "created": now,
        "finished": None,
    }


def items_of(new: NewRequest, request: str) -> list[dict[str, Any]]:
    """The rows of its items."""
    blank = {"state": "waiting", "replays": 0, "tries": 0, "answer_media": "", "version": 0, "prediction": ""}
    return [
        {"request": request, "place": place, "name": item.name, "media": item.media, "body": item.body, **blank}
        | {"error": ""}
        for place, item in enumerate(new.items)
    ]


def message_of(new: NewRequest, request: str, place: int) -> Message:
    """The message of one of its items."""
    return Message(
        id=message_id(request, place),
        topic=new.model,
        priority=new.priority,
        key=_key(new.model, new.owner, new.key),
        owner=new.owner,
        deadline=new.deadline,
    )


def message_again(row: Any, place: int, replay: int) -> Message:
    """The message of an item of a request that is in the table, put anew for this time."""
    return Message(
        id=message_id(row.id, place),
        topic=row.model,
        priority=row.priority,
        key=_key(row.model, row.owner, row.key),
        owner=row.owner,
        deadline=row.deadline,
        replay=replay,
    )


def _key(model: str, owner: str, key: str) -> str:
    """Nobody waits for what others order."""
    return f"{model}/{owner}/{key}" if key else ""


def request_of(row: Any, counts: dict[ItemState, int]) -> InferenceRequest:
    """A row as it is shown, with the number of items in each state."""
    ended = row.finished is not None
    return InferenceRequest(
        id=row.id,
        model=row.model,
        state="open" if not ended else "cancelled" if row.reason else "ended",
        items=row.total,
        counts={state: counts[state] for state in ITEM_STATES if state in counts},
        priority=row.priority,
        key=row.key,
        unit=row.unit,
        deadline=row.deadline,
        callback=urlsplit(row.callback).hostname or "",
        reason=row.reason,
        created=row.created,
        finished=row.finished or 0.0,
    )


def answer_of(row: Any) -> ItemAnswer:
    """A row of `ANSWERED` as it is shown."""
    answer: Any = None
    if row.state == "done":
        body = bytes(row.answer or b"")
        plain = row.answer_media.partition(";")[0] == _JSON and body
        answer = msgspec.Raw(body) if plain else {"base64": b64encode(body).decode(), "type": row.answer_media}
    return ItemAnswer(
        place=row.place,
        id=row.name,
        state=row.state,
        answer=answer,
        error=row.error,
        tries=row.tries,
        version=row.version,
        prediction_id=row.prediction,
        finished=row.finished or 0.0,
    )

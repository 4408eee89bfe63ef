"""Requests that are answered later: what is asked, what became of it, and how a replica's answer is taken. Pure.

A request has items, each asked by itself. An item ends once:

    waiting ──> done        answered
       ├──────> failed      the model or the door refused it: asking again would not help
       ├──────> dead        its tries are used up
       ├──────> expired     its deadline passed
       └──────> cancelled

All but those done can be replayed. Times are seconds since the epoch.
"""

from typing import Any, Literal, get_args

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.names import check_name

__all__ = [
    "ITEM_STATES",
    "LARGEST_ITEM",
    "MOST_ITEMS",
    "REPLAYED",
    "AskedItem",
    "InferenceRequest",
    "ItemAnswer",
    "ItemState",
    "NewItem",
    "NewRequest",
    "Taken",
    "item_of",
    "judge",
    "message_id",
]

ItemState = Literal["waiting", "done", "failed", "dead", "expired", "cancelled"]
ITEM_STATES: tuple[ItemState, ...] = get_args(ItemState)
REPLAYED: tuple[ItemState, ...] = ("dead", "failed", "expired", "cancelled")
"""States from which an item can be asked again."""
MOST_ITEMS = 10_000
"""Items of one request."""
LARGEST_ITEM = 16 << 20
"""Bytes of one item."""

_LONGEST_NAME = 200
_LONGEST_KEY = 100
_FURTHEST_PRIORITY = 1000


class NewItem(msgspec.Struct, frozen=True):
    """One thing to ask a model: a body as `/predict` takes it."""

    body: bytes
    media: str
    """Its content type."""
    name: str = ""
    """What the caller calls it; comes back with its answer."""


class NewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be answered later, as it is submitted."""

    model: str
    items: tuple[NewItem, ...]
    owner: str = ""
    """Id of the key that it came with: owners who wait share what is free evenly."""
    priority: int = 0
    """Larger numbers start first."""
    key: str = ""
    """Items of one key are asked one at a time, in order, over all requests of the model; empty: no order."""
    idempotency_key: str = ""
    """Submitted again with the same key, it is the same request; empty: always a new one."""
    unit: str = ""
    """Whom a split of the traffic goes by; empty: all that is asked later is one unit."""
    accept: str = "application/json"
    """The form of the answers, as the header Accept of `/predict`."""
    deadline: float = 0.0
    """Items that have not been asked by then never are; 0: none."""
    callback: str = ""
    """URL that is told when the last item has ended."""
    quota: int = 0
    """Items that its owner may ask for on one day (UTC); 0: any number."""

    def checked(self) -> "NewRequest":
        """This request, if it makes sense.

        Raises:
            InvalidInput: naming the field.
        """
        check_name(self.model)
        if not self.items:
            raise InvalidInput("there are no items to ask for", field="items")
        if len(self.items) > MOST_ITEMS:
            raise InvalidInput(f"{len(self.items):,} items; one request takes {MOST_ITEMS:,}", field="items")
        for place, item in enumerate(self.items):
            if not item.body:
                raise InvalidInput(f"items[{place}] is empty", field="items")
            if len(item.body) > LARGEST_ITEM:
                raise InvalidInput(f"items[{place}] has {len(item.body):,} bytes; at most {LARGEST_ITEM:,} are taken")
            _check_text(f"items[{place}].id", item.name)
            _check_header(f"items[{place}].type", item.media)
        _check_text("key", self.key, _LONGEST_KEY)
        _check_text("idempotency_key", self.idempotency_key)
        for field in ("unit", "accept"):
            _check_header(field, getattr(self, field))
        if abs(self.priority) > _FURTHEST_PRIORITY:
            raise InvalidInput(f"priority {self.priority} is beyond {_FURTHEST_PRIORITY:,}", field="priority")
        if not 0 <= self.deadline < 1e11:
            raise InvalidInput("the deadline has to be seconds since the epoch", field="deadline")
        return self


class InferenceRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request, and how far it is."""

    id: str
    model: str
    state: Literal["open", "ended", "cancelled"]
    """Whether items still wait; `cancelled` where somebody did that before all were answered."""
    items: int
    counts: dict[ItemState, int]
    """State -> items in it; states without any are left out."""
    priority: int = 0
    key: str = ""
    unit: str = ""
    deadline: float = 0.0
    callback: str = ""
    """Host that is told at the end; the rest of a URL may be secret."""
    reason: str = ""
    """Why it was cancelled."""
    created: float = 0.0
    finished: float = 0.0
    """When the last item ended; 0 before."""


class ItemAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one item."""

    place: int
    """From 0, in the order of the request."""
    id: str = ""
    """What the caller called it."""
    state: ItemState
    answer: Any = None
    """JSON as `/predict` gives it; of any other form `{"base64": ..., "type": ...}`."""
    error: str = ""
    """Why it has no answer, or why its last try failed."""
    tries: int = 0
    version: int = 0
    """Of the model that answered."""
    prediction_id: str = ""
    """What feedback names."""
    finished: float = 0.0


class AskedItem(msgspec.Struct, frozen=True, kw_only=True):
    """An item as a worker asks for it."""

    model: str
    media: str
    body: bytes
    accept: str
    unit: str
    deadline: float


class Taken(msgspec.Struct, frozen=True):
    """How a reply is taken."""

    kind: Literal["done", "failed", "busy", "again"]
    """`busy`: nothing was tried, ask later; `again`: the try counts."""
    reason: str = ""
    locked: bool = False
    """Whether it was turned away for want of a key."""


def message_id(request: str, place: int) -> str:
    """The id of an item's message."""
    return f"{request}.{place}"


def item_of(message: str) -> tuple[str, int]:
    """Request and place of a message's id."""
    request, _, place = message.rpartition(".")
    return request, int(place)


_BUSY = frozenset({429, 503})
_LOCKED = frozenset({401, 403})
_AGAIN = frozenset({404, 408, 499})
"""A replica that has just come may not know a model yet."""


def judge(status: int, body: bytes) -> Taken:
    """What a reply of a replica means for the item that was asked for."""
    if 200 <= status < 300:
        return Taken("done")
    reason = _said(body) or f"the model's door answered {status}"
    if status in _BUSY:
        return Taken("busy", reason)
    if status in _LOCKED:
        return Taken("busy", f"the workers may not ask there: {reason}", locked=True)
    if status in _AGAIN or status >= 500:
        return Taken("again", reason)
    return Taken("failed", reason)


def _said(body: bytes) -> str:
    try:
        said = msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return ""
    return str(said.get("error", "")) if isinstance(said, dict) else ""


def _check_text(field: str, text: str, longest: int = _LONGEST_NAME) -> None:
    if text and (len(text) > longest or not text.isprintable()):
        raise InvalidInput(f"{field} {text!r:.80} has to be at most {longest} printable characters", field=field)


def _check_header(field: str, text: str) -> None:
    if len(text) > _LONGEST_NAME or not (text.isascii() and (text.isprintable() or not text)):
        raise InvalidInput(f"{field} {text!r:.80} has to be at most {_LONGEST_NAME} ASCII characters", field=field)

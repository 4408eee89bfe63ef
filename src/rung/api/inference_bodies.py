"""Bodies of `POST /models/{model}/jobs`: what is to be asked later, by the Content-Type.

JSON names the items and how they are to be asked for; of a form each file is an item, and any other body is one. How
those two are asked for is in the query.
"""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

import msgspec

from rung.domain.errors import InvalidInput, UnsupportedMedia
from rung.domain.inference import MOST_ITEMS, NewItem
from rung.protocols import multipart
from rung.protocols.media import content_type, sniff

__all__ = ["Options", "read_items"]

_JSON = "application/json"
_FORM = "multipart/form-data"
_RAW = "application/octet-stream"


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How items are asked for; see `rung.domain.inference.NewRequest`."""

    priority: int = 0
    key: str = ""
    idempotency_key: str = ""
    unit: str = ""
    accept: str = _JSON
    deadline_seconds: float = 0.0
    """Seconds from now; 0: no deadline."""
    callback: str = ""


class _Body(Options, frozen=True, kw_only=True, forbid_unknown_fields=True):
    items: list[msgspec.Raw]


class _Bytes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An item that JSON cannot hold as it is."""

    base64: str
    type: str = ""
    id: str | int = ""


def read_items(body: bytes, header: str, options: Options) -> tuple[tuple[NewItem, ...], Options]:
    """The items of a body, and how they are asked for: as JSON says, else as `options` do.

    Raises:
        InvalidInput: the body is not what its type says.
        UnsupportedMedia: it does not say what it is.
    """
    media, parameters = content_type(header.encode("latin-1", "replace"))
    if media == _FORM:
        parts = multipart.parse(body, parameters.get("boundary", ""), MOST_ITEMS)
        return tuple(_file(part) for part in parts), options
    if media == _JSON:
        return _json(body, options)
    # curl calls every body a form unless it is told.
    if media in ("", "application/x-www-form-urlencoded"):
        raise UnsupportedMedia(
            f"say what the body is: {_JSON}, {_FORM}, or the type of the one item, such as image/png"
        )
    return (NewItem(body, header),), options


def _json(body: bytes, options: Options) -> tuple[tuple[NewItem, ...], Options]:
    try:
        said: Mapping[str, Any] = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        # What the query says stands where the body says nothing.
        given = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in _changed(options).items()}
        found = msgspec.json.decode(msgspec.json.encode(given | dict(said)), type=_Body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidInput(f'the body has to be like {{"items": [...], "priority": 0}}: {error}') from None
    if len(found.items) > MOST_ITEMS:
        raise InvalidInput(f"{len(found.items):,} items; one request takes {MOST_ITEMS:,}", field="items")
    items = tuple(_item(bytes(raw), place) for place, raw in enumerate(found.items))
    fields = {name: getattr(found, name) for name in Options.__struct_fields__}
    return items, Options(**fields)


def _changed(options: Options) -> dict[str, Any]:
    default = Options()
    fields = Options.__struct_fields__
    return {name: getattr(options, name) for name in fields if getattr(options, name) != getattr(default, name)}


def _item(raw: bytes, place: int) -> NewItem:
    try:
        value = msgspec.json.decode(raw)
        if isinstance(value, dict) and "base64" in value:
            held = msgspec.convert(value, _Bytes)
            body = b64decode(held.base64, validate=True)
            return NewItem(body, held.type or sniff(body) or _RAW, str(held.id))
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"items[{place}] cannot be read: {error}", field="items") from None
    name = value.get("id", "") if isinstance(value, dict) else ""
    return NewItem(raw, _JSON, str(name) if isinstance(name, str | int) else "")


def _file(part: multipart.Part) -> NewItem:
    if part.filename is None:
        raise InvalidInput(
            f"the form's field {part.name!r:.50} is no file: items are files, as in -F file=@NAME; how they are asked "
            "for is in the query, as in ?priority=5",
            field=part.name,
        )
    said = part.media_type if part.media_type not in ("", _RAW) else ""
    return NewItem(part.body, said or sniff(part.body) or _RAW, part.filename)

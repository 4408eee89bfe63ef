"""What a feedback event may say: the rules that the door and the batch import share."""

import binascii
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, get_args

from rung.domain.errors import InvalidInput
from rung.domain.identity import Identity
from rung.domain.records import FeedbackRecord, Kind, event_id

__all__ = ["FIELDS", "KINDS", "feedback_of", "time_of"]

KINDS: tuple[Kind, ...] = get_args(Kind)
FIELDS = frozenset({"id", "source", "time", "event", "model", *KINDS})
_AHEAD = 300.0
"""Seconds by which a sender's clock may be ahead of ours."""
_LONGEST = 128
_PNG = b"\x89PNG\r\n\x1a\n"


def feedback_of(item: Mapping[str, Any], identity: Identity, received: float) -> FeedbackRecord:
    """Read one event about a verified prediction: `{id, label | mask | score | correction, source?, time?, event?}`.

    Without `event` its content names it: sent twice, it is one. `time` is when it was found out, in seconds since
    the epoch or RFC 3339; without it, now.

    Raises:
        InvalidInput: naming the field.
    """
    unknown = sorted(set(item) - FIELDS)
    if unknown:
        fields = ", ".join(sorted(FIELDS))
        raise InvalidInput(f"there is no field {unknown[0]!r:.50} in feedback: it has {fields}", field=unknown[0])
    said = [kind for kind in KINDS if item.get(kind) is not None]
    if len(said) != 1:
        raise InvalidInput(f"feedback says one of {', '.join(KINDS)}, this says {' and '.join(said) or 'none'}")
    kind = said[0]
    value = item[kind]
    if kind == "score" and not (type(value) in (int, float) and math.isfinite(value)):
        raise InvalidInput(f"score must be a finite number, not {value!r:.50}", field="score")
    if kind == "mask":
        value = _mask(value)
    source = _text(item, "source")
    when = item.get("time")
    time = received if when is None else time_of(when, received)
    content = {kind: value, "source": source} | ({} if when is None else {"time": time})
    return FeedbackRecord(
        _text(item, "event") or event_id(item["id"], content),
        item["id"],
        time,
        received,
        kind,
        value,
        source,
        identity.model,
        identity.version,
        identity.arm,
        identity.time,
    )


def time_of(value: Any, now: float) -> float:
    """Seconds since the epoch of a number, or of RFC 3339 text with a time zone.

    Raises:
        InvalidInput: it is neither, or lies in the future.
    """
    time = math.nan
    if type(value) in (int, float):
        time = float(value)
    elif isinstance(value, str):
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            read = None
        if read is not None and read.tzinfo is not None:
            time = read.timestamp()
    if not math.isfinite(time) or time < 0:
        raise InvalidInput(
            f"time must be seconds since the epoch, or as in 2026-01-31T14:03:00+01:00, not {value!r:.50}", field="time"
        )
    if time > now + _AHEAD:
        raise InvalidInput(f"time {value!r:.50} lies in the future", field="time")
    return time


def _text(item: Mapping[str, Any], field: str) -> str:
    value = item.get(field)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > _LONGEST or not value.isprintable():
        raise InvalidInput(f"{field} must be a text of at most {_LONGEST} printable characters", field=field)
    return value


def _mask(value: Any) -> dict[str, str]:
    """A mask as it is kept: its media type and the base64 of its file."""
    data = value.get("data") if isinstance(value, dict) else value
    if not isinstance(data, str):
        raise InvalidInput("mask must be the base64 text of a PNG file", field="mask")
    try:
        raw = binascii.a2b_base64(data.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidInput("mask must be the base64 text of a PNG file, and this is no base64", field="mask") from None
    if not raw.startswith(_PNG):
        raise InvalidInput("mask must be a PNG file, and this is another", field="mask")
    return {"media": "image/png", "data": data}

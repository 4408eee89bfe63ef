"""A message as bytes for a broker, and what every queue asks of one."""

import re
from collections.abc import Sequence

import msgspec

from rung.domain.errors import ConfigurationError, InvalidInput, TooLarge
from rung.domain.messages import Message

__all__ = ["LINES", "PARTS", "check", "check_name", "decode", "encode", "line_of"]

LINES = ("high", "normal", "low")
"""What a broker knows of priority: above 0, 0, below 0."""
PARTS = 16
"""Lines of messages with a key: each key stands in one of them, and one message of each line is out at a time. A
number that every process of a queue has to share: it never changes."""

_LONGEST_ID = 150
_LONGEST_NAME = 200
_FURTHEST_PRIORITY = 1_000_000
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62})\Z")

encode = msgspec.msgpack.Encoder().encode
"""A message as bytes."""
_decode = msgspec.msgpack.Decoder(Message).decode


def decode(data: bytes) -> Message | None:
    """The message of these bytes; None where they are none of ours."""
    try:
        return _decode(data)
    except msgspec.MsgspecError:
        return None


def line_of(message: Message) -> str:
    """The line of a broker in which a message waits: `high`, `normal`, `low`, or the number of its key's part."""
    if message.key:
        return str(_part(message.key))
    return LINES[1 if not message.priority else 0 if message.priority > 0 else 2]


def _part(key: str) -> int:
    from zlib import crc32

    return crc32(key.encode()) % PARTS


def check_name(name: str) -> str:
    """The name of a queue. Raises `ConfigurationError`."""
    if not _NAME.match(name):
        raise ConfigurationError(
            f"the queue {name!r:.80} needs a name of at most 63 lowercase letters, digits and hyphens"
        )
    return name


def check(messages: Sequence[Message], largest: int) -> None:
    """Refuse what no queue takes.

    Raises:
        InvalidInput: naming the field.
        TooLarge: a body has more than `largest` bytes.
    """
    for message in messages:
        if not 0 < len(message.id) <= _LONGEST_ID or not message.id.isprintable() or " " in message.id:
            raise InvalidInput(
                f"id {message.id!r:.80} has to be 1 to {_LONGEST_ID} printable characters without a space", field="id"
            )
        for field in ("topic", "key", "owner"):
            text: str = getattr(message, field)
            if len(text) > _LONGEST_NAME or (text and not text.isprintable()):
                raise InvalidInput(
                    f"{field} {text!r:.80} has to be at most {_LONGEST_NAME} printable characters", field=field
                )
        if abs(message.priority) > _FURTHEST_PRIORITY:
            raise InvalidInput(f"priority {message.priority} is beyond {_FURTHEST_PRIORITY:,}", field="priority")
        if message.max_attempts < 1:
            raise InvalidInput(f"max_attempts is {message.max_attempts}; one try at least", field="max_attempts")
        if message.replay < 0 or not 0 <= message.deadline < 1e12:
            raise InvalidInput("replay and deadline are numbers from 0", field="deadline")
        if len(message.body) > largest:
            raise TooLarge(
                f"the body of message {message.id} has {len(message.body):,} bytes, and this queue carries "
                f"{largest:,}: put it into the store, and its key into the message"
            )

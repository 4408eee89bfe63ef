"""Frames of a segment file: what finds the end of a torn file, and a bad byte in the middle of a whole one.

    magic 4 | length 4 | checksum 4 | payload        (little-endian)

The checksum is zlib's CRC-32 of the payload, begun with the file's *salt* (a random number in its name): it finds
every error of up to 32 bits in a row, and misses one in 4e9 of the others. The salt keeps a frame that a caller has
hidden in a logged body from being taken for one of ours after damage around it.
"""

import struct
from collections.abc import Iterable, Iterator
from zlib import crc32

import msgspec

__all__ = ["HEADER_BYTES", "MAX_PAYLOAD", "Frame", "Gap", "erased", "frames", "scan"]

MAX_PAYLOAD = 256 << 20
"""Bytes; a longer payload is refused by the writer and taken for damage by the reader."""

_MAGIC = b"\xf5rg\x01"
_ERASED = b"\xf5rg\x00"
_HEADER = struct.Struct("<4sII")
HEADER_BYTES = _HEADER.size


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One whole frame at `[start, end)` of the file."""

    start: int
    end: int
    payload: bytes
    erased: bool = False


class Gap(msgspec.Struct, frozen=True, gc=False):
    """Bytes `[start, end)` that are no frame: torn at the end of a file, damage before it."""

    start: int
    end: int


def frames(payloads: Iterable[bytes], salt: int) -> list[bytes]:
    """Frame payloads for the file of this salt."""
    pack = _HEADER.pack
    return [pack(_MAGIC, len(payload), crc32(payload, salt)) + payload for payload in payloads]


def erased(length: int, salt: int) -> bytes:
    """A frame of `length` payload bytes that says nothing: what stands where a record was erased."""
    blank = bytes(length)
    return _HEADER.pack(_ERASED, length, crc32(blank, salt)) + blank


def scan(data: bytes, salt: int, base: int = 0) -> Iterator[Frame | Gap]:
    """Take bytes apart; `base` is the place of `data` in its file. What is no frame comes as gaps.

    After a gap it goes on with the next whole frame, if there is one.
    """
    at, size = 0, len(data)
    while at < size:
        frame = _frame_at(data, at, salt, base)
        if frame is None:
            start, frame = at, _next_frame(data, at + 1, salt, base)
            if frame is None:
                yield Gap(base + start, base + size)
                return
            yield Gap(base + start, frame.start)
        yield frame
        at = frame.end - base


def _frame_at(data: bytes, at: int, salt: int, base: int) -> Frame | None:
    begin = at + HEADER_BYTES
    if begin > len(data):
        return None
    magic, length, checksum = _HEADER.unpack_from(data, at)
    end = begin + length
    if magic not in (_MAGIC, _ERASED) or end > len(data) or length > MAX_PAYLOAD:
        return None
    payload = data[begin:end]
    if crc32(payload, salt) != checksum:
        return None
    return Frame(base + at, base + end, payload, magic == _ERASED)


def _next_frame(data: bytes, at: int, salt: int, base: int) -> Frame | None:
    while (at := data.find(_MAGIC[:3], at)) >= 0:
        frame = _frame_at(data, at, salt, base)
        if frame is not None:
            return frame
        at += 1
    return None

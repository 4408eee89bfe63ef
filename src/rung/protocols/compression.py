"""Content codings of bodies: gzip and deflate, both ways, with a guard against bombs."""

import gzip
import zlib

from rung.domain.errors import InvalidInput, TooLarge, UnsupportedMedia

__all__ = ["compress", "decompress", "worth_compressing"]

_WINDOW = {b"gzip": zlib.MAX_WBITS | 16, b"x-gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}
_FREE = 1 << 20
"""Bytes that may come out of however few: below this a ratio says nothing."""
_RATIO = 100
"""Beyond that, how much larger than what came in the result may be."""

_LONGEST = 1 << 20
"""Larger replies go out as they are: compressing happens on the event loop, at some 100 MB a second."""


def decompress(body: bytes, coding: bytes, limit: int) -> bytes:
    """Undo one content coding.

    Raises:
        UnsupportedMedia: the coding is not gzip or deflate.
        TooLarge: the result is over `limit` bytes, or grows like a decompression bomb.
        InvalidInput: the body is not what its coding says.
    """
    try:
        window = _WINDOW[coding]
    except KeyError:
        raise UnsupportedMedia(
            f"content-encoding {coding.decode('latin-1')!r:.60} is not read here: use gzip, deflate or none"
        ) from None
    bound = min(limit, max(_FREE, _RATIO * len(body)))
    engine = zlib.decompressobj(window)
    try:
        data = engine.decompress(body, bound + 1)
        if coding == b"deflate" and not engine.eof and len(data) <= bound:
            data += engine.flush()
    except zlib.error as error:
        raise InvalidInput(f"the body is not valid {coding.decode()}: {error}") from None
    if len(data) > bound:
        over = f"{limit} bytes" if bound == limit else f"{_RATIO} times its compressed size"
        raise TooLarge(f"the body grows beyond {over} when decompressed")
    if not engine.eof:
        raise InvalidInput(f"the {coding.decode()} body is cut off")
    if engine.unused_data:
        raise InvalidInput(f"bytes follow the end of the {coding.decode()} body")
    return data


def worth_compressing(media: bytes, size: int) -> bool:
    """Whether gzip can pay: text of more than one packet, never pictures, nothing that would hold up the others."""
    return 1400 <= size <= _LONGEST and (
        media.startswith((b"application/json", b"text/")) or media == b"application/octet-stream"
    )


def compress(body: bytes) -> bytes:
    """Gzip at the fastest level: tensors rarely repay more."""
    return gzip.compress(body, compresslevel=1, mtime=0)

"""One HTTP exchange as the protocols see it: the head, the body, the reply, and where it goes.

A `Head` is parsed once and reused for every request of a connection whose bytes up to the blank
line are the same, so it is immutable but for `memo`, in which an endpoint may keep what it derived
from the head alone (the accepted media type, the model's name, the header length).
"""

import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec

from rung.domain.access import Needs
from rung.domain.errors import NotFound, RungError
from rung.domain.predictions import Call

__all__ = ["Endpoint", "Head", "Reply", "Route"]

_GZIP = re.compile(rb"(?:^|,)\s*gzip\s*(?:,|$|;(?!\s*q\s*=\s*0(?:\.0*)?\s*(?:,|$)))")
"""`gzip` among the codings accepted, but not with the weight 0, which forbids it."""


class Head:
    """The request line and headers."""

    __slots__ = (
        "accepts_gzip",
        "coding",
        "endpoint",
        "errors",
        "headers",
        "keep_alive",
        "length",
        "memo",
        "method",
        "params",
        "path",
        "query",
        "refused",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[bytes, bytes],
        *,
        keep_alive: bool = True,
        length: int = 0,
    ) -> None:
        self.method = method
        self.path = path
        """Percent-decoded."""
        self.query = query
        """Not decoded; empty when there is none."""
        self.headers = headers
        """Lower-case names. A repeated header is joined by a comma."""
        self.keep_alive = keep_alive
        self.length = length
        """Of the body in bytes; -1 when it is chunked."""
        self.params: Mapping[str, str] = {}
        """What the `{braces}` of the route matched."""
        self.endpoint: Endpoint = _nowhere
        self.errors: Callable[[Exception], Reply] | None = None
        self.coding = headers.get(b"content-encoding", b"").lower()
        """Of the body as it came; the endpoint sees it decoded."""
        self.accepts_gzip = _GZIP.search(headers.get(b"accept-encoding", b"").lower()) is not None
        self.memo: Any = None
        self.refused: RungError | None = None
        """Why nothing with this head is answered, whatever its body."""


class Reply(msgspec.Struct, gc=False):
    """Status, media type and body. The door adds length, connection and compression."""

    status: int
    body: bytes | tuple[Any, ...] = b""
    """Bytes, or parts to be written one after another."""
    media: bytes = b"application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


Endpoint = Callable[[Head, bytes, Call], Coroutine[Any, Any, Reply]]
"""`endpoint(head, body, call)`: the body decoded, and the request as what looks at no protocol sees it.

It returns a reply or raises a `RungError`, which the door turns into one by the route's `errors`.
"""


async def _nowhere(head: Head, body: bytes, call: Call) -> Reply:
    raise NotFound(f"nothing answers at {head.path}")


class Route(msgspec.Struct, frozen=True):
    """Where a method and path go. `{name}` matches one path segment without a slash, `{name}:verb` one that ends so."""

    method: str
    pattern: str
    endpoint: Endpoint
    errors: Callable[[Exception], Reply] | None = None
    """How this protocol writes an error; None for `{"error": ...}`."""
    needs: Needs = "caller"
    """Which role may ask, where keys are asked for; `open` is for probes and scrapers."""

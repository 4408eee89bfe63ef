"""Who may call, and how much they may send: looked at before a route is."""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from rung.domain.errors import Forbidden, RungError, TooLarge, Unauthenticated
from rung.protocols.status import error_body, status_of

__all__ = ["Access"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that probes ask, which carry no key."""
_LOCAL = frozenset({"127.0.0.1", "localhost", "[::1]"})
_LARGEST = 1 << 20
_LINGER = 8 << 20
_LINGER_SECONDS = 2.0


class Access:
    """Wraps an ASGI application.

    With keys, every path but those of probes wants `Authorization: Bearer KEY`. Without keys only this machine can
    connect, and what must be kept out is a web page in its browser: a request has to name this machine as its host,
    and may not come from another origin.
    """

    def __init__(self, inner: Any, keys: tuple[str, ...] = ()) -> None:
        self._inner = inner
        # Digests have one length, so that comparing them takes one time.
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        try:
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            self._check(str(scope["path"]), headers)
            body = await _body(headers, receive)
        except RungError as error:
            if isinstance(error, TooLarge):
                await _read_away(receive)
            await _refuse(error, send)
            return
        if body is None:
            return  # the caller left
        told = False

        async def replay() -> _Message:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        # What a route failed on has been answered and logged; Starlette raises it again, for uvicorn to log twice.
        with suppress(Exception):
            await self._inner(scope, replay, send)

    def _check(self, path: str, headers: dict[bytes, str]) -> None:
        if path in _OPEN:
            return
        if self._keys:
            scheme, _, key = headers.get(b"authorization", "").partition(" ")
            digest = hashlib.sha256(key.strip().encode("latin-1")).digest()
            # Every key is compared, so that the time says nothing about which.
            matches = [hmac.compare_digest(digest, known) for known in self._keys]
            if scheme.lower() != "bearer" or not any(matches):
                raise Unauthenticated
            return
        host = headers.get(b"host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name.lower() not in _LOCAL:
            raise Forbidden("this API answers only under the names of this machine: localhost or 127.0.0.1")
        origin = headers.get(b"origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise Forbidden("a web page of another origin may not use this API")


async def _body(headers: dict[bytes, str], receive: _Receive) -> bytes | None:
    length = headers.get(b"content-length", "0")
    if length.isdecimal() and int(length) > _LARGEST:
        raise TooLarge(f"the body has {length} bytes; at most {_LARGEST} are taken here")
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > _LARGEST:
            raise TooLarge(f"the body has more than {_LARGEST} bytes, which is the most that is taken here")
        if not message.get("more_body"):
            return b"".join(parts)


async def _read_away(receive: _Receive) -> None:
    """Throw away what the caller still sends, within bounds: closing on it would reset the refusal away."""
    left = _LINGER
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body"):
                    return


async def _refuse(error: RungError, send: _Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status_of(error), "headers": headers})
    await send({"type": "http.response.body", "body": error_body(str(error))})

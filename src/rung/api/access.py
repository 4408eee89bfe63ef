"""Who may call, and how much they may send: looked at before a route is. Every change leaves an audit line."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from time import monotonic, time
from typing import Any

import msgspec
import structlog

from rung.api.roles import Wanted
from rung.domain.access import Bucket, Key, Ring, permit, read_bearer
from rung.domain.errors import Forbidden, NotReady, Overloaded, RungError, TooLarge
from rung.protocols.status import error_reply
from rung.serving.background import in_background
from rung.store.access import KeyStore
from rung.store.audit import AuditLine, AuditLog, Outcome

__all__ = ["Access"]

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_OPEN = frozenset({"/healthz", "/readyz"})
"""Paths that probes ask, which carry no key."""
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOCAL = frozenset({"127.0.0.1", "localhost", "[::1]"})
_ROOM = 128 << 20
"""Bytes of bodies above a usual size that are held at once."""
_USUAL = 1 << 20
_LINGER = 64 << 20
"""Bytes of a refused body that are read, and thrown away."""
_LINGER_SECONDS = 2.0
_FRESH = 1.0
"""Seconds for which the keys that were read last count."""


class Access:
    """Wraps an ASGI application.

    Where there are keys, every path but those of probes wants `Authorization: Bearer KEY` of the role that its route
    states. Without keys only this machine can connect, and what must be kept out is a web page in its browser: a
    request has to name this machine as its host, and may not come from another origin.

    What callers ask of models leaves no line in the audit log: it changes nothing for others, and must not fill it.
    """

    def __init__(self, inner: Any, keys: KeyStore, wanted: Callable[[Any], Wanted], audit: AuditLog) -> None:
        self._inner = inner
        self._keys = keys
        self._wanted = wanted
        self._audit = audit
        self._ring: Ring | None = None
        self._read = 0.0
        # Whoever has no key must not be able to write the audit log full.
        self._strangers = Bucket(1.0, 100)
        self._room = _Room(_ROOM)
        self._log = structlog.get_logger("rung.api")

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        told, held = _Told(send), _Held(self._room)
        try:
            passed = await self._pass(scope, receive, told, held)
        finally:
            held.give_back()
        if passed is None or scope["method"] in _READS:
            return
        key, wanted = passed
        if wanted.role != "caller" or told.status in (401, 403):
            await self._remember(scope, key, told)

    async def _pass(
        self, scope: _Message, receive: _Receive, told: "_Told", held: "_Held"
    ) -> tuple[Key | None, Wanted] | None:
        """Let a request through or refuse it; returns whose it was, and what it took. None: the caller left."""
        key: Key | None = None
        wanted = self._wanted(scope)
        headers = dict(scope["headers"])
        try:
            key = await self._check(str(scope["path"]), headers)
            scope["rung.key"] = key
            if key is not None:
                permit(key, wanted.role, wanted.model)
            body = await _body(headers, receive, wanted.largest, held)
        except RungError as error:
            # Who waits to be asked for the body sends none.
            if headers.get(b"expect", b"").lower() != b"100-continue":
                await _read_away(receive)
            await _refuse(error, told.send)
            return key, wanted
        if body is None:
            return None
        # What a route failed on has been answered and logged; Starlette raises it again, for uvicorn to log twice.
        with suppress(Exception):
            await self._inner(scope, _replay(body, receive), told.send)
        return key, wanted

    async def _check(self, path: str, headers: dict[bytes, bytes]) -> Key | None:
        """The key that the request came with; None where none is asked for."""
        if path in _OPEN:
            return None
        ring = await self._current()
        if ring.guards_control:
            return ring.find(read_bearer(headers), time())
        host = headers.get(b"host", b"").decode("latin-1")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name.lower() not in _LOCAL:
            raise Forbidden("this API answers only under the names of this machine: localhost or 127.0.0.1")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").partition("://")[2] != host:
            raise Forbidden("a web page of another origin may not use this API")
        return None

    async def _current(self) -> Ring:
        """The keys, read again once a second; those that cannot be read stay as they were."""
        now = monotonic()
        if self._ring is None or now - self._read > _FRESH:
            try:
                self._ring, self._read = await in_background(self._keys.ring), now
            except (RungError, OSError) as error:
                if self._ring is None:
                    raise NotReady(f"the keys cannot be read: {error}") from error
        return self._ring

    async def _remember(self, scope: _Message, key: Key | None, told: "_Told") -> None:
        """Write the audit line of a change."""
        outcome: Outcome = "done" if told.status < 400 else "refused" if told.status in (401, 403) else "failed"
        client = scope.get("client") or ("",)
        line = AuditLine(
            by=key.name if key else "",
            key=key.id if key else "",
            role=key.role if key else "",
            via="api",
            what=f"{scope['method']} {scope['path']}",
            outcome=outcome,
            why=told.why(),
            address=str(client[0]),
        )
        if outcome == "refused":
            if key is None and self._strangers.take(monotonic()):
                return
            self._log.warning("a change was refused", action="refused", by=line.by, what=line.what, reason=line.why)
        try:
            await in_background(self._audit.write, line)
        except OSError as error:
            self._log.error("the audit log cannot be written", action="audit_failed", what=line.what, reason=str(error))


class _Told:
    """Passes the answer on, and keeps what the audit says of it."""

    def __init__(self, send: _Send) -> None:
        self._send = send
        self.status = 500
        self._error = b""

    async def send(self, message: _Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
        elif self.status >= 400 and not self._error:
            self._error = bytes(message.get("body", b""))
        await self._send(message)

    def why(self) -> str:
        """The sentence of a refusal."""
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            return str(msgspec.json.decode(self._error, type=dict[str, Any]).get("error", ""))
        return ""


def _replay(body: bytes, receive: _Receive) -> _Receive:
    told = False

    async def replay() -> _Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class _Room:
    """Memory for large bodies, of all requests together."""

    def __init__(self, size: int) -> None:
        self.left = size


class _Held:
    """What one request has of it."""

    def __init__(self, room: _Room) -> None:
        self._room = room
        self._size = 0

    def grow(self, size: int) -> None:
        """Take as much as a body of this size needs. Raises `Overloaded`."""
        more = size - self._size
        if size <= _USUAL or more <= 0:
            return
        if more > self._room.left:
            raise Overloaded("too many large bodies are on their way at once; try again", retry_after=1.0)
        self._room.left -= more
        self._size = size

    def give_back(self) -> None:
        """The body is not needed any more."""
        self._room.left += self._size
        self._size = 0


async def _body(headers: dict[bytes, bytes], receive: _Receive, largest: int, held: _Held) -> bytes | None:
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > largest:
        raise TooLarge(f"the body has {int(length)} bytes; at most {largest} are taken here")
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > largest:
            raise TooLarge(f"the body has more than {largest} bytes, which is the most that is taken here")
        held.grow(size)
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
    reply = error_reply(error)
    headers = [(b"content-type", b"application/json"), (b"connection", b"close"), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})

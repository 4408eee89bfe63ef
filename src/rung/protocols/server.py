"""The listening side of the door: connections, time limits, drain, and what they have in common."""

import asyncio
import resource
import socket
import ssl
from collections import defaultdict
from email.utils import formatdate
from time import monotonic
from typing import Any

import structlog

from rung.domain.errors import ConfigurationError, RungError
from rung.protocols import status
from rung.protocols.access import Guard
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.http import Connection, Exchange, FrontConnection
from rung.protocols.reader import HeadMemory
from rung.protocols.router import Router
from rung.settings import DoorSettings

__all__ = ["HttpServer"]

_OPENINGS = 1024
_SWEEP_SECONDS = 1.0
_OTHER_FILES = 512
"""File descriptors for whatever is no connection."""


class HttpServer:
    """Listening sockets and their connections.

    Guarantees:
        1. Every request that was read whole gets one reply, unless its caller leaves.
        2. `drain` stops listening, answers what is in work and what still comes in on open
           connections with `Connection: close`, and returns when all are closed or time is up.
        3. Memory per connection is bounded by the limits of its settings.
    """

    def __init__(
        self,
        routes: list[Route],
        settings: DoorSettings,
        *,
        access_log: bool = False,
        guard: Guard | None = None,
    ) -> None:
        self.settings = settings
        self.memory = HeadMemory(Router(routes, guard))
        if guard is not None:
            # What was worked out by other keys counts no more.
            guard.on_change = self.memory.known.clear
        self.draining = False
        self.statuses: defaultdict[int, int] = defaultdict(int)
        """Status -> replies."""
        self._connections: set[Connection] = set()
        self._openings: dict[Any, bytes] = {}
        self._date = b""
        self.access_log = access_log
        self._listeners: list[asyncio.Server] = []
        self._sweeper: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger("rung.door")

    async def open(self, host: str, port: int, *, reuse_port: bool = False, tls: ssl.SSLContext | None = None) -> int:
        """Listen; return the port, which the kernel chose if `port` is 0. May be called for several addresses.

        With `reuse_port` other processes of the same user may listen beside us; the kernel gives each connection to
        one of them.

        Raises:
            ConfigurationError: the address or port cannot be had.
        """
        loop = asyncio.get_running_loop()
        _allow_files(self.settings.max_connections + _OTHER_FILES)
        try:
            listener = await loop.create_server(
                lambda: Connection(self),  # type: ignore[arg-type, return-value]
                host,
                port,
                backlog=1024,
                reuse_port=reuse_port,
                start_serving=True,
                ssl=tls,
                ssl_handshake_timeout=None if tls is None else self.settings.head_seconds,
            )
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigurationError(
                f"cannot listen on {host}:{port}: {reason}; choose another with --port (0 picks a free one) or --host"
            ) from None
        if not self._listeners:
            self._sweep()
        self._listeners.append(listener)
        bound: socket.socket = listener.sockets[0]
        return int(bound.getsockname()[1])

    async def open_front(self, path: str) -> None:
        """Listen at a path, in a folder of ours alone, for the front: it says in a header which address it speaks for.

        Raises:
            ConfigurationError: there can be no socket.
        """
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_unix_server(lambda: FrontConnection(self), path, backlog=1024)  # type: ignore[arg-type, return-value]
        except OSError as error:
            raise ConfigurationError(f"no socket can be made at {path}: {error.strerror or error}") from None
        self._listeners.append(listener)

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._connections)

    async def drain(self) -> None:
        """Stop taking connections, answer what is owed, close. Within `drain_seconds`."""
        self.draining = True
        self._openings.clear()
        if self._listeners:
            # One turn of the loop first: connections that the kernel has completed are ours to answer.
            await asyncio.sleep(0)
        for listener in self._listeners:
            listener.close()
        deadline = monotonic() + self.settings.drain_seconds
        for connection in self._connections:
            connection.hasten()
        while self._connections and monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._connections:
            self._log.warning(
                "connections were cut at the drain limit", action="drain_cut", count=len(self._connections)
            )
        for connection in list(self._connections):
            if connection.transport is not None:
                connection.transport.abort()

    # --- called by connections --------------------------------------------------------------

    def admit(self, connection: Connection) -> bool:
        """Whether there is room for one more."""
        if len(self._connections) >= self.settings.max_connections:
            return False
        self._connections.add(connection)
        return True

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)

    def refusal(self, error: Exception, head: Head) -> Reply:
        """The reply for an error of an endpoint, in the protocol's own shape."""
        if not isinstance(error, RungError):
            self._log.error("an endpoint failed", action="endpoint_failed", path=head.path, exc_info=error)
        return (head.errors or status.error_reply)(error)

    def opening(
        self, code: int, media: bytes, headers: tuple[tuple[bytes, bytes], ...], close: bool, length: int
    ) -> bytes:
        """Status line and headers of a reply, which is counted. Remembered for the current second."""
        self.statuses[code] += 1
        key = (code, media, headers, close, length)
        known = self._openings.get(key)
        if known is not None:
            return known
        lines = [status.STATUS_LINES[code], b"date: ", self._date, b"\r\n"]
        if media:
            lines += [b"content-type: ", media, b"\r\n"]
        for name, value in headers:
            lines += [name, b": ", value.replace(b"\r", b" ").replace(b"\n", b" "), b"\r\n"]
        if close:
            lines.append(b"connection: close\r\n")
        lines.append(b"content-length: %d\r\n\r\n" % length)
        if len(self._openings) >= _OPENINGS:
            self._openings.clear()
        made = self._openings[key] = b"".join(lines)
        return made

    def log_reply(self, exchange: Exchange, reply: Reply) -> None:
        """Write a line about a reply."""
        self._log.info(
            "answered",
            action="access",
            method=exchange.head.method,
            path=exchange.head.path,
            status=reply.status,
            ms=round((monotonic() - exchange.call.arrived) * 1e3, 3),
        )

    def _sweep(self) -> None:
        now = monotonic()
        self._date = formatdate(usegmt=True).encode()
        self._openings.clear()
        for connection in [one for one in self._connections if one.overdue(now)]:
            if connection.transport is not None:
                connection.transport.abort()
        self._sweeper = asyncio.get_running_loop().call_later(
            _SWEEP_SECONDS if not self.draining else _SWEEP_SECONDS / 4, self._sweep
        )


def _allow_files(wanted: int) -> None:
    """Each connection is a file, and many systems start a process with 1,024: ask for as many as may be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))

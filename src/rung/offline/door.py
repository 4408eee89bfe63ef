"""Asks the data ports of replicas: HTTP/1.1 over connections that are kept, one request at a time on each.

Many requests at once are what lets a replica put them into one batch.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import httptools
import msgspec

from rung.domain.errors import NotReady

__all__ = ["Ask", "Broken", "Door", "Reply"]

_CONNECT_SECONDS = 5.0


class Ask(msgspec.Struct, frozen=True):
    """A request for a replica."""

    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Reply(msgspec.Struct, frozen=True):
    """What a replica answered."""

    status: int
    headers: Mapping[str, str]
    """Lower-case names."""
    body: bytes


class Broken(Exception):
    """The connection ended, or nothing came in time, after the request may have been read: it may have been tried."""


class Door:
    """The replicas of a project, each asked for its share.

    Args:
        addresses: URLs of those that answer now, such as `http://127.0.0.1:43210`; asked before each request.
    """

    def __init__(self, addresses: Callable[[], Sequence[str]]) -> None:
        self._addresses = addresses
        self._idle: dict[str, list[_Line]] = {}
        self._busy: dict[str, int] = {}

    async def ask(self, request: Ask, seconds: float) -> Reply:
        """Ask the replica that has the fewest of our requests.

        Raises:
            NotReady: nobody answers there; nothing was tried.
            Broken: it did not answer to the end, or not within so many seconds.
        """
        addresses = self._addresses()
        if not addresses:
            raise NotReady("no replica answers now")
        address = min(addresses, key=lambda one: self._busy.get(one, 0))
        self._busy[address] = self._busy.get(address, 0) + 1
        try:
            async with asyncio.timeout(seconds):
                return await self._ask(address, request)
        except TimeoutError:
            raise Broken(f"the replica gave no answer within {seconds:g} seconds") from None
        finally:
            self._busy[address] -= 1
            if not self._busy[address]:
                del self._busy[address]
                self._forget(addresses)

    async def _ask(self, address: str, request: Ask) -> Reply:
        idle = self._idle.setdefault(address, [])
        while idle:
            line = idle.pop()
            if not line.closed:
                break
        else:
            line = await _connect(address)
        try:
            reply = await line.ask(_written(address, request))
        except BaseException:
            line.close()
            raise
        if not line.closed:
            idle.append(line)
        return reply

    def _forget(self, addresses: Sequence[str]) -> None:
        """Close connections to replicas that are gone."""
        for gone in [one for one in self._idle if one not in addresses and one not in self._busy]:
            for line in self._idle.pop(gone):
                line.close()

    def close(self) -> None:
        """Close every connection that is not in use."""
        for lines in self._idle.values():
            for line in lines:
                line.close()
        self._idle.clear()


class _Line(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.closed = False
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[Reply] | None = None
        self._headers: dict[str, str] = {}
        self._parts: list[bytes] = []

    def ask(self, data: bytes) -> "asyncio.Future[Reply]":
        """Send a request; its answer comes later."""
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._headers, self._parts = {}, []
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(data)
        return self._answer

    def close(self) -> None:
        """Hang up."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    # --- what asyncio calls -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"the replica's answer is no HTTP: {error}")
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._break("the replica ended the connection before it had answered: it may have died of this input")

    def _break(self, why: str) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Broken(why))

    # --- what the parser calls --------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        reply = Reply(self._parser.get_status_code(), self._headers, b"".join(self._parts))
        if not self._parser.should_keep_alive():
            self.closed = True
        answer = self._answer
        if answer is not None and not answer.done():
            answer.set_result(reply)


async def _connect(address: str) -> _Line:
    parts = urlsplit(address)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, line = await loop.create_connection(_Line, parts.hostname or "", parts.port or 80)
    except (OSError, TimeoutError) as error:
        raise NotReady(f"the replica at {address} cannot be reached: {error or type(error).__name__}") from None
    return line


def _written(address: str, request: Ask) -> bytes:
    head = [f"POST {request.path} HTTP/1.1", f"host: {urlsplit(address).netloc}"]
    head += [f"{name}: {value}" for name, value in request.headers]
    head += [f"content-length: {len(request.body)}", "", ""]
    return "\r\n".join(head).encode("latin-1") + request.body

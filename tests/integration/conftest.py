"""The HTTP door on a port of the kernel's choice, and a client that sends what it is told, byte by byte."""

import asyncio
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from threading import Event, Thread
from typing import Any

import msgspec
import pytest
import uvloop

from rung.domain.errors import Cancelled, DeadlineExceeded, NotReady, Overloaded
from rung.domain.predictions import Call
from rung.protocols import http, server
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.http import Connection
from rung.protocols.server import HttpServer
from rung.settings import DoorSettings

PATIENCE = 15.0


class Answer(msgspec.Struct):
    """A reply as it came."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._rest = b""

    def send(self, data: bytes) -> "Client":
        self.socket.sendall(data)
        return self

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request and read its reply. `content_type=` becomes `content-type:`."""
        lines = [f"{method} {target} HTTP/1.1", "Host: door", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode() + body)
        return self.answer(bodiless=method == "HEAD")

    def answer(self, *, bodiless: bool = False) -> Answer:
        """Read one reply."""
        head = self._until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        assert len(headers) == len(head) - 3, f"a header is repeated: {head}"
        length = 0 if bodiless else int(headers["content-length"])
        while len(self._rest) < length:
            self._rest += self._receive()
        body, self._rest = self._rest[:length], self._rest[length:]
        return Answer(int(head[0].split()[1]), headers, body)

    def ended(self) -> bytes:
        """Wait for the server to close, and return what came before. A reset counts as closed."""
        try:
            while data := self.socket.recv(1 << 20):
                self._rest += data
        except ConnectionResetError:
            pass
        return self._rest

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._rest:
            self._rest += self._receive()
        head, mark, self._rest = self._rest.partition(mark)
        return head + mark

    def _receive(self) -> bytes:
        data = self.socket.recv(1 << 20)
        assert data, f"the server closed after {self._rest[:200]!r}"
        return data


class Desk:
    """Endpoints that do as a test says."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[None]] = {}
        self.entered: dict[str, Event] = {}
        self.cancelled: dict[str, Event] = {}

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/plain", self.plain),
            Route("POST", "/echo", self.echo),
            Route("POST", "/held/{key}", self.held),
            Route("GET", "/large/{bytes}", self.large),
            Route("GET", "/json/{bytes}", self.json),
            Route("GET", "/fails/{how}", self.fails),
        ]

    async def plain(self, head: Head, body: bytes, call: Call) -> Reply:
        return Reply(200, b"plain", b"text/plain")

    async def echo(self, head: Head, body: bytes, call: Call) -> Reply:
        return Reply(200, body, b"application/octet-stream")

    async def held(self, head: Head, body: bytes, call: Call) -> Reply:
        key = head.params["key"]
        self.waiting[key] = asyncio.get_running_loop().create_future()
        self.on(self.entered, key).set()
        try:
            await self.waiting[key]
        except Cancelled:
            self.on(self.cancelled, key).set()
            raise
        return Reply(200, key.encode(), b"text/plain")

    async def large(self, head: Head, body: bytes, call: Call) -> Reply:
        return Reply(200, (bytes(int(head.params["bytes"])),), b"image/png")

    async def json(self, head: Head, body: bytes, call: Call) -> Reply:
        return Reply(200, b'"' + b"a" * (int(head.params["bytes"]) - 2) + b'"')

    async def fails(self, head: Head, body: bytes, call: Call) -> Reply:
        errors = {
            "overloaded": Overloaded("there is too much to do", retry_after=2.4),
            "late": DeadlineExceeded("too late"),
            "loading": NotReady("not yet"),
        }
        raise errors.get(head.params["how"]) or ValueError("an inner secret")

    @staticmethod
    def on(events: dict[str, Event], key: str) -> Event:
        return events.setdefault(key, Event())


class Door:
    """An `HttpServer` in a thread, on uvloop as in a replica."""

    def __init__(self, settings: DoorSettings, *, access_log: bool = False) -> None:
        self.desk = Desk()
        self.server = HttpServer(self.desk.routes(), settings, access_log=access_log)
        self.complaints: list[dict[str, Any]] = []
        """What reached the exception handler of the loop."""
        self.port = 0
        self.bytes_read = 0
        self.loop = uvloop.new_event_loop()
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self._thread = Thread(target=self.loop.run_forever, daemon=True)
        self._clients: list[Client] = []

    def open(self) -> "Door":
        self._thread.start()
        self.port = self.run(self.server.open("127.0.0.1", 0))
        return self

    def close(self) -> None:
        for client in self._clients:
            client.socket.close()
        self.run(self.server.drain())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()

    def client(self) -> Client:
        client = Client(self.port)
        self._clients.append(client)
        return client

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the loop of the door."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def entered(self, key: str) -> None:
        """Wait until a request is held under this key."""
        assert self.desk.on(self.desk.entered, key).wait(PATIENCE), f"nothing is held under {key}"

    def release(self, key: str, error: Exception | None = None) -> None:
        """Let a request go on that is held."""
        self.entered(key)
        future = self.desk.waiting[key]
        if error is None:
            self.loop.call_soon_threadsafe(future.set_result, None)
        else:
            self.loop.call_soon_threadsafe(future.set_exception, error)

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, "it never came about"
            time.sleep(0.005)


MakeDoor = Callable[..., Door]


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeDoor]:
    """`door(**limits) -> Door`. At the end, nothing may have reached the loop's exception handler."""
    doors: list[Door] = []

    def make(*, access_log: bool = False, **limits: Any) -> Door:
        one = Door(DoorSettings(**{"drain_seconds": 0.2, **limits}), access_log=access_log).open()
        doors.append(one)
        return one

    received = Connection.data_received

    def counted(connection: Connection, data: bytes) -> None:
        for one in doors:
            one.bytes_read += len(data)
        received(connection, data)

    monkeypatch.setattr(Connection, "data_received", counted)
    # Limits are looked after once a second; tests have no time for that.
    monkeypatch.setattr(server, "_SWEEP_SECONDS", 0.1)
    monkeypatch.setattr(http, "_LINGER_SECONDS", 0.5)
    yield make
    for one in doors:
        one.close()
        assert one.complaints == []

"""What one request on the tiny model costs inside a replica, without sockets, in microseconds.

Bytes go into the door's protocol object and replies come out at a transport that only counts, so the
kernel and the load generator are left out. The door alone is timed on an endpoint that does nothing,
the model alone on the same rows; what remains is decoding, batching and encoding.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter_ns

import numpy as np
import uvloop
from processes import OUT
from report import table, write
from workloads import BODIES, SHAPES, BenchError, prepare

from rung.app.replica import Replica
from rung.catalog.source import open_source
from rung.domain.predictions import Call
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.http import Connection
from rung.protocols.server import HttpServer
from rung.settings import ServeSettings

__all__ = ["hot_path"]

TURNS = {1: 4000, 32: 400}
"""Requests in one turn of the event loop -> turns timed at once."""
REPEATS = 7


class Sink:
    """Stands in for the transport of a client that is never slow."""

    def __init__(self) -> None:
        self.replies = 0
        self.last = b""

    def write(self, data: bytes) -> None:
        self.replies += 1
        self.last = data

    def writelines(self, parts: list[bytes]) -> None:
        self.write(b"".join(parts))

    def get_extra_info(self, name: str) -> tuple[str, int]:
        return "127.0.0.1", 1

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True


class Clients:
    """So many keep-alive connections; a call sends one request on each."""

    def __init__(self, server: HttpServer, wire: bytes, count: int) -> None:
        self._wire = wire
        self._calls = 0
        self._connections = [Connection(server) for _ in range(count)]
        self._sinks = [Sink() for _ in range(count)]
        for connection, sink in zip(self._connections, self._sinks, strict=True):
            connection.connection_made(sink)  # type: ignore[arg-type]

    def __call__(self) -> None:
        self._calls += 1
        for connection in self._connections:
            connection.data_received(self._wire)

    def check(self) -> None:
        """Raise `BenchError` unless every request was answered, the last one well."""
        for sink in self._sinks:
            if sink.replies != self._calls or not sink.last.startswith(b"HTTP/1.1 200"):
                raise BenchError(f"{sink.replies} replies to {self._calls} requests, the last: {sink.last[:200]!r}")


def hot_path() -> None:
    """Print the table."""
    uvloop.run(_measure())


async def _measure() -> None:
    workload = prepare("tiny", OUT / "models")
    replica = Replica([open_source(str(workload.file), None, OUT / "cache")], ServeSettings(port=0))
    await replica.manager.open()
    paths = {request.path for request in workload.requests.values()}
    empty = HttpServer([Route("POST", path, _nothing) for path in paths], ServeSettings().door)
    lines, data = [], {}
    for together in TURNS:
        turn = await _per_turn(together, lambda: None)
        model = _model_alone(replica, together)
        for body in BODIES:
            costs = []
            for server in (replica.door, empty):
                clients = Clients(server, workload.requests[body].wire(8000), together)
                costs.append(await _per_turn(together, clients) - turn)
                clients.check()
            whole, door = costs
            split = [ns / together / 1e3 for ns in (whole, door, model, whole - door - model)]
            data[f"{body} {together}"] = dict(zip(("whole", "door", "model", "rest"), split, strict=True))
            lines.append([body, str(together), *[f"{us:.2f}" for us in split], f"{1e6 / split[0]:,.0f}"])
    await replica.manager.close()
    head = ["body", "in one turn", "whole us", "door", "model", "decode, batch, encode", "requests/s at most"]
    write("hot-path", "## one request on the tiny model, without sockets\n\n" + table(head, lines), data, OUT)


async def _nothing(head: Head, body: bytes, call: Call) -> Reply:
    return Reply(200, b"twelve bytes", b"application/octet-stream")


async def _per_turn(together: int, call: Callable[[], None]) -> float:
    """Median nanoseconds of a turn of the loop with this call in it, and all that the call leads to."""
    turns = TURNS[together]
    times = []
    for _ in range(REPEATS):
        started = perf_counter_ns()
        for _ in range(turns):
            call()
            await asyncio.sleep(0)
        times.append((perf_counter_ns() - started) / turns)
    await asyncio.sleep(0.01)
    return median(times)


def _model_alone(replica: Replica, rows: int) -> float:
    model = replica.manager.servables()[0].model
    call = partial(model.predict, {"x": np.zeros((rows, *SHAPES["tiny"][1:]), np.float32)})
    times = []
    for _ in range(REPEATS):
        started = perf_counter_ns()
        for _ in range(1000):
            call()
        times.append((perf_counter_ns() - started) / 1000)
    return median(times)

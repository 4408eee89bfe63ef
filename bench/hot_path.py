"""What one request on the tiny model costs inside a replica, without sockets, in microseconds.

Bytes go into the door's protocol object and replies come out at a transport that only counts, so the
kernel and the load generator are left out. The door alone is timed on an endpoint that does nothing,
the model alone on the same rows; what remains is decoding, batching and encoding.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import numpy as np
import uvloop
from processes import OUT
from report import table, write
from workloads import BODIES, SHAPES, BenchError, prepare

from rung.app import Replica
from rung.catalog.source import open_source
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

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True


def hot_path() -> None:
    """Print the table."""
    uvloop.run(_measure())


async def _measure() -> None:
    workload = prepare("tiny", OUT / "models")
    replica = Replica([open_source(str(workload.file), None, OUT / "cache")], ServeSettings(port=0))
    await replica.manager.open()
    door = HttpServer(
        [Route("POST", workload.requests[body].path, _nothing) for body in ("raw", "json")], ServeSettings().door
    )
    lines, data = [], {}
    for together in TURNS:
        turn = await _per_turn(together, lambda: None)
        model = _model_alone(replica, together)
        for body in BODIES:
            wire = workload.requests[body].wire(8000)
            whole = await _per_turn(together, _feed(replica.door, wire, together)) - turn
            bare = await _per_turn(together, _feed(door, wire, together)) - turn
            split = {"whole": whole, "door": bare, "model": model, "rest": whole - bare - model}
            split = {name: ns / together / 1e3 for name, ns in split.items()}
            data[f"{body} {together}"] = split
            lines.append([body, str(together), *[f"{us:.2f}" for us in split.values()], f"{1e6 / split['whole']:,.0f}"])
    await replica.manager.close()
    head = ["body", "in one turn", "whole us", "door", "model", "decode, batch, encode", "requests/s at most"]
    write("hot_path", "## one request on the tiny model, without sockets\n\n" + table(head, lines), data, OUT)


async def _nothing(head: Head, body: bytes, arrived: float) -> Reply:
    return Reply(200, b"twelve bytes", b"application/octet-stream")


def _feed(server: HttpServer, wire: bytes, together: int) -> Callable[[], None]:
    """A call that gives one request to each of so many connections."""
    connections = [Connection(server) for _ in range(together)]
    for connection in connections:
        connection.connection_made(Sink())  # type: ignore[arg-type]

    def feed() -> None:
        for connection in connections:
            connection.data_received(wire)

    feed.sinks = [connection.transport for connection in connections]  # type: ignore[attr-defined]
    return feed


async def _per_turn(together: int, feed: Callable[[], None]) -> float:
    """Median nanoseconds of a turn of the loop in which `feed` is called, its replies included."""
    turns = TURNS[together]
    times = []
    for _ in range(REPEATS + 1):
        started = perf_counter_ns()
        for _ in range(turns):
            feed()
            await asyncio.sleep(0)
        times.append((perf_counter_ns() - started) / turns)
    for sink in getattr(feed, "sinks", []):
        if sink.replies < turns * REPEATS or not sink.last.startswith(b"HTTP/1.1 200"):
            raise BenchError(f"the door left requests unanswered or refused them: {sink.last[:200]!r}")
    return median(times[1:])


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


if __name__ == "__main__":
    Path(OUT).mkdir(exist_ok=True)
    hot_path()

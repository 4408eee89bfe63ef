"""What the response cache costs and saves inside a replica, without sockets, beside the model that it stands before.

Everything is measured in turns within one run. What a miss, or the meter of duplicates, costs is measured round a
predictor that answers at once, so that a model's own spread does not hide it; the share is of the model's time.
"""

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from time import perf_counter_ns

import numpy as np
import uvloop
from processes import OUT
from report import table, write
from workloads import SHAPES, prepare

from rung.catalog.source import open_source
from rung.domain.predictions import Request, Response
from rung.serving.assembly import ManagerOptions
from rung.serving.cache import AnswerKey, Cached, MemoryStore
from rung.serving.duplicates import DuplicateMeter, Metered
from rung.serving.manager import Manager
from rung.serving.recorder import Recorder
from rung.serving.redis_cache import RedisStore, connect
from rung.testing.caches import serve_valkey

__all__ = ["cache"]

REQUESTS = {"tiny": 1000, "seg": 100}
ROUNDS = 5
SIZE = 256 << 20
Predict = Callable[[Request], Awaitable[Response]]


class Instant:
    """Gives the same answer at once; stands where a version's batcher stands."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self.recorder = Recorder(response.model, response.version)
        self.inflight = 0

    def release(self) -> None:
        self.inflight -= 1

    async def __call__(self, request: Request) -> Response:
        return self._response


def cache() -> None:
    """Print the table."""
    uvloop.run(_measure())


async def _measure() -> None:
    lines, data = [], {}
    for name, count in REQUESTS.items():
        workload = prepare(name, OUT / "models")
        rng = np.random.default_rng(3)
        requests = [Request({"x": rng.random(SHAPES[name], np.float32)}) for _ in range(count)]
        manager = Manager([open_source(str(workload.file), None, OUT / "cache")], ManagerOptions(poll_seconds=3600))
        await manager.open()
        model = manager.find(name).predict
        times = await _rounds(model, requests)
        await manager.close()
        us = {what: median(values) / 1e3 for what, values in times.items()}
        us["miss"] -= us["instant"]
        us["meter"] -= us["instant"]
        data[name] = us
        shares = [f"{us[what]:.1f} ({us[what] / us['model']:.1%})" for what in ("hit", "far hit", "miss", "meter")]
        lines.append([name, f"{us['model']:.1f}", *shares])
    head = ["model", "one call, us", "hit (of a call)", "hit in Valkey", "a miss adds", "the meter adds"]
    write("cache", "## the response cache, without sockets\n\n" + table(head, lines), data, OUT)


async def _rounds(model: Predict, requests: list[Request]) -> dict[str, list[float]]:
    """Nanoseconds per request, by what was done and round."""
    times: dict[str, list[float]] = {}
    instant = Instant(await model(requests[0]))
    key = AnswerKey("digest")
    with tempfile.TemporaryDirectory(prefix="rung-") as folder, serve_valkey(Path(folder)) as valkey:
        for _ in range(ROUNDS):
            cached = Cached(instant, MemoryStore(SIZE, 600.0), instant, key)
            meter = Metered(instant, key, DuplicateMeter("m", 1, 600.0))
            turns = {"model": model, "instant": instant, "miss": cached, "hit": cached, "meter": meter}
            for what, predict in turns.items():
                times.setdefault(what, []).append(await _each(predict, requests))
            assert (cached.misses, cached.hits) == (len(requests), len(requests))
            writer, reader = (
                RedisStore(connect(valkey.url, 5.0), MemoryStore(SIZE, 600.0), 600.0, timeout=5.0) for _ in range(2)
            )
            await _each(Cached(instant, writer, instant, key), requests)
            await writer.flush()
            far = Cached(instant, reader, instant, key)
            times.setdefault("far hit", []).append(await _each(far, requests))
            assert far.fetched > 0.9 * len(requests), (far.fetched, reader.usage(), writer.usage())
            for store in (writer, reader):
                await store.close()
    return times


async def _each(predict: Predict, requests: list[Request]) -> float:
    """Nanoseconds per request, one after the other."""
    started = perf_counter_ns()
    for request in requests:
        await predict(request)
    return (perf_counter_ns() - started) / len(requests)

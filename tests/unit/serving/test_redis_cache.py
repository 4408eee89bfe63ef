"""The other side of the cache goes away, hangs, is full, or holds somebody else's data: requests never notice."""

import asyncio
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from rung.domain.errors import ConfigurationError
from rung.domain.predictions import Request, Response
from rung.serving.cache import AnswerKey, Cached, MemoryStore
from rung.serving.cache_values import encode
from rung.serving.recorder import Recorder
from rung.serving.redis_cache import RedisStore, connect
from rung.testing.caches import serve_valkey

TIMEOUT = 1.0
"""Seconds; generous, so that a busy machine alone does not look like an outage."""


@pytest.fixture
def valkey():
    # A socket's path may have 108 bytes, and pytest's folders are deep.
    with tempfile.TemporaryDirectory(prefix="rung-") as folder, serve_valkey(Path(folder)) as server:
        yield server


def store(url: str, *, ttl: float = 60.0, near: int = 1 << 20, **options) -> RedisStore:
    options = {"timeout": TIMEOUT, "backoff": (0.01, 0.05)} | options
    return RedisStore(connect(url, TIMEOUT), MemoryStore(near, ttl), ttl, **options)


class Version:
    """Doubles its input, in no time."""

    def __init__(self) -> None:
        self.recorder = Recorder("m", 1)
        self.inflight = 0
        self.calls = 0

    def release(self) -> None:
        self.inflight -= 1

    async def __call__(self, request: Request) -> Response:
        self.calls += 1
        return Response("m", 1, {"y": request.inputs["x"] * 2})


KEY = AnswerKey("digest")


def request(value: float) -> Request:
    return Request({"x": np.full((1, 2), value, np.float32)}, arrived=monotonic())


def replica(backend: RedisStore, *, share: bool = True) -> Cached:
    return Cached(version := Version(), backend, version, KEY, share=share)


async def ask(predictor: Cached, values: range) -> None:
    answers = await asyncio.gather(*(predictor(request(value)) for value in values))
    assert [one.outputs["y"][0, 0] for one in answers] == [2 * value for value in values]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_replicas_share_what_one_has_computed(valkey):
    first, second = replica(store(valkey.url)), replica(store(valkey.url))
    await ask(first, range(50))
    await first._store.flush()
    await ask(second, range(50))
    assert (first.misses, second.misses, second.fetched) == (50, 0, 50)
    await ask(second, range(50))
    assert second.hits == 50, "the second time out of its own memory"
    statistics = second._held.recorder.read()
    assert (statistics.success.count, second._inner.calls) == (100, 0)
    for one in (first, second):
        await one._store.close()


@pytest.mark.asyncio
async def test_a_bare_file_shares_nothing(valkey):
    backend = store(valkey.url)
    await ask(replica(backend, share=False), range(3))
    await backend.flush()
    other = replica(store(valkey.url))
    await ask(other, range(3))
    assert (other.fetched, backend.usage().fetches) == (0, 0)
    for one in (backend, other._store):
        await one.close()


@pytest.mark.asyncio
async def test_killed_under_load_no_request_fails_and_later_ones_do_not_try(valkey):
    backend = store(valkey.url, backoff=(60.0, 60.0))
    predictor = replica(backend)
    await ask(predictor, range(100))
    running = [asyncio.ensure_future(ask(predictor, range(at, at + 20))) for at in range(200, 600, 20)]
    await asyncio.sleep(0)
    valkey.signal(signal.SIGKILL)
    await asyncio.gather(*running)
    await ask(predictor, range(600, 700))
    usage = backend.usage()
    assert usage.away
    assert usage.errors.get("connection", 0) >= 1
    tried = usage.fetches
    await ask(predictor, range(700, 1200))
    assert backend.usage().fetches == tried, "it is left alone"
    # What this process holds is given all the same.
    hits = predictor.hits
    await ask(predictor, range(700, 1200))
    assert predictor.hits == hits + 500
    await backend.close()


@pytest.mark.asyncio
async def test_a_server_that_hangs_costs_one_timeout_and_is_used_again_when_it_answers(valkey):
    backend = store(valkey.url)
    predictor = replica(backend)
    await ask(predictor, range(1))
    await backend.flush()
    valkey.signal(signal.SIGSTOP)
    spent = backend.usage().fetch_seconds
    began = monotonic()
    await ask(predictor, range(1, 2))
    assert monotonic() - began >= TIMEOUT
    for value in range(2, 200):
        await ask(predictor, range(value, value + 1))
    usage = backend.usage()
    assert usage.errors == {"timeout": 1}
    assert usage.fetch_seconds - spent < 2 * TIMEOUT, "one time-out in 200 requests, one after the other"
    valkey.signal(signal.SIGCONT)
    await until(lambda: not backend.usage().away)
    await ask(predictor, range(200, 210))
    await backend.flush()
    other = replica(store(valkey.url))
    await ask(other, range(200, 210))
    assert other.fetched == 10
    for one in (backend, other._store):
        await one.close()


@pytest.mark.asyncio
async def test_a_server_that_comes_back_is_found_without_any_request_trying(valkey):
    backend = store(valkey.url)
    predictor = replica(backend)
    valkey.signal(signal.SIGKILL)
    await ask(predictor, range(3))
    assert backend.usage().away
    fetches = backend.usage().fetches
    valkey.start()
    await until(lambda: not backend.usage().away)
    assert backend.usage().fetches == fetches
    await ask(predictor, range(3, 6))
    await backend.flush()
    assert backend.usage().errors.keys() == {"connection"}
    await backend.close()


@pytest.mark.asyncio
async def test_what_is_not_ours_is_a_miss_and_counted(valkey):
    backend = store(valkey.url)
    predictor = replica(backend)
    key = KEY(request(1))
    name = b"rung:1:" + key[:16].hex().encode() + b":" + key[16:].hex().encode()
    other = encode(KEY(request(2)), {"y": np.full((1, 2), 666, np.float32)}, 0.0)
    for junk in (b"", b"\x80\x04.", b"rung\x01" + bytes(20), other):
        await backend._client.set(name, junk)
        assert await backend.fetch(key) is None
    assert backend.usage().errors == {"corrupt": 4}
    await backend._client.delete(name)
    await backend._client.lpush(name, b"a list")
    assert await backend.fetch(key) is None
    assert backend.usage().errors == {"corrupt": 4, "refused": 1}
    assert not backend.usage().away
    await ask(predictor, range(1, 2))
    await backend.close()


@pytest.mark.asyncio
async def test_a_full_server_refuses_and_is_still_asked(valkey):
    backend = store(valkey.url)
    predictor = replica(backend)
    await ask(predictor, range(1))
    await backend.flush()
    await backend._client.config_set("maxmemory", 1)
    await ask(predictor, range(1, 3))
    await backend.flush()
    usage = backend.usage()
    assert (usage.errors, usage.away) == ({"refused": 2}, False)
    other = replica(store(valkey.url))
    await ask(other, range(1))
    assert other.fetched == 1
    for one in (backend, other._store):
        await one.close()


@pytest.mark.asyncio
async def test_an_answer_keeps_its_age_on_the_way_through(valkey):
    now = 1_000_000.0
    writer = store(valkey.url, ttl=30.0, wall=lambda: now)
    key = KEY(request(1))
    writer.keep(key, {"y": np.ones(2)})
    await writer.flush()
    [name] = await writer._client.keys("rung:1:*")
    assert 0 < await writer._client.pttl(name) <= 30_000, "it expires there by itself"
    for later, found in ((29.0, True), (30.0, False), (-5.0, True)):
        reader = store(valkey.url, ttl=30.0, wall=lambda later=later: now + later)
        assert (await reader.fetch(key) is not None) is found
        if found:
            assert reader.usage().oldest == pytest.approx(max(0.0, later), abs=1.0)
        await reader.close()
    await writer.close()


@pytest.mark.asyncio
async def test_what_is_too_large_or_too_much_is_not_sent(valkey, monkeypatch):
    monkeypatch.setattr("rung.serving.redis_cache._LARGEST", 10_000)
    monkeypatch.setattr("rung.serving.redis_cache._UNWRITTEN", 20_000)
    backend = store(valkey.url, near=1 << 20)
    backend.keep(b"l" * 48, {"y": np.zeros(10_000, np.uint8)})
    for number in range(10):
        backend.keep(number.to_bytes(48, "big"), {"y": np.zeros(5000, np.uint8)})
    assert backend.usage().errors == {"too_large": 1, "busy": 7}
    assert backend.usage().entries == 11
    await backend.flush()
    assert len(await backend._client.keys("rung:1:*")) == 3
    backend.keep(b"m" * 48, {"y": np.zeros(5000, np.uint8)})
    await backend.flush()
    assert len(await backend._client.keys("rung:1:*")) == 4
    await backend.close()


@pytest.mark.asyncio
async def test_nobody_there_from_the_start():
    backend = store("unix:///nowhere/at/all.sock", backoff=(60.0, 60.0))
    await ask(replica(backend), range(20))
    assert backend.usage().away
    await backend.close()


def test_a_wrong_url_is_refused_when_the_replica_starts():
    with pytest.raises(ConfigurationError, match="URL is wrong"):
        connect("redis://h:port/0", 1.0)

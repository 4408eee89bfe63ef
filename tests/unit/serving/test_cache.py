import asyncio
import threading
import tracemalloc
from time import monotonic
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rung.domain.errors import DeadlineExceeded, ModelError
from rung.domain.predictions import NEVER, Call, Request, Response
from rung.serving.cache import AnswerKey, Cached, MemoryStore
from rung.serving.cache_values import weight
from rung.serving.cost import CostModel
from rung.serving.lanes import Lanes
from rung.serving.recorder import Recorder

# --- the store ------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def answer(size: int) -> dict[str, np.ndarray]:
    return {"y": np.full(size, 7, np.uint8)}


class StoreModel(RuleBasedStateMachine):
    """The store beside a list that is plainly right: (key, size, born), least recently used first."""

    @initialize(limit=st.integers(1500, 9000), ttl=st.floats(1, 20))
    def begin(self, limit: int, ttl: float) -> None:
        self.clock = Clock()
        self.limit, self.ttl = limit, ttl
        self.store = MemoryStore(limit, ttl, self.clock)
        self.rows: list[tuple[bytes, int, float]] = []

    def forget_expired(self) -> None:
        self.rows = [row for row in self.rows if self.clock.now - row[2] < self.ttl]

    @rule(key=st.integers(0, 7), size=st.integers(0, 4000))
    def keep(self, key: int, size: int) -> None:
        name = bytes([key])
        kept = self.store.keep(name, answer(size))
        assert not kept["y"].flags.writeable
        weighs = weight(answer(size))
        if weighs > self.limit:
            return
        self.forget_expired()
        self.rows = [row for row in self.rows if row[0] != name]
        while sum(row[1] for row in self.rows) + weighs > self.limit:
            self.rows.pop(0)
        self.rows.append((name, weighs, self.clock.now))

    @rule(key=st.integers(0, 7))
    def find(self, key: int) -> None:
        name = bytes([key])
        found = self.store.find(name)
        self.forget_expired()
        held = [row for row in self.rows if row[0] == name]
        assert (found is not None) == bool(held)
        if held:
            self.rows = [row for row in self.rows if row[0] != name] + held
            assert weight(found) == held[0][1]

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def look(self) -> None:
        self.forget_expired()
        usage = self.store.usage()
        assert usage.entries == len(self.rows)
        assert usage.bytes == sum(row[1] for row in self.rows)
        oldest = max((self.clock.now - row[2] for row in self.rows), default=0.0)
        assert usage.oldest == oldest

    @invariant()
    def never_over_its_limit(self) -> None:
        assert self.store._bytes <= self.limit
        assert len(self.store._entries) == len(self.store._births)


StoreModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestStore = StoreModel.TestCase


@pytest.mark.parametrize(
    "make",
    [
        lambda n: {"y": np.full(10, n, np.float32)},
        lambda n: {"y": np.full(4096, n, np.float32), "z": np.full(3, n)},
        lambda n: {"y": np.array([f"{n} and {i} letters" * 5 for i in range(50)], object)},
    ],
)
def test_what_the_store_counts_is_what_python_takes(make):
    store = MemoryStore(100 << 20, 60.0)
    store.keep(b"first".ljust(48), make(0))
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for number in range(500):
            store.keep(number.to_bytes(48, "big"), make(number))
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    counted = store.usage().bytes * 500 / 501
    assert taken <= counted <= 1.25 * taken + 500 * 600


def test_an_answer_larger_than_the_store_pushes_nothing_out():
    store = MemoryStore(5000, 60.0)
    store.keep(b"small", answer(100))
    assert not store.keep(b"large", answer(10_000))["y"].flags.writeable
    assert store.find(b"small") is not None
    assert store.find(b"large") is None
    assert store.usage().evictions == {"too_large": 1}


def test_a_piece_of_a_batch_does_not_keep_the_whole_batch():
    store = MemoryStore(1 << 20, 60.0)
    batch = np.zeros((64, 100), np.float32)
    kept = store.keep(b"row", {"y": batch[3:4]})
    batch[:] = 9
    assert kept["y"].base is None
    assert kept["y"].sum() == 0


def test_objects_that_are_no_text_are_not_kept():
    store = MemoryStore(1 << 20, 60.0)
    store.keep(b"key", {"y": np.array([[1, 2], None], object)})
    assert store.find(b"key") is None
    assert store.usage().evictions == {"unfit": 1}


# --- keys -----------------------------------------------------------------------------------


def request(value: float = 1.0, *, call: Call | None = None, deadline: float = NEVER) -> Request:
    return Request({"x": np.full((1, 2), value, np.float32)}, deadline=deadline, arrived=monotonic(), call=call)


def test_two_bundles_never_share_an_answer():
    assert AnswerKey("digest of one")(request()) != AnswerKey("digest of two")(request())
    assert AnswerKey("the same")(request()) == AnswerKey("the same")(request())


def test_a_private_answer_belongs_to_one_caller():
    key = AnswerKey("digest", private=True)
    callers = [
        Call(unit="ann"),
        Call(unit="bob"),
        Call(headers={b"authorization": b"Bearer ann"}),
        Call(headers={b"authorization": b"Bearer bob"}),
        Call(headers={b"authorization": b"Bearer ann"}, unit="bob"),
        Call(headers={b"x-api-key": b"Bearer ann"}),
        # What would be the same if the parts were strung together.
        Call(headers={b"authorization": b"an", b"x-api-key": b"n"}),
        Call(headers={b"authorization": b"ann"}),
    ]
    keys = [key(request(call=call)) for call in callers]
    assert len(set(keys)) == len(callers)
    assert key(request(call=Call(unit="ann", address="10.0.0.9"))) == keys[0]
    assert not any(b"ann" in made for made in keys if made)


@pytest.mark.parametrize("call", [None, Call(), Call(headers={b"accept": b"*/*"}, address="10.0.0.1")])
def test_without_a_caller_a_private_cache_keeps_nothing(call):
    assert AnswerKey("digest", private=True)(request(call=call)) is None


# --- the predictor --------------------------------------------------------------------------


class Version:
    """A model with the handles and the recorder of its version."""

    def __init__(self, factor: float = 2.0, number: int = 1) -> None:
        self.factor = factor
        self.recorder = Recorder("m", number)
        self.inflight = 0
        self.calls = 0
        self.go: asyncio.Event | None = None

    def release(self) -> None:
        self.inflight -= 1

    async def __call__(self, request: Request) -> Response:
        self.calls += 1
        if self.go is not None:
            await self.go.wait()
        x = request.inputs["x"]
        if x[0, 0] < 0:
            raise ModelError("negative")
        self.recorder.answered(0.0, 0.0, 0.001)
        return Response("m", self.recorder.statistics.version, {"y": x * np.float32(self.factor)}, computed=0.5)


def cached(version: Any, store: MemoryStore | None = None, digest: str = "d", *, private: bool = False) -> Cached:
    return Cached(version, store or MemoryStore(1 << 20, 60.0), version, AnswerKey(digest, private=private))


@pytest.mark.asyncio
async def test_the_second_time_nothing_is_computed_and_nothing_is_waited_for():
    version = Version()
    predictor = cached(version)
    first = await predictor(request(3))
    ticket = predictor(request(3))
    assert ticket.done(), "a hit does not suspend"
    second = await ticket
    assert second.outputs["y"].tolist() == first.outputs["y"].tolist() == [[6, 6]]
    assert (second.model, second.version, second.computed, second.batch) == ("m", 1, 0.0, 0)
    assert (version.calls, predictor.hits, predictor.misses) == (1, 1, 1)
    await asyncio.sleep(0)
    assert version.inflight == 0
    assert version.recorder.read().success.count == 2, "a hit counts as an answer"
    assert version.recorder.statistics.compute.count == 1, "and not as a computation"


@pytest.mark.asyncio
async def test_a_release_never_serves_what_another_version_said():
    store = MemoryStore(1 << 20, 60.0)
    stable, candidate = Version(2.0, 1), Version(3.0, 2)
    before, after = cached(stable, store, "digest of 1"), cached(candidate, store, "digest of 2")
    for predictor, answers in ((before, 2), (after, 3), (before, 2), (after, 3)):
        assert (await predictor(request(1))).outputs["y"][0, 0] == answers
    # The rollback found its answers warm.
    assert (before.hits, after.hits) == (1, 1)
    # The same bytes under another number may share, and answer under their own number.
    again = cached(Version(2.0, 7), store, "digest of 1")
    response = await again(request(1))
    assert (again.hits, response.version, response.outputs["y"][0, 0]) == (1, 7, 2)


@pytest.mark.asyncio
async def test_a_hundred_equal_requests_in_flight_are_one_computation():
    version = Version()
    version.go = asyncio.Event()
    predictor = cached(version)
    waiting = [predictor(request(5)) for _ in range(100)]
    await asyncio.sleep(0)
    version.go.set()
    answers = await asyncio.gather(*waiting)
    assert {float(one.outputs["y"][0, 0]) for one in answers} == {10.0}
    assert (version.calls, predictor.misses, predictor.joined, predictor.hits) == (1, 1, 99, 0)
    assert version.recorder.read().success.count == 100


@pytest.mark.asyncio
async def test_who_leaves_or_is_late_does_not_disturb_the_others():
    version = Version()
    version.go = asyncio.Event()
    predictor = cached(version)
    staying, leaving = predictor(request(5)), predictor(request(5))
    with pytest.raises(DeadlineExceeded):
        await predictor(request(5, deadline=monotonic() + 0.01))
    leaving.cancel()
    version.go.set()
    assert (await staying).outputs["y"][0, 0] == 10
    assert (await predictor(request(5))).batch == 0


@pytest.mark.asyncio
async def test_errors_are_not_kept():
    version = Version()
    predictor = cached(version)
    for _ in range(2):
        with pytest.raises(ModelError):
            await predictor(request(-1))
    assert version.calls == 2
    assert version.recorder.read().failures == {}, "the model counts its own errors"


@pytest.mark.asyncio
async def test_no_caller_can_change_what_another_gets():
    predictor = cached(Version())
    first = await predictor(request(1))
    hit = await predictor(request(1))
    for response in (first, hit):
        with pytest.raises(ValueError, match="read-only"):
            response.outputs["y"][0, 0] = 99
    hit.outputs["more"] = np.zeros(1)
    assert list((await predictor(request(1))).outputs) == ["y"]


@pytest.mark.asyncio
async def test_private_answers_stay_with_their_caller_also_in_flight():
    version = Version()
    version.go = asyncio.Event()
    predictor = cached(version, private=True)
    ann, bob = Call(headers={b"authorization": b"ann"}), Call(headers={b"authorization": b"bob"})
    waiting = [asyncio.ensure_future(predictor(request(1, call=call))) for call in (ann, ann, bob, None, None)]
    await asyncio.sleep(0)
    version.go.set()
    await asyncio.gather(*waiting)
    assert (version.calls, predictor.misses, predictor.joined, predictor.bypassed) == (4, 2, 1, 2)
    await predictor(request(1, call=ann))
    assert (version.calls, predictor.hits) == (4, 1)


@pytest.mark.asyncio
async def test_steps_inside_a_graph_use_the_cache_where_it_is_not_private():
    version = Version()
    predictor = cached(version)
    await predictor(request(1, call=None))
    assert (await predictor(request(1, call=Call(unit="ann")))).batch == 0


@pytest.mark.asyncio
async def test_round_a_real_batcher_hits_go_on_while_the_model_is_busy(make_batcher):
    batcher, model = make_batcher()
    predictor = cached(batcher)
    first = await predictor(request(1))
    assert (first.outputs["y"][0, 0], model.calls) == (2, [1])
    model.gate = threading.Event()
    busy = asyncio.ensure_future(predictor(request(7)))
    for _ in range(3):
        assert predictor(request(1)).result().outputs["y"][0, 0] == 2
    model.gate.set()
    await busy
    await asyncio.sleep(0)
    assert model.calls == [1, 1]
    assert batcher.recorder.read().success.count == 5
    assert batcher.recorder.statistics.inferences == 2
    assert batcher.inflight == 0


@pytest.fixture
def make_batcher():
    from rung.serving.batcher import Batcher
    from rung.testing.scripted import ScriptedModel

    opened: list[Lanes] = []

    def make() -> tuple[Batcher, ScriptedModel]:
        model = ScriptedModel()
        model.inline = False
        lanes = Lanes(1, "test-cache")
        lanes.open()
        opened.append(lanes)
        return Batcher("m", 1, model, CostModel(), lanes, threads=1, max_wait=5.0), model

    yield make
    for lanes in opened:
        lanes.close()

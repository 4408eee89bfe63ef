import asyncio
import threading
from contextlib import asynccontextmanager
from time import monotonic

import numpy as np
import pytest

from rung.domain.errors import InvalidInput, NotAcceptable, Overloaded
from rung.domain.models import Manifest, Step, Transforms
from rung.domain.predictions import LOWEST, Call, Payload, Request
from rung.serving.batcher import Batcher
from rung.serving.cost import CostModel
from rung.serving.lanes import Lanes
from rung.serving.servable import Servable
from rung.serving.transforming import TransformPool
from rung.testing.scripted import ScriptedModel
from rung.transforms.pipeline import Pipeline

pytestmark = pytest.mark.asyncio

JSON = ("application/json",)


@pytest.fixture
def make():
    """`make(transforms) -> Servable` of a scripted model: on the loop, or on a lane where a row takes longer."""
    pools = []

    def one(transforms=None, *, seconds=1e-6, max_wait=5.0, lanes=None):
        model = ScriptedModel(columns=3)
        cost = CostModel()
        cost.learn(1, seconds)
        manifest = Manifest("m", 7, "scripted", model.signature, transforms=transforms or Transforms())
        batcher = Batcher("m", 7, model, cost, lanes or Lanes(1, "test"), threads=1, max_wait=max_wait)
        pools.append(TransformPool(1))
        return Servable(manifest, "digest", model, batcher, Pipeline.build(manifest), pools[-1])

    yield one
    for pool in pools:
        pool.close()


async def test_rows_in_and_json_out(make):
    servable = make()
    answer = await servable.respond(Payload("rows", [[1, 2, 3], [4, 5, 6]]), JSON)
    assert answer.media_type == "application/json"
    assert b"[[2.0,4.0,6.0],[8.0,10.0,12.0]]" in answer.body
    assert (answer.model, answer.version) == ("m", 7)
    assert servable.batcher.inflight == 0


async def test_nobody_waits_for_an_answer_that_cannot_be_given(make):
    servable = make()
    with pytest.raises(NotAcceptable):
        await servable.respond(Payload("rows", [[1, 2, 3]]), ("image/png",))
    assert servable.model.calls == []
    assert servable.batcher.inflight == 0


async def test_a_bad_payload_gives_its_handle_back(make):
    servable = make()
    with pytest.raises(InvalidInput):
        await servable.respond(Payload("rows", [["a", "b", "c"]]), JSON)
    assert servable.batcher.inflight == 0


async def test_the_handle_covers_the_transforms_which_run_off_the_loop(make, monkeypatch):
    steps = (Step("image.decode"), Step("image.layout", {"order": "HWC"}))
    servable = make(Transforms(input=steps))
    entered, gate, threads = threading.Event(), threading.Event(), []

    def prepare(payload):
        threads.append(threading.current_thread().name)
        entered.set()
        gate.wait(30)
        raise InvalidInput("not a picture")

    monkeypatch.setattr(servable.pipeline, "prepare", prepare)
    idle = []
    servable.batcher.on_idle = lambda: idle.append(True)
    asked = asyncio.ensure_future(servable.respond(Payload("image", b""), JSON))
    await asyncio.to_thread(entered.wait, 30)
    assert servable.batcher.inflight == 1
    assert idle == []
    gate.set()
    with pytest.raises(InvalidInput):
        await asked
    assert threads[0].startswith("rung-transforms")
    assert idle == [True]


PICTURES = Transforms(input=(Step("image.decode"), Step("image.layout", {"order": "HWC"})))


@pytest.fixture
def busy(make, monkeypatch):
    """A context that gives a `Servable` of pictures whose lane is taken for longer than anybody may wait, and what it
    was asked to prepare."""

    @asynccontextmanager
    async def taken():
        lanes = Lanes(1, "test")
        servable = make(PICTURES, seconds=1.0, max_wait=0.5, lanes=lanes)
        servable.model.gate = threading.Event()
        prepared = []

        def prepare(payload):
            prepared.append(payload)
            raise InvalidInput("not a picture")

        monkeypatch.setattr(servable.pipeline, "prepare", prepare)
        lanes.open()
        first = asyncio.ensure_future(servable.batcher(Request({"x": np.ones((1, 3), np.float32)})))
        await asyncio.to_thread(servable.model.entered.wait, 30)
        try:
            yield servable, prepared
        finally:
            servable.model.gate.set()
            await first
            await asyncio.to_thread(lanes.close)

    return taken


async def test_what_would_come_too_late_is_refused_before_the_transforms_and_counted_once(busy):
    async with busy() as (servable, prepared):
        with pytest.raises(Overloaded):
            await servable.respond(Payload("image", b"", arrived=monotonic()), JSON)
        assert prepared == []
        assert servable.batcher.recorder.statistics.failures == {"Overloaded": 1}
        assert servable.batcher.inflight == 1, "the one that is being computed"


async def test_who_keeps_account_is_told_of_a_refusal(busy):
    told = []

    class Log:
        def __call__(self, request):
            raise AssertionError("it was refused before")

        def refused(self, request, error):
            told.append((request.rows, request.inputs, request.call, type(error)))

    async with busy() as (servable, _):
        servable.log = lambda one, inner: Log()
        servable.compose()
        call = Call(arrived=monotonic())
        with pytest.raises(Overloaded):
            await servable.respond(Payload("image", [b"", b""], call=call, arrived=call.arrived), JSON)
    assert told == [(2, {}, call, Overloaded)]


async def test_where_an_answer_may_be_known_the_transforms_run_first(busy):
    async with busy() as (servable, prepared):
        servable.knows = True
        with pytest.raises(InvalidInput):
            await servable.respond(Payload("image", b"", arrived=monotonic()), JSON)
        assert len(prepared) == 1
        with pytest.raises(Overloaded, match="come first"):
            await servable.respond(Payload("image", b"", priority=LOWEST, arrived=monotonic()), JSON)
        assert len(prepared) == 1, "nobody waits for the transforms of what can wait"


@pytest.mark.parametrize(("priority", "waits"), [(0, 3.0), (LOWEST, 0.0)])
async def test_who_comes_waits_for_what_is_being_prepared_unless_that_can_wait(make, monkeypatch, priority, waits):
    lanes = Lanes(1, "test")
    servable = make(PICTURES, seconds=1.0, lanes=lanes)
    entered, gate = threading.Event(), threading.Event()

    def prepare(payload):
        entered.set()
        gate.wait(30)
        raise InvalidInput("not a picture")

    monkeypatch.setattr(servable.pipeline, "prepare", prepare)
    lanes.open()
    if priority == LOWEST:
        with pytest.raises(Overloaded, match="come first") as told:
            await servable.respond(Payload("image", [b""], priority=priority), JSON)
        await asyncio.sleep(told.value.retry_after)  # as whoever sent it does
    asked = asyncio.ensure_future(servable.respond(Payload("image", [b""] * 3, priority=priority), JSON))
    await asyncio.to_thread(entered.wait, 30)
    servable.model.gate = threading.Event()
    first = asyncio.ensure_future(servable.batcher(Request({"x": np.ones((1, 3), np.float32)})))
    await asyncio.to_thread(servable.model.entered.wait, 30)
    assert servable.batcher.wait() == pytest.approx(1.0 + waits)
    gate.set()
    with pytest.raises(InvalidInput):
        await asked
    assert servable.batcher.wait() == pytest.approx(1.0)
    servable.model.gate.set()
    await first
    await asyncio.to_thread(lanes.close)


async def test_who_was_let_in_is_not_turned_away_for_who_came_later_and_is_larger(make, monkeypatch):
    lanes = Lanes(1, "test")
    servable = make(PICTURES, seconds=1.0, lanes=lanes)
    servable.model.gate = threading.Event()
    gates = {1: threading.Event(), 64: threading.Event()}
    prepared = servable.pipeline.prepare(Payload("tensors", {"x": np.ones((1, 3), np.float32)}))

    def prepare(payload):
        gates[len(payload.value)].wait(30)
        if len(payload.value) == 64:
            raise InvalidInput("not a picture")
        return prepared

    monkeypatch.setattr(servable.pipeline, "prepare", prepare)
    lanes.open()
    first = asyncio.ensure_future(servable.batcher(Request({"x": np.ones((1, 3), np.float32)})))
    await asyncio.to_thread(servable.model.entered.wait, 30)
    small, large = (
        asyncio.ensure_future(servable.respond(Payload("image", [b""] * rows, arrived=monotonic()), JSON))
        for rows in (1, 64)
    )
    await asyncio.sleep(0)
    gates[1].set()
    async with asyncio.timeout(30):
        while servable.batcher.inflight < 4 and not small.done():  # its ticket is the fourth handle
            await asyncio.sleep(0.001)
    assert not small.done()
    servable.model.gate.set()
    gates[64].set()
    await first
    assert (await small).body
    with pytest.raises(InvalidInput):
        await large
    await asyncio.to_thread(lanes.close)


async def test_where_the_transforms_are_what_takes_long_who_would_wait_too_long_for_them_is_refused(make, monkeypatch):
    servable = make(PICTURES, max_wait=0.5)
    servable._preparing.learn(1, 1.0)
    entered, gate, asked = threading.Event(), threading.Event(), []

    def prepare(payload):
        asked.append(payload)
        entered.set()
        gate.wait(30)
        raise InvalidInput("not a picture")

    monkeypatch.setattr(servable.pipeline, "prepare", prepare)
    first = asyncio.ensure_future(servable.respond(Payload("image", b"", arrived=monotonic()), JSON))
    await asyncio.to_thread(entered.wait, 30)
    with pytest.raises(Overloaded, match="in 1000 ms") as told:
        await servable.respond(Payload("image", b"", arrived=monotonic()), JSON)
    assert told.value.retry_after == pytest.approx(0.75)
    assert len(asked) == 1
    gate.set()
    with pytest.raises(InvalidInput):
        await first
    with pytest.raises(InvalidInput):
        await servable.respond(Payload("image", b"", arrived=monotonic()), JSON)


async def test_tensors_pass_as_they_are(make):
    servable = make()
    x = np.ones((1, 3), np.float32)
    answer = await servable.respond(Payload("tensors", {"x": x}), ("application/octet-stream",))
    assert answer.body == (x * 2).tobytes()
    assert min(answer.prepared, answer.queued, answer.computed, answer.finished) >= 0

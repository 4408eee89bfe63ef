"""Copies for a candidate: whatever it does, nobody notices."""

import asyncio
import os
import threading
from contextlib import asynccontextmanager
from math import inf, nan

import numpy as np
import pytest

from rung.domain.errors import ModelError
from rung.domain.models import Manifest
from rung.domain.predictions import Call, Request, Response
from rung.domain.records import CONSTANT, NOT_FINITE
from rung.serving.shadow import Mirror, difference
from rung.testing.scripted import ScriptedModel

pytestmark = pytest.mark.filterwarnings("error")

X = np.array([[1, 2], [3, 4]], np.float32)


class Batcher:
    """What a mirror asks of one."""

    def __init__(self):
        self.inflight = 0
        self.waiting = 0.0

    def wait(self):
        return self.waiting

    def release(self):
        self.inflight -= 1


class Version:
    """Stands for a `Servable`."""

    def __init__(self, number, model):
        self.model = model
        self.manifest = Manifest("m", number, "scripted", model.signature if model else ScriptedModel().signature, "x")
        self.batcher = Batcher()


class Saying(ScriptedModel):
    """Answers what it is told to, or raises it."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def predict(self, inputs, threads=1):
        super().predict(inputs)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


@asynccontextmanager
async def mirroring(model):
    """(mirror, records, ask): `ask()` is a live request; a copy of it goes to `model`."""
    records = []
    mirror = Mirror(Version(2, model), records.append)
    live = Version(1, ScriptedModel())

    async def answer(request):
        return Response("m", 1, live.model.predict(request.inputs))

    predict = mirror.wrap(live, answer)

    async def ask(call=None, **fields):
        return await predict(Request({"x": X}, 2, call=call or Call(unit="ana", epoch=3, prediction_id="p1"), **fields))

    ask.live = live
    try:
        yield mirror, records, ask
    finally:
        mirror.close()


async def settled(mirror, count=1):
    async with asyncio.timeout(30):
        while mirror.compared < count or mirror.candidate.batcher.inflight:
            await asyncio.sleep(0.001)


@pytest.mark.asyncio
async def test_equal_answers_are_recorded_as_such():
    async with mirroring(ScriptedModel()) as (mirror, records, ask):
        assert (await ask()).outputs["y"].tolist() == [[2, 4], [6, 8]]
        await settled(mirror)
        [record] = records
        assert (record.id, record.model, record.version, record.candidate) == ("p1", "m", 1, 2)
        assert (record.epoch, record.unit, record.error) == (3, "ana", "")
        assert (record.equal, record.difference, record.flags) == (True, 0.0, 0)
        assert record.computed > 0
        assert (mirror.compared, mirror.differing, mirror.failed, mirror.shed) == (1, 0, 0, 0)


Y = np.array([[2, 4], [6, 8]], np.float32)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("answer", "found", "flags"),
    [
        ({"y": Y + np.float32(0.25)}, 0.25, 0),
        ({"y": np.full_like(Y, nan)}, inf, NOT_FINITE),
        ({"y": np.where(Y == 8, inf, Y).astype(np.float32)}, inf, NOT_FINITE),
        ({"y": Y[:1]}, inf, 0),
        ({"y": Y.astype(np.int32)}, inf, 0),
        ({"z": Y}, inf, 0),
        ({}, inf, 0),
        ({"y": np.ones_like(Y)}, 7.0, CONSTANT),
    ],
)
async def test_other_answers_are_found_and_change_nothing(answer, found, flags):
    async with mirroring(Saying(answer)) as (mirror, records, ask):
        assert (await ask()).outputs["y"].tolist() == Y.tolist()
        await settled(mirror)
        [record] = records
        assert (record.equal, record.difference, record.flags, record.error) == (False, found, flags, "")
        assert (mirror.differing, mirror.failed) == (1, 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [ModelError("no"), ValueError("a bug"), MemoryError(), RecursionError()], ids=repr)
async def test_whatever_a_candidate_raises_stays_with_it(error):
    async with mirroring(Saying(error)) as (mirror, records, ask):
        for count in range(1, 11):
            assert (await ask()).outputs["y"].tolist() == Y.tolist()
            await settled(mirror, count)
        assert {(record.error, record.equal) for record in records} == {(type(error).__name__, False)}
        assert (mirror.failed, mirror.differing, mirror.shed) == (10, 0, 0)


@pytest.mark.asyncio
async def test_a_candidate_of_another_signature_is_not_even_asked():
    wide = ScriptedModel(columns=5)
    async with mirroring(wide) as (mirror, records, ask):
        await ask()
        await settled(mirror)
        assert (records[0].error, wide.calls) == ("InvalidInput", [])


@pytest.mark.asyncio
async def test_a_graph_is_no_shadow():
    async with mirroring(None) as (mirror, records, ask):
        await ask()
        await settled(mirror)
        assert records[0].error == "Unsupported"


@pytest.mark.asyncio
async def test_only_what_was_asked_for_is_compared():
    async with mirroring(Saying({"y": Y, "z": Y})) as (mirror, records, ask):
        await ask(outputs=("y",))
        await settled(mirror)
        assert records[0].equal


@pytest.mark.asyncio
async def test_steps_of_a_graph_and_errors_are_not_copied():
    async with mirroring(ScriptedModel()) as (mirror, _, ask):
        await mirror.wrap(ask.live, _answer)(Request({"x": X}, 2))
        with pytest.raises(ModelError):
            await mirror.wrap(ask.live, _fail)(Request({"x": X}, 2, call=Call()))
        assert mirror.candidate.batcher.inflight == 0
        assert mirror.candidate.model.calls == []


async def _answer(request):
    return Response("m", 1, {"y": Y})


async def _fail(request):
    raise ModelError("the live one failed")


@pytest.mark.asyncio
async def test_nobody_waits_for_a_slow_candidate_and_what_it_holds_is_bounded():
    slow = ScriptedModel()
    slow.gate = threading.Event()
    async with mirroring(slow) as (mirror, records, ask):
        for _ in range(100):
            await ask()
        assert records == []
        held = mirror.candidate.batcher.inflight
        assert 1 <= held <= 5
        assert mirror.shed == 100 - held
        slow.gate.set()
        await settled(mirror, held)
        assert len(records) == held
        # It takes copies again.
        await ask()
        await settled(mirror, held + 1)


@pytest.mark.asyncio
async def test_while_the_live_version_has_a_queue_no_copy_is_made():
    async with mirroring(ScriptedModel()) as (mirror, _, ask):
        ask.live.batcher.waiting = 0.01
        for _ in range(5):
            await ask()
        assert (mirror.shed, mirror.candidate.model.calls) == (5, [])


@pytest.mark.asyncio
async def test_copies_are_computed_by_one_thread_of_the_lowest_priority():
    seen = set()

    class Looking(ScriptedModel):
        def predict(self, inputs, threads=1):
            seen.add((os.getpriority(os.PRIO_PROCESS, threading.get_native_id()), threading.current_thread().name))
            return super().predict(inputs)

    async with mirroring(Looking()) as (mirror, _, ask):
        for count in range(1, 4):
            await ask()
            await settled(mirror, count)
    assert seen == {(19, "rung-shadow_0")}
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 19


@pytest.mark.asyncio
async def test_closed_it_drops_what_waits_answers_on_and_lets_go_of_the_candidate():
    slow = ScriptedModel()
    slow.gate = threading.Event()
    async with mirroring(slow) as (mirror, records, ask):
        for _ in range(4):
            await ask()
        async with asyncio.timeout(30):
            while not slow.entered.is_set():
                await asyncio.sleep(0.001)
        assert mirror.candidate.batcher.inflight == 4
        mirror.close()
        # The one being computed still holds the candidate: it must not be unloaded under it.
        async with asyncio.timeout(30):
            while mirror.candidate.batcher.inflight != 1:
                await asyncio.sleep(0.001)
        assert (await ask()).outputs["y"].tolist() == Y.tolist()
        slow.gate.set()
        await settled(mirror)
        assert (len(records), slow.calls) == (1, [2])
    # Those of the tests before may be on their way, too.
    for ended in [thread for thread in threading.enumerate() if thread.name.startswith("rung-shadow")]:
        ended.join(30)
        assert not ended.is_alive()


@pytest.mark.asyncio
async def test_a_report_that_fails_is_nobodys_trouble():
    def report(record):
        raise OSError("the disk is full")

    mirror = Mirror(Version(2, ScriptedModel()), report)
    predict = mirror.wrap(Version(1, None), _answer)
    for count in range(1, 11):
        assert (await predict(Request({"x": X}, 2, call=Call()))).version == 1
        await settled(mirror, count)
    assert mirror.shed == 0
    mirror.close()


# --- comparing ----------------------------------------------------------------------------------------


def f32(*values):
    return np.array(values, np.float32)


@pytest.mark.parametrize(
    ("one", "other", "largest", "agree"),
    [
        (f32(1, 2), f32(1, 2), 0.0, True),
        (f32(1, 2), f32(1, 4), 2.0, False),
        (f32(1000), f32(1000.5), 0.5, True),
        (f32(0), f32(5e-5), pytest.approx(5e-5), True),
        (f32(1, nan), f32(1, nan), 0.0, True),
        (f32(1, nan), f32(1, 1), inf, False),
        (f32(1, 1), f32(1, nan), inf, False),
        (f32(inf, -inf), f32(inf, -inf), 0.0, True),
        (f32(inf), f32(-inf), inf, False),
        (f32(inf), f32(1), inf, False),
        (np.array([1e308]), np.array([-1e308]), inf, False),
        (f32(), f32(), 0.0, True),
        (f32(1), np.array([1.0]), 0.0, True),
        (np.array([1, 2]), np.array([1, 5]), 3.0, False),
        (np.array([2**64 - 1], np.uint64), np.array([2**64 - 1], np.uint64), 0.0, True),
        (np.array([-(2**63)]), np.array([2**63 - 1]), pytest.approx(2**64), False),
        (np.array([1]), np.array([1.0]), inf, False),
        (np.array([True]), np.array([False]), inf, False),
        (np.array([True]), np.array([True]), 0.0, True),
        (np.array([b"a", b"b"], object), np.array([b"a", b"b"], object), 0.0, True),
        (np.array([b"a"], object), np.array([b"b"], object), inf, False),
        (f32(1), np.ones((1, 1), np.float32), inf, False),
        (np.array(2.0), np.array(2.5), 0.5, False),
    ],
)
def test_difference(one, other, largest, agree):
    assert difference({"y": one}, {"y": other}) == (largest, agree)


def test_difference_is_over_all_outputs():
    assert difference({"a": f32(1), "b": f32(1)}, {"a": f32(1.5), "b": f32(4)}) == (3.0, False)
    assert difference({"a": f32(1)}, {"a": f32(1), "b": f32(1)}) == (inf, False)


def test_difference_leaves_its_arguments_alone():
    one, other = f32(1, nan, inf), f32(1, nan, inf)
    one.flags.writeable = other.flags.writeable = False
    assert difference({"y": one}, {"y": other}) == (0.0, True)

import asyncio
import threading
from time import monotonic

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.domain.errors import DeadlineExceeded, ModelError, NotReady, Overloaded
from rung.domain.predictions import LOWEST, NEVER, Payload, Request
from rung.serving.batcher import Batcher
from rung.serving.cost import CostModel
from rung.serving.lanes import Lanes
from rung.testing.scripted import ScriptedModel


def request(*rows: float, deadline: float = NEVER, priority: int = 0) -> Request:
    x = np.array([[value, value] for value in rows], np.float32)
    return Request({"x": x}, len(rows), deadline=deadline, priority=priority, arrived=monotonic())


def costs(per_row: float, sizes: int = 6, *, flat: bool = True) -> CostModel:
    """`flat`: a batch costs what a row costs; else batches do not pay."""
    model = CostModel()
    for power in range(sizes):
        model.learn(2**power, per_row if flat else per_row * 2**power)
    return model


class House:
    """A batcher with its lanes, opened and closed."""

    def __init__(self, model, cost, lanes=1, max_wait=5.0):
        self.lanes = Lanes(lanes, "test")
        self.batcher = Batcher("m", 3, model, cost, self.lanes, threads=1, max_wait=max_wait)

    async def __aenter__(self):
        self.lanes.open()
        return self.batcher

    async def __aexit__(self, *error):
        await asyncio.to_thread(self.lanes.close)


def first(response) -> float:
    return float(response.outputs["y"][0, 0])


@pytest.fixture(params=["inline", "lanes"])
def per_row(request):
    return 1e-6 if request.param == "inline" else 0.01


async def entered(model: ScriptedModel) -> None:
    await asyncio.to_thread(model.entered.wait, 30)


@pytest.mark.asyncio
async def test_each_gets_its_own_answer(per_row):
    async with House(ScriptedModel(), costs(per_row)) as batcher:
        answers = await asyncio.gather(*(batcher(request(i)) for i in range(40)))
        assert [first(answer) for answer in answers] == [2.0 * i for i in range(40)]
        assert {(answer.model, answer.version) for answer in answers} == {("m", 3)}
        assert batcher.inflight == 0
        assert batcher.recorder.read().success.count == 40


@pytest.mark.asyncio
async def test_what_came_in_one_turn_shares_a_call():
    model = ScriptedModel()
    async with House(model, costs(1e-6)) as batcher:
        await asyncio.gather(*(batcher(request(i)) for i in range(32)))
        assert model.calls == [32]


@pytest.mark.asyncio
async def test_a_lane_takes_what_queued_while_it_was_busy():
    model = ScriptedModel()
    model.gate = threading.Event()
    async with House(model, costs(0.01)) as batcher:
        ones = [asyncio.ensure_future(batcher(request(0)))]
        await entered(model)
        ones += [asyncio.ensure_future(batcher(request(i))) for i in range(1, 8)]
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(*ones)
        assert model.calls == [1, 7], "the first did not wait, the rest went together"


@pytest.mark.asyncio
async def test_batches_that_do_not_pay_are_not_made():
    model = ScriptedModel()
    async with House(model, costs(0.01, flat=False)) as batcher:
        await asyncio.gather(*(batcher(request(i)) for i in range(6)))
        assert model.calls == [1] * 6


@pytest.mark.asyncio
async def test_one_poisoned_row_of_32_fails_alone(per_row):
    model = ScriptedModel()
    async with House(model, costs(per_row)) as batcher:
        sent = [request(i if i != 13 else 2e30) for i in range(32)]
        answers = await asyncio.gather(*map(batcher, sent), return_exceptions=True)
        assert isinstance(answers[13], ModelError)
        for index, answer in enumerate(answers):
            if index != 13:
                np.testing.assert_array_equal(answer.outputs["y"], sent[index].inputs["x"] * np.float32(2))
        assert batcher.recorder.statistics.failures == {"ModelError": 1}


@pytest.mark.asyncio
async def test_a_request_larger_than_a_batch_is_split_and_put_together(per_row):
    model = ScriptedModel()
    cost = costs(per_row, sizes=3)
    assert cost.cap == 4
    async with House(model, cost, lanes=2) as batcher:
        response = await batcher(request(*range(11)))
        assert response.outputs["y"][:, 0].tolist() == [2.0 * i for i in range(11)]
        assert max(model.calls) <= 4
        assert sum(model.calls) == 11


@pytest.mark.asyncio
async def test_a_split_request_fails_whole_and_leaves_nothing_behind(per_row):
    async with House(ScriptedModel(), costs(per_row, sizes=2)) as batcher:
        with pytest.raises(ModelError, match="poison"):
            await batcher(request(1, 2, 3, 2e30, 5))
        assert first(await batcher(request(4))) == 8.0
        assert batcher.inflight == 0


@pytest.mark.asyncio
async def test_expired_work_never_starts():
    model = ScriptedModel()
    model.gate = threading.Event()
    async with House(model, costs(1e-3)) as batcher:
        busy = asyncio.ensure_future(batcher(request(0)))
        await entered(model)
        late = asyncio.ensure_future(batcher(request(7, deadline=monotonic() + 0.05)))
        with pytest.raises(DeadlineExceeded, match="before its turn"):
            await late
        model.gate.set()
        await busy
        assert first(await batcher(request(3))) == 6.0
        assert 7.0 not in model.first


@pytest.mark.asyncio
async def test_a_deadline_also_ends_the_wait_for_work_in_progress():
    model = ScriptedModel()
    model.gate = threading.Event()
    async with House(model, costs(1e-3)) as batcher:
        slow = asyncio.ensure_future(batcher(request(1, deadline=monotonic() + 0.05)))
        with pytest.raises(DeadlineExceeded, match="while it was being computed"):
            await slow
        model.gate.set()


@pytest.mark.asyncio
async def test_a_caller_that_leaves_takes_its_work_along():
    model = ScriptedModel()
    model.gate = threading.Event()
    async with House(model, costs(0.01)) as batcher:
        busy = asyncio.ensure_future(batcher(request(0)))
        await entered(model)
        gone = asyncio.ensure_future(batcher(request(9)))
        stays = asyncio.ensure_future(batcher(request(2)))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        model.gate.set()
        assert first(await stays) == 4.0
        await busy
        assert 9.0 not in model.first
        assert batcher.inflight == 0


@pytest.mark.asyncio
async def test_urgent_requests_overtake():
    model = ScriptedModel()
    model.gate = threading.Event()
    async with House(model, costs(0.01, flat=False)) as batcher:
        waiting = [asyncio.ensure_future(batcher(request(0)))]
        await entered(model)
        waiting += [asyncio.ensure_future(batcher(request(i, priority=p))) for i, p in ((1, 0), (2, 9), (3, 1))]
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(*waiting)
        assert model.first == [0.0, 3.0, 1.0, 2.0]


@pytest.mark.asyncio
async def test_more_than_can_be_answered_in_time_is_turned_away_with_a_time_to_return():
    model = ScriptedModel()
    model.gate = threading.Event()
    async with House(model, costs(1.0, flat=False), max_wait=2.5) as batcher:
        waiting = [asyncio.ensure_future(batcher(request(i))) for i in range(3)]
        await entered(model)
        with pytest.raises(Overloaded) as refused:
            await batcher(request(9))
        assert 1.0 <= refused.value.retry_after <= 3.0
        with pytest.raises(Overloaded):
            await batcher(request(9, deadline=monotonic() + 0.5))
        assert batcher.recorder.statistics.failures == {"Overloaded": 2}
        model.gate.set()
        await asyncio.gather(*waiting)
        assert batcher.wait() == 0.0


@pytest.mark.asyncio
async def test_what_is_on_its_way_to_be_tensors_is_waited_for_too():
    model = ScriptedModel()
    model.gate = threading.Event()
    async with House(model, costs(1.0, flat=False), max_wait=2.5) as batcher:
        busy = asyncio.ensure_future(batcher(request(0)))
        await entered(model)
        batcher.admit(Payload("image", b"", arrived=monotonic()))
        batcher.expect(0, 2)
        batcher.expect(LOWEST, 100)
        with pytest.raises(Overloaded, match="would start this in 3000 ms"):
            batcher.admit(Payload("image", b"", arrived=monotonic()))
        batcher.expect(0, -2)
        batcher.admit(Payload("image", b"", arrived=monotonic()))
        assert batcher.recorder.statistics.failures == {"Overloaded": 1}
        model.gate.set()
        await busy


@pytest.mark.asyncio
async def test_a_dead_worker_costs_each_request_one_retry_only():
    model = ScriptedModel()
    model.deaths = 1
    async with House(model, costs(0.01)) as batcher:
        answers = await asyncio.gather(*(batcher(request(i)) for i in range(4)))
        assert [first(answer) for answer in answers] == [0.0, 2.0, 4.0, 6.0]


@pytest.mark.asyncio
async def test_closing_answers_whoever_waits():
    model = ScriptedModel()
    model.gate = threading.Event()
    async with House(model, costs(0.01, flat=False)) as batcher:
        busy = asyncio.ensure_future(batcher(request(0)))
        await entered(model)
        waits = asyncio.ensure_future(batcher(request(1)))
        await asyncio.sleep(0)
        batcher.close()
        with pytest.raises(NotReady):
            await waits
        model.gate.set()
        await busy


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.one_of(st.integers(0, 1000), st.just(2e30)), min_size=1, max_size=9), min_size=1, max_size=25),
    st.booleans(),
    st.integers(1, 3),
)
def test_permuted_mixed_and_partly_failing_requests_each_get_their_own_answer(sent, inline, lanes):
    async def run():
        async with House(ScriptedModel(), costs(1e-6 if inline else 0.01, sizes=4), lanes=lanes) as batcher:
            return await asyncio.gather(*(batcher(request(*rows)) for rows in sent), return_exceptions=True)

    for rows, answer in zip(sent, asyncio.run(run()), strict=True):
        if 2e30 in rows:
            assert isinstance(answer, ModelError)
        else:
            assert answer.outputs["y"][:, 0].tolist() == [2.0 * value for value in rows]


# --- what can wait --------------------------------------------------------------------------------


async def admitted(batcher, *rows: float):
    """A request of the lowest priority, sent again while it is turned away."""
    while True:
        try:
            return await batcher(request(*rows, priority=LOWEST))
        except Overloaded:
            await asyncio.sleep(0.005)


@pytest.mark.asyncio
async def test_what_can_wait_is_answered_while_nobody_asks_and_counted_nowhere(per_row):
    async with House(ScriptedModel(), costs(per_row)) as batcher:
        answers = await asyncio.gather(*(admitted(batcher, i) for i in range(12)))
        assert [first(answer) for answer in answers] == [2.0 * i for i in range(12)]
        read = batcher.recorder.read()
        assert (read.success.count, read.failure.count, read.inferences, batcher.inflight) == (0, 0, 0, 0)


@pytest.mark.asyncio
async def test_more_rows_than_a_call_takes_can_wait_too():
    async with House(ScriptedModel(), costs(0.001, sizes=3)) as batcher:
        answer = await admitted(batcher, *range(50))
        assert answer.outputs["y"][:, 0].tolist() == [2.0 * i for i in range(50)]
        assert batcher.recorder.read().success.count == 0


@pytest.mark.asyncio
async def test_it_is_turned_away_while_others_are_answered_and_nobody_counts_that():
    model = ScriptedModel()
    model.gate = threading.Event()
    async with House(model, costs(0.01)) as batcher:
        one = asyncio.ensure_future(batcher(request(1)))
        await entered(model)
        with pytest.raises(Overloaded, match="come first"):
            await batcher(request(2, priority=LOWEST))
        model.gate.set()
        await one
        assert batcher.recorder.read().failures == {}


@pytest.mark.asyncio
async def test_others_overtake_it_after_one_call_and_it_never_rides_along():
    model = ScriptedModel()
    async with House(model, costs(0.01)) as batcher:
        await admitted(batcher, 0)
        model.calls.clear()
        model.entered.clear()
        model.gate = threading.Event()
        waiting = [asyncio.ensure_future(admitted(batcher, i)) for i in range(1, 6)]
        await entered(model)
        asked = [asyncio.ensure_future(batcher(request(i))) for i in range(10, 13)]
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(*asked)
        assert model.calls[1] == 3, "the three went together, without any that can wait"
        answers = await asyncio.gather(*waiting)
        assert [first(answer) for answer in answers] == [2.0 * i for i in range(1, 6)]


@pytest.mark.asyncio
async def test_it_is_sent_back_where_others_never_cease(monkeypatch):
    monkeypatch.setattr("rung.serving.batcher._LONGEST_HELD", 0.02)
    model = ScriptedModel()
    async with House(model, costs(0.01)) as batcher:
        await admitted(batcher, 0)
        model.gate = threading.Event()
        model.entered.clear()
        held = asyncio.ensure_future(admitted(batcher, 1))
        await entered(model)
        late = asyncio.ensure_future(batcher(request(2, priority=LOWEST)))
        one = asyncio.ensure_future(batcher(request(3)))
        with pytest.raises(Overloaded, match="come first"):
            await late
        model.gate.set()
        await asyncio.gather(held, one)
        assert batcher.inflight == 0

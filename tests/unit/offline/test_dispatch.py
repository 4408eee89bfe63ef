import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import NotReady
from rung.domain.inference import NewItem, NewRequest
from rung.offline.dispatch import Dispatcher, DispatchOptions, Pace


def asked(*bodies: bytes, **more) -> NewRequest:
    return NewRequest(model="tiny", items=tuple(NewItem(body, "application/json") for body in bodies), **more)


def answers(bench, request: str) -> list:
    return [msgspec.json.decode(bytes(one.answer)) for one in bench.requests.answers(request)]


@pytest.mark.asyncio
async def test_each_item_gets_its_own_answer_or_its_own_error(bench, replicas):
    def say(body, _):
        return 400 if body == b"[13]" else body

    first = bench.requests.accept(asked(*(b"[%d]" % i for i in range(30))))
    other = bench.requests.accept(asked(*(b"[%d]" % i for i in range(100, 120)), unit="ann", accept="text/plain"))
    asks = replicas(say)
    await bench.work(asks, bench.ended(first.id, other.id))
    assert answers(bench, other.id) == [[i] for i in range(100, 120)]
    found = bench.requests.answers(first.id)
    assert [one.place for one in found] == list(range(30))
    assert found[13].state == "failed"
    assert found[13].error == "it said 400"
    assert [msgspec.json.decode(bytes(one.answer)) for one in found if one.state == "done"] == [
        [i] for i in range(30) if i != 13
    ]
    shown = bench.requests.get(first.id)
    assert (shown.state, shown.counts) == ("ended", {"done": 29, "failed": 1})
    assert max(asks.bodies.values()) == 1
    sent = dict(next(one for one in asks.asked if one.body == b"[100]").headers)
    assert (sent["rung-unit"], sent["accept"], sent["rung-priority"]) == ("ann", "text/plain", "999")
    assert found[0].version == 3


@pytest.mark.asyncio
async def test_poison_is_dead_after_five_tries_with_its_reason_and_can_be_replayed(
    bench, replicas, broken, monkeypatch
):
    monkeypatch.setattr("rung.offline.dispatch.random.random", lambda: 0.0)
    monkeypatch.setattr("rung.domain.messages.backoff", lambda *_: 0.0)
    shown = bench.requests.accept(asked(b"[1]", b"[2]"))
    poisonous = True

    def say(body, _):
        return broken if body == b"[1]" and poisonous else body

    asks = replicas(say)
    await bench.work(asks, bench.ended(shown.id))
    [dead, done] = bench.requests.answers(shown.id)
    assert (dead.state, dead.error, dead.tries, done.state) == ("dead", "the connection ended", 5, "done")
    assert asks.bodies[b"[1]"] == 5
    assert [one.id for one in bench.requests.find("tiny", state="dead")] == [shown.id]
    poisonous = False
    bench.requests.replay(shown.id)
    await bench.work(replicas(say), bench.ended(shown.id))
    assert answers(bench, shown.id) == [[1], [2]]


@pytest.mark.asyncio
async def test_what_kills_a_replica_takes_no_other_item_with_it_for_long(bench, replicas, broken, monkeypatch):
    """Whatever is asked beside the poison fails with it, as where a replica dies; even so all others are answered."""
    monkeypatch.setattr("rung.offline.dispatch.random.random", lambda: 0.0)
    monkeypatch.setattr("rung.domain.messages.backoff", lambda *_: 0.0)
    shown = bench.requests.accept(asked(*(b"[%d]" % i for i in range(40))))
    asks = replicas()

    class Dying:
        """All that is in flight when the poison is ends with it."""

        flying = 0
        deaths = 0

        async def ask(self, request, seconds):
            self.flying += 1
            before = self.deaths
            try:
                await asyncio.sleep(0.001)
                if request.body == b"[7]":
                    self.deaths += 1
                    raise broken
                reply = await asks.ask(request, seconds)
                if self.deaths > before:
                    raise broken
                return reply
            finally:
                self.flying -= 1

        def close(self):
            pass

    await bench.work(Dying(), bench.ended(shown.id))
    found = bench.requests.answers(shown.id)
    assert [one.place for one in found if one.state != "done"] == [7]
    assert (found[7].state, found[7].tries) == ("dead", 5)


@pytest.mark.asyncio
async def test_whoever_is_turned_away_asks_again_without_a_try(bench, replicas):
    shown = bench.requests.accept(asked(*(b"[%d]" % i for i in range(8))))

    def say(body, times):
        return [429, 503, NotReady("no replica answers now"), body][min(times, 4) - 1]

    await bench.work(replicas(say), bench.ended(shown.id))
    found = bench.requests.answers(shown.id)
    assert {(one.state, one.tries) for one in found} == {("done", 1)}


@pytest.mark.asyncio
async def test_items_of_a_key_are_asked_in_order(bench, replicas):
    ids = [bench.requests.accept(asked(b"[%d]" % i, b"[%d]" % (i + 1), key="k")).id for i in range(0, 10, 2)]
    asks = replicas()
    await bench.work(asks, bench.ended(*ids))
    assert [one.body for one in asks.asked] == [b"[%d]" % i for i in range(10)]


@pytest.mark.asyncio
async def test_what_is_more_urgent_starts_first(bench, replicas):
    low = bench.requests.accept(asked(b"[0]", b"[1]"))
    high = bench.requests.accept(asked(b"[2]", b"[3]", priority=5))
    asks = replicas()
    await bench.work(asks, bench.ended(low.id, high.id), in_flight=1)
    assert [one.body for one in asks.asked] == [b"[2]", b"[3]", b"[0]", b"[1]"]


@pytest.mark.asyncio
async def test_what_is_too_late_is_never_asked(bench, replicas):
    shown = bench.requests.accept(asked(b"[1]", deadline=bench.clock.now + 5))
    bench.clock.now += 6
    asks = replicas()
    await bench.work(asks, bench.ended(shown.id))
    assert asks.asked == []
    [item] = bench.requests.answers(shown.id)
    assert item.state == "expired"
    assert "deadline passed" in item.error


@pytest.mark.asyncio
async def test_what_was_cancelled_meanwhile_stays_so(bench, replicas):
    shown = bench.requests.accept(asked(b"[1]"))
    asks = replicas()
    asks.gate = asyncio.Event()

    def cancelled():
        if asks.asked and not asks.gate.is_set():
            bench.requests.cancel(shown.id, "a slip")
            asks.gate.set()
        return asks.gate.is_set()

    await bench.work(asks, cancelled)
    [item] = bench.requests.answers(shown.id)
    assert (item.state, item.error, item.answer) == ("cancelled", "a slip", None)


@pytest.mark.asyncio
async def test_what_is_given_twice_has_one_answer(lossy, replicas):
    shown = lossy.requests.accept(asked(b"[1]", b"[2]"))
    messages = list(lossy.queue.held)
    lossy.queue.held *= 3
    times = iter(range(100))
    asks = replicas(lambda body, _: b"[%d]" % next(times))
    await lossy.work(asks, lambda: lossy.ended(shown.id)() and not lossy.queue.held)
    kept = answers(lossy, shown.id)
    before = len(asks.asked)
    lossy.queue.held += messages
    await lossy.work(asks, lambda: not lossy.queue.held)
    assert answers(lossy, shown.id) == kept
    assert len(asks.asked) == before


@pytest.mark.asyncio
async def test_the_last_end_of_a_request_calls_back_once(bench, replicas):
    shown = bench.requests.accept(asked(b"[1]", b"[2]", callback="https://example.com/hook"))
    assert shown.callback == "example.com"
    await bench.work(replicas(), bench.ended(shown.id))
    rows = bench.database.read(
        lambda one: one.exec_driver_sql("SELECT arguments FROM rung_jobs WHERE kind = 'requests.call'").all()
    )
    assert [msgspec.json.decode(row.arguments) for row in rows] == [{"request": shown.id}]


@pytest.mark.asyncio
async def test_what_is_in_flight_at_the_end_is_handed_back(bench, replicas):
    shown = bench.requests.accept(asked(*(b"[%d]" % i for i in range(6))))
    asks = replicas()
    asks.gate = asyncio.Event()
    await bench.work(asks, lambda: asks.asked, drain_seconds=0.0)
    assert bench.requests.get(shown.id).counts == {"waiting": 6}
    leases = bench.queue.take(10)
    assert [lease.attempts for lease in leases] == [1] * 6, "handing back is no try"


@pytest.mark.asyncio
async def test_who_is_cancelled_as_something_changes_ends(bench, replicas):
    dispatcher = Dispatcher(lambda: bench.queue, bench.database, replicas(), DispatchOptions(poll_seconds=0.01))
    running = asyncio.create_task(dispatcher.run())
    async with asyncio.timeout(10):
        while not dispatcher._changed._waiters:  # it waits for something to change
            await asyncio.sleep(0)
    dispatcher._changed.set()
    running.cancel()
    done, _ = await asyncio.wait([running], timeout=10)
    dispatcher.stop()
    assert done, "the cancellation was lost"


@given(st.lists(st.sampled_from(["taken", "refused"]), max_size=300), st.integers(1, 64))
def test_the_pace_stays_within_bounds(events, most):
    pace = Pace(most)
    now = 0.0
    for event in events:
        if event == "taken":
            pace.taken()
        else:
            pace.refused(now)
            assert 0.0 < pace.wait(now, 0) <= 0.5 + 1e-9
        assert 1 <= pace.window <= most
        now += max(pace.wait(now, 0), 0.001)
    assert pace.wait(now, pace.window) == float("inf")


def test_the_pace_halves_once_for_each_round_and_comes_back():
    pace = Pace(64)
    for _ in range(4000):
        pace.taken()
    assert pace.window == 64
    for _ in range(64):
        pace.refused(10.0)
    assert pace.window == 32
    assert pace.wait(10.0, 0) == pytest.approx(0.02)
    for turn in range(20):
        pace.refused(11.0 + turn)
    assert (pace.window, pace.wait(30.0, 0)) == (1, pytest.approx(0.5))
    pace.taken()
    assert pace.wait(31.0, 0) == 0.0

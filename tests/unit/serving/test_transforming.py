import asyncio
import threading

import pytest

from rung.serving.transforming import Pace, TransformPool

pytestmark = pytest.mark.asyncio


@pytest.fixture
def pool():
    made = TransformPool(2)
    yield made
    made.close()


async def test_what_waits_is_told_in_seconds_of_all_threads(pool):
    pace, gate = Pace(), threading.Event()
    pace.learn(4, 2.0)
    assert pace.seconds == 0.5
    assert pool.wait() == 0
    some = [asyncio.ensure_future(pool.run(pace, rows, gate.wait)) for rows in (1, 2, 3)]
    await asyncio.sleep(0)
    assert pool.wait() == pytest.approx(6 * 0.5 / 2)
    gate.set()
    await asyncio.gather(*some)
    gate.clear()
    some = [asyncio.ensure_future(pool.run(pace, 100, gate.wait))]
    await asyncio.sleep(0)
    assert pool.wait() == 0, "the other thread is free"
    gate.set()
    assert await asyncio.gather(*some) == [True]
    assert pool.wait() == 0


async def test_what_fails_or_is_given_up_is_no_longer_ahead(pool):
    pace, gate = Pace(), threading.Event()
    pace.learn(1, 1.0)

    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await pool.run(pace, 1, fail)
    asked = [asyncio.ensure_future(pool.run(pace, 5, gate.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    assert pool.wait() == 5.0
    asked[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked[0]
    assert pool.wait() == 0
    assert pace.seconds == 1.0, "nothing is learned of what did not end"
    gate.set()
    await asked[1]


async def test_a_pace_follows_what_is_measured():
    pace = Pace()
    for _ in range(100):
        pace.learn(10, 1.0)
    assert pace.seconds == pytest.approx(0.1)
    pace.learn(1, 1.1)
    assert pace.seconds == pytest.approx(0.2)

import asyncio
import os
import threading

import pytest

from rung.serving.background import in_background
from rung.serving.lanes import Lanes, cores

pytestmark = pytest.mark.asyncio


@pytest.fixture
def lanes():
    return Lanes(2, "test")


async def run(lanes, call):
    done = asyncio.get_running_loop().create_future()
    lanes.submit(call, lambda value, error: done.set_result((value, error, threading.current_thread())))
    return await done


async def test_results_and_errors_come_back_on_the_loop(lanes):
    lanes.open()
    value, error, thread = await run(lanes, lambda: threading.current_thread().name)
    assert value.startswith("test/")
    assert error is None
    assert thread is threading.main_thread()
    value, error, _ = await run(lanes, lambda: 1 // 0)
    assert value is None
    assert isinstance(error, ZeroDivisionError)
    value, _, _ = await run(lanes, lambda: "lives on")
    assert value == "lives on"
    await asyncio.to_thread(lanes.close)


async def test_as_many_calls_run_at_once_as_there_are_lanes(lanes):
    lanes.open()
    meet = threading.Barrier(2)
    found = await asyncio.gather(*(run(lanes, lambda: meet.wait(30)) for _ in range(2)))
    assert sorted(value for value, _, _ in found) == [0, 1]
    await asyncio.to_thread(lanes.close)


async def test_closing_waits_for_calls_in_work(lanes):
    lanes.open()
    entered, gate, ended = threading.Event(), threading.Event(), []

    def call():
        entered.set()
        gate.wait(30)
        ended.append(True)

    lanes.submit(call, lambda value, error: None)
    await asyncio.to_thread(entered.wait, 30)
    closing = asyncio.ensure_future(asyncio.to_thread(lanes.close))
    await asyncio.sleep(0)
    assert not closing.done()
    gate.set()
    await closing
    assert ended == [True]
    await asyncio.to_thread(lanes.close)  # twice is no error


async def test_cores_follow_the_affinity():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= cores() <= len(allowed)


async def test_background_work_returns_raises_and_can_be_left_alone():
    assert await in_background(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        await in_background(lambda: 1 // 0)
    gate, ended = threading.Event(), threading.Event()

    def call():
        gate.wait(30)
        ended.set()
        raise ValueError("nobody hears this")

    waiting = asyncio.ensure_future(in_background(call))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    gate.set()
    await asyncio.to_thread(ended.wait, 30)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name.startswith("rung-"))

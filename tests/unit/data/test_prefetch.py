"""Stages work at the same time, in bounded memory, and say which item they failed on."""

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data.prefetch import StageFailed, overlap


def sleeping(seconds):
    def stage(item):
        time.sleep(seconds)
        return item

    return stage


def test_three_stages_of_ten_milliseconds_over_a_hundred_items_take_little_more_than_one():
    def extract():
        for item in range(100):
            time.sleep(0.01)
            yield item

    begun = time.perf_counter()
    assert list(overlap(extract(), sleeping(0.01), sleeping(0.01))) == list(range(100))
    # One after the other they take 3 s.
    assert time.perf_counter() - begun < 1.3 * 1.5


def test_no_more_items_wait_than_said():
    alive, most, lock = 0, 0, threading.Lock()

    def make(item):
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return item

    def slow(item):
        time.sleep(0.002)
        return item

    for _ in overlap(range(200), make, slow, ahead=2):
        with lock:
            alive -= 1
    # In each of two queues two, in each of two stages one, and one in hand.
    assert most <= 8


@given(st.lists(st.integers(), max_size=40), st.integers(1, 4), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_the_order_stays_with_any_number_of_threads(items, workers, ahead):
    made = overlap(items, lambda item: item + 1, lambda item: item * 2, workers=workers, ahead=ahead)
    assert list(made) == [(item + 1) * 2 for item in items]


@given(st.integers(1, 20), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_an_exception_carries_its_item_and_what_came_before_is_there(bad, workers):
    def careful(item):
        if item == bad:
            raise ValueError("no such thing")
        return item

    seen = []
    with pytest.raises(StageFailed, match=rf"careful failed on item {bad}: ValueError: no such thing") as caught:
        seen.extend(overlap(range(1, 30), careful, workers=workers))
    assert caught.value.item == bad
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_source_that_breaks_off_is_named():
    def broken():
        yield 1
        yield 2
        raise OSError("the disk is gone")

    seen = []
    with pytest.raises(StageFailed, match="extract failed on item 3: OSError"):
        for item in overlap(broken(), lambda item: item):
            seen.append(item)  # noqa: PERF402 - what came before the exception is what matters
    assert seen == [1, 2]


def test_whoever_leaves_early_leaves_no_thread_behind():
    before = threading.active_count()
    for item in overlap(range(10_000), lambda item: item, workers=3):
        if item == 5:
            break
    assert threading.active_count() == before

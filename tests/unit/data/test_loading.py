"""Batches: every row once an epoch, in an order that only seed and epoch decide, from any place on."""

import threading

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data.loading import Batches


def numbers(count):
    return pl.DataFrame({"n": np.arange(count), "text": [str(one) for one in range(count)]})


def rows(batches, epoch, start=0):
    return [batch["n"].tolist() for batch in batches.epoch(epoch, start)]


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 5), st.integers(0, 5), st.data())
@settings(max_examples=30, deadline=None)
def test_an_epoch_that_goes_on_is_the_rest_of_one_that_was_whole(count, size, seed, epoch, data):
    batches = Batches(numbers(count), size, seed=seed)
    whole = rows(batches, epoch)
    start = data.draw(st.integers(0, len(whole)))
    assert rows(Batches(numbers(count), size, seed=seed), epoch, start) == whole[start:]
    assert sorted(row for batch in whole for row in batch) == list(range(count))
    assert len(batches) == len(whole)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_several_processes_see_what_one_would_have_seen(count, size, world):
    alone = rows(Batches(numbers(count), size, seed=1), 3)
    shares = [rows(Batches(numbers(count), size, seed=1, rank=rank, world=world), 3) for rank in range(world)]
    for place, batch in enumerate(alone):
        together = {row for share in shares for row in share[place]}
        assert together == set(batch)
        assert all(share[place] for share in shares)


def test_epochs_and_seeds_differ_and_repeat():
    frame = numbers(100)
    assert rows(Batches(frame, 100, seed=1), 0) == rows(Batches(frame, 100, seed=1), 0)
    assert rows(Batches(frame, 100, seed=1), 0) != rows(Batches(frame, 100, seed=1), 1)
    assert rows(Batches(frame, 100, seed=1), 0) != rows(Batches(frame, 100, seed=2), 0)
    assert rows(Batches(frame, 30, shuffle=False), 5)[0] == list(range(30))


def test_the_last_batch_may_be_left_out():
    assert [len(one) for one in rows(Batches(numbers(10), 4), 0)] == [4, 4, 2]
    assert [len(one) for one in rows(Batches(numbers(10), 4, drop_last=True), 0)] == [4, 4]


def test_a_transform_gets_batch_epoch_and_row_numbers_in_another_thread():
    seen = []

    def transform(batch, *, epoch, indices):
        seen.append((epoch, threading.current_thread() is threading.main_thread()))
        assert batch["n"].tolist() == indices.tolist()
        return float(batch["n"].sum())

    assert sum(Batches(numbers(10), 4, transform=transform).epoch(7)) == 45
    assert seen == [(7, False)] * 3


def test_what_a_transform_raises_is_raised_where_the_batch_was_waited_for():
    def transform(batch, *, epoch, indices):
        raise ValueError("this picture is broken")

    with pytest.raises(ValueError, match="this picture is broken"):
        list(Batches(numbers(3), 1, transform=transform).epoch(0))


def test_whoever_leaves_early_leaves_no_thread_behind():
    before = threading.active_count()
    for _ in Batches(numbers(1000), 1).epoch(0):
        break
    assert threading.active_count() == before


def test_waiting_for_data_is_counted():
    gate = threading.Event()

    def transform(batch, *, epoch, indices):
        gate.wait(0.05)
        return batch

    batches = Batches(numbers(4), 1, transform=transform)
    list(batches.epoch(0))
    assert batches.waited > 0.1

import pytest

from rung.domain.errors import DeadlineExceeded, ModelError
from rung.domain.predictions import Timing
from rung.serving.recorder import BOUNDS, Recorder


def test_an_answer_is_counted_in_its_bucket():
    recorder = Recorder("m", 1)
    for total in (5e-6, BOUNDS[0], 0.003, 61.0):
        recorder.answered(0.0, total / 2, total)
    statistics = recorder.read()
    assert sum(recorder.total.counts) == 4
    assert recorder.total.counts[0] == 2, "a bound belongs to the bucket below it"
    assert recorder.total.counts[-1] == 1, "beyond the last bound"
    assert statistics.success.count == 4
    assert statistics.success.ns == pytest.approx(61.003e9, rel=1e-4)
    assert statistics.compute.ns == pytest.approx(statistics.success.ns / 2)


def test_nothing_is_lost_when_answers_are_sorted_in_bulk():
    recorder = Recorder("m", 1)
    for _ in range(10_000):
        recorder.answered(1e-4, 1e-3, 2e-3)
    assert [recorder.read().success.count, recorder.read().queue.count] == [10_000, 10_000]
    assert sum(recorder.queue.counts) == 10_000


def test_calls_and_failures():
    recorder = Recorder("m", 1)
    recorder.call(4, 0.5, "idle")
    recorder.call(4, 0.5, "full")
    recorder.call(1, 0.25, "idle")
    recorder.failed(ModelError(), 1.0)
    recorder.failed(DeadlineExceeded(), 2.0)
    statistics = recorder.read()
    assert (statistics.inferences, statistics.executions) == (9, 3)
    assert statistics.reasons == {"idle": 2, "full": 1}
    assert statistics.batches == {4: Timing(2, 10**9), 1: Timing(1, 250_000_000)}
    assert statistics.failures == {"ModelError": 1, "DeadlineExceeded": 1}
    assert statistics.failure == Timing(2, 3 * 10**9)
    assert statistics.success.count == 0
    assert statistics.last > 0

"""Counts and true histograms of one model version. Plain integers: the event loop is the only writer."""

from bisect import bisect_left
from time import time

from rung.domain.predictions import Statistics, Timing

__all__ = ["BOUNDS", "Recorder"]

BOUNDS = (*(base * 10.0**power for power in range(-5, 1) for base in (1.0, 2.5, 5.0)), 10.0, 25.0, 60.0)
"""Upper bounds of the buckets in seconds, 10 us to a minute."""


class Recorder:
    """What one version has answered since it was loaded."""

    __slots__ = ("compute", "compute_sum", "queue", "queue_sum", "statistics", "total", "total_sum")

    def __init__(self, name: str, version: int) -> None:
        self.statistics = Statistics(name=name, version=version)
        self.total = [0] * (len(BOUNDS) + 1)
        self.total_sum = 0.0
        self.queue = [0] * (len(BOUNDS) + 1)
        self.queue_sum = 0.0
        self.compute = [0] * (len(BOUNDS) + 1)
        self.compute_sum = 0.0

    def call(self, rows: int, seconds: float, reason: str) -> None:
        """A model call of `rows` rows took so long and was released for this reason."""
        statistics = self.statistics
        statistics.executions += 1
        statistics.inferences += rows
        statistics.last = time()
        timing = statistics.batches.get(rows)
        if timing is None:
            timing = statistics.batches[rows] = Timing()
        timing.count += 1
        timing.ns += int(seconds * 1e9)
        statistics.reasons[reason] = statistics.reasons.get(reason, 0) + 1

    def answered(self, queued: float, computed: float, total: float) -> None:
        """A request got its answer; seconds in the queue, in the model, and in all since it arrived."""
        self.total[bisect_left(BOUNDS, total)] += 1
        self.total_sum += total
        self.queue[bisect_left(BOUNDS, queued)] += 1
        self.queue_sum += queued
        self.compute[bisect_left(BOUNDS, computed)] += 1
        self.compute_sum += computed

    def failed(self, error: Exception, total: float) -> None:
        """A request got an error."""
        failures = self.statistics.failures
        name = type(error).__name__
        failures[name] = failures.get(name, 0) + 1
        self.statistics.failure.add(total)

    def read(self) -> Statistics:
        """The statistics as of now."""
        statistics = self.statistics
        count = sum(self.total)
        statistics.success = Timing(count, int(self.total_sum * 1e9))
        statistics.queue = Timing(count, int(self.queue_sum * 1e9))
        statistics.compute = Timing(count, int(self.compute_sum * 1e9))
        return statistics

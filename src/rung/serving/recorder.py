"""Counts and true histograms of one model version. Plain integers: the event loop is the only writer."""

from time import time

import numpy as np

from rung.domain.errors import ClientError
from rung.domain.predictions import Statistics, Timing
from rung.domain.tensors import Array
from rung.telemetry import exceptions

__all__ = ["BOUNDS", "Histogram", "Recorder"]

_FOLD = 4096

BOUNDS = (*(base * 10.0**power for power in range(-5, 1) for base in (1.0, 2.5, 5.0)), 10.0, 25.0, 60.0)
"""Upper bounds of the buckets in seconds, 10 us to a minute."""


class Histogram:
    """Durations in buckets."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        """Per bucket, not cumulated."""
        self.sum = 0.0

    def add(self, seconds: Array) -> None:
        """Sort in durations, float64 [N]."""
        buckets = np.bincount(np.searchsorted(BOUNDS, seconds), minlength=len(self.counts))
        self.counts = (np.asarray(self.counts) + buckets).tolist()
        self.sum += float(seconds.sum())

    def timing(self) -> Timing:
        """Count and sum."""
        return Timing(sum(self.counts), int(self.sum * 1e9))


class Recorder:
    """What one version has answered since it was loaded.

    Answers are kept as they come and sorted into the histograms when somebody looks, or at 4,096.
    """

    __slots__ = ("compute", "fresh", "queue", "shortcuts", "statistics", "total")

    def __init__(self, name: str, version: int) -> None:
        self.statistics = Statistics(name=name, version=version)
        self.total = Histogram()
        """From the arrival of a request to its answer."""
        self.queue = Histogram()
        """From its place in the queue to the start of its model call."""
        self.compute = Histogram()
        """The model call that it was part of."""
        self.fresh: list[tuple[float, float, float]] = []
        """Seconds queued, computed and in all of answers that are not sorted in yet."""
        self.shortcuts: list[float] = []
        """Seconds in all of answers that took no call of their own, not sorted in yet."""

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
        self.fresh.append((queued, computed, total))
        self.tidy()

    def reused(self, total: float) -> None:
        """A request got an answer that was kept, or that another's call gave; seconds in all since it arrived."""
        self.shortcuts.append(total)
        if len(self.shortcuts) >= _FOLD:
            self._fold()

    def tidy(self) -> None:
        """Sort answers in when there are many; call after adding to `fresh`."""
        if len(self.fresh) >= _FOLD:
            self._fold()

    def _fold(self) -> None:
        if self.shortcuts:
            self.total.add(np.array(self.shortcuts))
            self.shortcuts = []
        fresh, self.fresh = self.fresh, []
        if fresh:
            columns = np.array(fresh).T
            for histogram, column in zip((self.queue, self.compute, self.total), columns, strict=True):
                histogram.add(column)

    def failed(self, error: Exception, total: float) -> None:
        """A request got an error."""
        failures = self.statistics.failures
        name = type(error).__name__
        failures[name] = failures.get(name, 0) + 1
        self.statistics.failure.add(total)
        if not isinstance(error, ClientError):
            exceptions.count(error, f"{self.statistics.name} {self.statistics.version}")

    def read(self) -> Statistics:
        """The statistics as of now; the histograms are up to date after it."""
        self._fold()
        statistics = self.statistics
        statistics.success = self.total.timing()
        statistics.queue = self.queue.timing()
        statistics.compute = self.compute.timing()
        return statistics

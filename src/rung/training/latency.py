"""How long a version takes for an answer, in this process: transforms and model, without a door."""

import math
import time
from typing import TYPE_CHECKING

import numpy as np

from rung.domain.scorecards import Figure, Latency
from rung.settings.project import DataSection
from rung.training.answering import Answerer

if TYPE_CHECKING:
    import polars as pl

__all__ = ["compare", "measure", "quantile"]

_CALLS, _SECONDS, _WARM = 400, 1.5, 3
_ROUNDS, _LEAST, _TURN = 21, 6, 20
"""Six rounds are the fewest that hold an interval of their median."""
_ROWS, _PICTURES = 32, 8


def measure(answerer: Answerer, frame: "pl.DataFrame", section: DataSection) -> tuple[Latency, ...]:
    """Time calls of one row and of a batch, after warming up, with rows of the table in turn.

    Each takes 1.5 s or 400 calls, whichever comes first. A call that the version refuses is passed over: give rows that
    it has answered.
    """
    columns = answerer.columns(frame, section)
    most = min(_PICTURES if answerer.pictures else _ROWS, answerer.largest, frame.height)
    return tuple(found for size in sorted({1, most}) if (found := _timed(answerer, frame, columns, size)) is not None)


def _timed(answerer: Answerer, frame: "pl.DataFrame", columns: tuple[str, ...], size: int) -> Latency | None:
    seconds: list[float] = []
    starts = list(range(0, frame.height - size + 1, size))
    until = math.inf
    for call in range(_WARM + _CALLS):
        if call == _WARM:
            until = time.perf_counter() + _SECONDS
        payload = answerer.payload(frame[starts[call % len(starts)] :][:size], columns)
        took = answerer.timed(payload)
        if took is not None and call >= _WARM:
            seconds.append(took)
        if time.perf_counter() > until:
            break
    p50 = quantile(seconds, 0.5, "p50")
    return Latency(size, len(seconds), p50, quantile(seconds, 0.99, "p99")) if p50 else None


def compare(old: Answerer, new: Answerer, frame: "pl.DataFrame", section: DataSection) -> Figure | None:
    """How many times as long a call of one row takes with `new`: the median over rounds, by order statistics.

    In each of 21 rounds both are asked the same rows by turns, so that whatever else the machine does slows both. It
    takes 20 calls of each a round or 3 s, whichever comes first, but 6 rounds. Give rows that both have answered; None
    where one of them is refused.
    """
    sides = [(one, one.columns(frame, section)) for one in (old, new)]
    ratios: list[float] = []
    until = time.perf_counter() + 2 * _SECONDS
    for turn in range(_WARM + _ROUNDS):
        took = _turn(sides, frame, turn)
        if took is None:
            return None
        if turn >= _WARM:
            before, now = np.median(took, axis=0)
            ratios.append(float(now / before))
        if len(ratios) >= _LEAST and time.perf_counter() > until:
            break
    return quantile(ratios, 0.5, "ratio", unit="")


def _turn(sides: list[tuple[Answerer, tuple[str, ...]]], frame: "pl.DataFrame", turn: int) -> list[list[float]] | None:
    """Seconds of both for each of some rows; None where one is refused."""
    took: list[list[float]] = []
    ends = time.perf_counter() + 2 * _SECONDS / _ROUNDS
    while not took or (len(took) < _TURN and time.perf_counter() < ends):
        row = frame[(turn * _TURN + len(took)) % frame.height :][:1]
        seconds = [0.0, 0.0]
        for side in (0, 1) if len(took) % 2 else (1, 0):
            answerer, columns = sides[side]
            one = answerer.timed(answerer.payload(row, columns))
            if one is None:
                return None
            seconds[side] = one
        took.append(seconds)
    return took


def quantile(seconds: list[float], q: float, name: str, *, level: float = 0.95, unit: str = "s") -> Figure | None:
    """A quantile between two of the values themselves, whatever their distribution (order statistics).

    The number of values under the quantile is binomial. None where so few values cannot hold it at the level: the
    99th percentile takes 368.
    """
    from scipy.stats import binom

    count = len(seconds)
    if not count:
        return None
    ordered = np.sort(seconds)
    below = int(binom.ppf((1 - level) / 2, count, q))
    above = int(binom.ppf((1 + level) / 2, count, q)) + 1
    if below < 1 or above > count:
        return None
    value = float(ordered[min(math.ceil(q * count), count) - 1])
    low, high = float(ordered[below - 1]), float(ordered[above - 1])
    return Figure(name, value, low, high, count, count, "order statistics", level, unit)

"""Two graphs timed by turns in one process, so that whatever else the machine does slows both."""

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rung.domain.tensors import Array, Tensors
from rung.training.compress.graph import session
from rung.training.compress.report import Latency

__all__ = ["measure"]

_SECONDS = 1.0
"""For one size of batch."""
_PAIRS, _ROUNDS = 6, 6
"""Two sessions of one graph differ by where their memory lies, so sessions are what varies: a pair counts once."""
_LARGE, _LARGE_PICTURES = 32, 4
_PICTURE = 10_000
"""Elements of a row from which on it counts as a picture."""


def measure(before: Any, after: Any, rows: Sequence[Tensors], *, batched: bool) -> tuple[Latency, ...]:
    """Time calls of one row, and of 32 (pictures: 4) where there are so many and rows may be put together.

    Of each of several pairs of new sessions: rounds of some calls of one graph and then as many of the other, the
    order changing by turns. The interval of the ratio is Student's t on the pairs' mean logarithms of ratios.

    Args:
        before: a graph.
        after: the other.
        rows: batches of inputs.
        batched: whether the first dimension counts rows.
    """
    if not batched:
        batches = {1: dict(rows[0])}
    else:
        together = {name: np.concatenate([batch[name] for batch in rows]) for name in rows[0]}
        count = len(next(iter(together.values())))
        elements = sum(array[0].size for array in together.values())
        sizes = sorted({1, min(_LARGE if elements < _PICTURE else _LARGE_PICTURES, count)})
        batches = {size: {name: array[:size] for name, array in together.items()} for size in sizes}
    times: dict[int, list[tuple[float, float]]] = {size: [] for size in batches}
    for _ in range(_PAIRS):
        sessions = session(before), session(after)
        for size, inputs in batches.items():
            times[size] += _paired(sessions, inputs)
    return tuple(_ratio(size, found) for size, found in times.items())


def _paired(sessions: tuple[Any, Any], inputs: dict[str, Array]) -> list[tuple[float, float]]:
    """Median seconds of both, of each round."""
    for one in sessions:
        for _ in range(3):
            one.run(None, inputs)
    once = max(_time(one, inputs) for one in sessions)
    # So many calls that a round is long beside the clock, and short beside whatever disturbs.
    calls = max(1, min(50, round(_SECONDS / (2 * _PAIRS * _ROUNDS * once))))
    rounds = []
    for turn in range(_ROUNDS):
        medians = [0.0, 0.0]
        for side in (0, 1) if turn % 2 else (1, 0):
            medians[side] = float(np.median([_time(sessions[side], inputs) for _ in range(calls)]))
        rounds.append((medians[0], medians[1]))
    return rounds


def _ratio(size: int, found: list[tuple[float, float]]) -> Latency:
    from scipy.stats import t

    seconds = np.array(found)
    logs = np.log(seconds[:, 1] / seconds[:, 0]).reshape(_PAIRS, _ROUNDS).mean(axis=1)
    middle, error = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(_PAIRS)
    radius = float(t.ppf(0.975, _PAIRS - 1)) * error
    return Latency(
        rows=size,
        before=float(np.median(seconds[:, 0])),
        after=float(np.median(seconds[:, 1])),
        ratio=math.exp(middle),
        low=math.exp(middle - radius),
        high=math.exp(middle + radius),
        sessions=_PAIRS,
    )


def _time(opened: Any, inputs: dict[str, Array]) -> float:
    started = time.perf_counter()
    opened.run(None, inputs)
    return time.perf_counter() - started

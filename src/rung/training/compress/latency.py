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
_ROUNDS = 40
_LEAST_ROUNDS = 8
_LARGE, _LARGE_PICTURES = 32, 4
_PICTURE = 10_000
"""Elements of a row from which on it counts as a picture."""


def measure(before: Any, after: Any, rows: Sequence[Tensors], *, batched: bool) -> tuple[Latency, ...]:
    """Time calls of one row, and of 32 (pictures: 4) where there are so many and rows may be put together.

    A round is some calls of one graph and then as many of the other, the order changing by turns; the interval of the
    ratio is Student's t on the logarithms of the rounds' ratios of medians.

    Args:
        before: a graph.
        after: the other.
        rows: batches of inputs.
        batched: whether the first dimension counts rows.
    """
    sessions = session(before), session(after)
    if not batched:
        return (_paired(sessions, dict(rows[0]), 1),)
    together = {name: np.concatenate([batch[name] for batch in rows]) for name in rows[0]}
    count = len(next(iter(together.values())))
    elements = sum(array[0].size for array in together.values())
    sizes = sorted({1, min(_LARGE if elements < _PICTURE else _LARGE_PICTURES, count)})
    return tuple(_paired(sessions, {name: array[:size] for name, array in together.items()}, size) for size in sizes)


def _paired(sessions: tuple[Any, Any], inputs: dict[str, Array], size: int) -> Latency:
    from scipy.stats import t

    for one in sessions:
        for _ in range(3):
            one.run(None, inputs)
    once = max(_time(one, inputs) for one in sessions)
    # So many calls that a round is long beside the clock, and short beside whatever disturbs.
    calls = max(1, min(50, round(_SECONDS / (2 * _ROUNDS * once))))
    medians: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + _SECONDS
    for turn in range(_ROUNDS):
        if turn >= _LEAST_ROUNDS and time.perf_counter() > until:
            break
        for side in (0, 1) if turn % 2 else (1, 0):
            medians[side].append(float(np.median([_time(sessions[side], inputs) for _ in range(calls)])))
    logs = np.log(np.array(medians[1]) / np.array(medians[0]))
    middle, error = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs))
    radius = float(t.ppf(0.975, len(logs) - 1)) * error
    return Latency(
        size,
        float(np.median(medians[0])),
        float(np.median(medians[1])),
        math.exp(middle),
        math.exp(middle - radius),
        math.exp(middle + radius),
        len(logs),
    )


def _time(opened: Any, inputs: dict[str, Array]) -> float:
    started = time.perf_counter()
    opened.run(None, inputs)
    return time.perf_counter() - started

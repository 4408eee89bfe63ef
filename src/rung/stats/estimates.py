"""Estimates that know how much each row moves them: intervals, differences of two on the same rows, parts of the rows.

The influence of a row on an estimate is how fast the estimate changes with the weight of that row, times the number
of rows. Its mean is 0, and the variance of the estimate is that of the influences over their number. Rows of one group
are alike, so their influences are added before they are squared (Liang and Zeger, 1986), and the t distribution
has one degree of freedom less than there are groups. The difference of two models on the same rows has the difference
of their influences: what both find hard cancels out.

A share from 0 to 1 gets Wilson's interval at the number of coin tosses that would be as uncertain (Korn and
Graubard, 1998): it stays within 0 and 1, and does not shrink to a point where all rows are right.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import msgspec

from rung.domain.errors import InvalidInput
from rung.stats.intervals import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Groups = NDArray[np.int64]

__all__ = ["Estimate", "average", "holm", "interval", "mean", "paired", "part_against_rest"]

Kind = Literal["share", "size", "gap", "free"]
"""`share`: within 0 and 1. `size`: at least 0. `gap`: at most 1, such as R2. `free`: any number."""


class Estimate(msgspec.Struct):
    """A number worked out of rows."""

    name: str
    value: float
    influence: "Array"
    """[rows], mean 0; 0 for rows that it does not depend on."""
    kind: Kind = "size"
    counted: "NDArray[np.bool_] | None" = None
    """[rows], those that it depends on; None: all."""
    scarce: int = 0
    """Rows of the scarcest part that it depends on, such as those of the rarest class; 0: as many as are counted."""
    of: str = ""
    """The class it is about."""
    parts: tuple["Estimate", ...] = ()
    """Those that it is the mean of."""


def mean(name: str, values: "Array", kind: Kind = "size") -> Estimate:
    """The mean of one value for each row.

    Raises:
        InvalidInput: when there are none.
    """
    if not len(values):
        raise InvalidInput(f"There are no rows to take {name} of.", field="values")
    value = float(values.mean())
    return Estimate(name, value, values - value, kind)


def average(name: str, parts: Sequence[Estimate]) -> Estimate:
    """The mean of several shares, such as those of the classes."""
    value = sum(part.value for part in parts) / len(parts)
    influence = sum((part.influence for part in parts[1:]), parts[0].influence) / len(parts)
    return Estimate(name, value, influence, "share", parts=tuple(parts))


def interval(estimate: Estimate, groups: "Groups | None" = None, *, level: float = 0.95) -> Interval:
    """The interval of an estimate.

    Args:
        estimate: of some rows.
        groups: [rows], numbers from 0: rows of equal number are alike. None: rows are independent.
        level: of the interval.

    Raises:
        InvalidInput: fewer than two groups, from which nothing can be said about their variation.
    """
    rows, units = _counts(estimate, groups)
    if units < 2:
        raise InvalidInput(
            f"{estimate.name} was counted on {rows} rows of {units} group: an interval takes two at least.",
            field="groups",
        )
    by = " by group" if groups is not None else ""
    value, counts = estimate.value, {"rows": rows, "groups": units}
    if estimate.parts:
        return Interval(value, *_of_parts(estimate, groups, level), level, f"Wilson by part{by}", counts)
    error = math.sqrt(_variance(estimate.influence, estimate.counted, groups))
    scarce = min(estimate.scarce or units, units)
    quantile = _t(level, max(scarce - 1, 1))
    if estimate.kind == "share":
        return Interval(value, *_wilson(value, error, scarce, quantile), level, f"Wilson{by}", counts)
    size = 1 - value if estimate.kind == "gap" else value
    if estimate.kind != "free" and size > 0:
        # Errors have a long tail upward; on a logarithmic scale the mean is nearer to normal, and stays above 0.
        factor = math.exp(quantile * error / size)
        low, high = size / factor, size * factor
        low, high = (1 - high, 1 - low) if estimate.kind == "gap" else (low, high)
        return Interval(value, low, high, level, f"t of the logarithm{by}", counts)
    radius = quantile * error
    return Interval(value, value - radius, value + radius, level, f"t{by}", counts)


def _of_parts(whole: Estimate, groups: "Groups | None", level: float) -> tuple[float, float]:
    """Of a mean of shares, from the intervals of each (Zou and Donner, 2008).

    Each part gives its own distance to either end, and parts that move together add up to more. So a class of few
    rows that were all right does not count as known for certain.
    """
    import numpy as np

    ends = [interval(part, groups, level=level) for part in whole.parts if _units_of(part, groups) > 1]
    known = [part for part in whole.parts if _units_of(part, groups) > 1]
    if len(known) < len(whole.parts):
        return 0.0, 1.0
    moved = np.stack([_summed(part.influence, groups) for part in known])
    lengths = np.sqrt(np.einsum("ij,ij->i", moved, moved))
    moved /= np.where(lengths > 0, lengths, 1.0)[:, None]
    together = moved @ moved.T
    np.fill_diagonal(together, 1.0)
    down = np.array([one.estimate - one.low for one in ends])
    up = np.array([one.high - one.estimate for one in ends])
    below, above = (math.sqrt(max(float(reach @ together @ reach), 0.0)) / len(known) for reach in (down, up))
    return max(whole.value - below, 0.0), min(whole.value + above, 1.0)


def paired(new: Estimate, old: Estimate, groups: "Groups | None" = None, *, level: float = 0.95) -> Interval:
    """Of the difference of two models on the same rows, `new` less `old`.

    For shares of single rows the error is not taken to be smaller than that of Agresti and Min (2005), who add half a
    row to each of the four cells: two models that agree on few rows are not known to be equal.
    """
    rows, units = _counts(new, groups)
    if units < 2:
        raise InvalidInput("A paired difference takes two rows, or groups, at least.", field="groups")
    moved = new.influence - old.influence
    difference = new.value - old.value
    variance = _variance(moved, None, groups)
    if new.kind == "share":
        apart = _apart(moved + difference)
        if apart is not None:
            total = units + 2
            share = (apart * units / rows + 1) / total
            variance = max(variance, (share - (difference * units / total) ** 2) / total)
    radius = _t(level, units - 1) * math.sqrt(variance)
    method = "paired t by group" if groups is not None else "paired t"
    return Interval(
        difference, difference - radius, difference + radius, level, method, {"rows": rows, "groups": units}
    )


def part_against_rest(
    part: Estimate,
    rest: Estimate,
    inside: "NDArray[np.bool_]",
    groups: "Groups | None" = None,
    *,
    level: float = 0.95,
) -> tuple[Interval, float]:
    """The difference of a part of the rows less the rest, and the p-value of "the part is not lower".

    Args:
        part: worked out of the rows inside only.
        rest: worked out of the others.
        inside: [rows], which is which.
        groups: [rows]; a group may have rows on both sides.
        level: of the interval.
    """
    import numpy as np
    from scipy.stats import t

    rows = len(inside)
    influence = np.zeros(rows)
    influence[inside] = part.influence * (rows / len(part.influence))
    influence[~inside] = -rest.influence * (rows / len(rest.influence))
    both = [_units(None if groups is None else groups[side], int(side.sum())) for side in (inside, ~inside)]
    freedom = max(min(both) - 1, 1)
    error = math.sqrt(_variance(influence, None, groups))
    difference = part.value - rest.value
    radius = _t(level, freedom) * error
    p = float(t.cdf(difference / error, freedom)) if error else (0.0 if difference < 0 else 1.0)
    counts = {"rows": int(inside.sum()), "groups": both[0], "others": int((~inside).sum())}
    method = "t of the difference by group" if groups is not None else "t of the difference"
    return Interval(difference, difference - radius, difference + radius, level, method, counts), p


def holm(p_values: Sequence[float], alpha: float = 0.05) -> list[bool]:
    """Which of several tests reject, so that one or more do so wrongly with at most `alpha` (Holm, 1979)."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    rejected = [False] * len(p_values)
    for rank, place in enumerate(order):
        if p_values[place] > alpha / (len(p_values) - rank):
            break
        rejected[place] = True
    return rejected


def _counts(estimate: Estimate, groups: "Groups | None") -> tuple[int, int]:
    counted = estimate.counted
    rows = len(estimate.influence) if counted is None else int(counted.sum())
    if groups is not None and counted is not None:
        groups = groups[counted]
    return rows, _units(groups, rows)


def _units(groups: "Groups | None", rows: int) -> int:
    import numpy as np

    return rows if groups is None else len(np.unique(groups))


def _units_of(estimate: Estimate, groups: "Groups | None") -> int:
    return _counts(estimate, groups)[1]


def _summed(influence: "Array", groups: "Groups | None") -> "Array":
    """Added up within each group."""
    import numpy as np

    if groups is None:
        return influence
    places = np.unique(groups, return_inverse=True)[1]
    return np.bincount(places, weights=influence).astype(np.float64)


def _variance(influence: "Array", counted: "NDArray[np.bool_] | None", groups: "Groups | None") -> float:
    """Of the estimate: sum of squares of the groups' influences, with the usual n / (n - 1)."""
    rows = len(influence)
    if counted is not None:
        influence = influence[counted]
        groups = None if groups is None else groups[counted]
    summed = _summed(influence, groups)
    units = len(summed)
    return float(summed @ summed) / rows**2 * (units / (units - 1)) if units > 1 else 0.0


def _wilson(value: float, error: float, scarce: int, quantile: float) -> tuple[float, float]:
    spread = value * (1 - value)
    # Where all rows say the same, nothing is seen of their spread: then each counts as one toss.
    tosses = spread / error**2 if spread > 0 and error > 0 else float(scarce)
    square = quantile * quantile
    centre = (value + square / (2 * tosses)) / (1 + square / tosses)
    radius = quantile * math.sqrt(spread / tosses + square / (4 * tosses * tosses)) / (1 + square / tosses)
    return max(min(centre - radius, value), 0.0), min(max(centre + radius, value), 1.0)


def _apart(differences: "Array") -> int | None:
    """Rows on which two models with answers right or wrong differ; None where rows are not simply right or wrong."""
    import numpy as np

    rounded = np.round(differences)
    return int(np.abs(rounded).sum()) if np.allclose(differences, rounded, atol=1e-9) else None


@lru_cache(256)
def _t(level: float, freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + level) / 2, freedom))

"""Intervals for figures that are looked at once, when all units are in; before that, use those of `sequential`."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from rung.domain.errors import InvalidInput
from rung.stats.sequential import Moments

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Interval", "bootstrap", "clopper_pearson", "welch", "wilson"]


class Interval(msgspec.Struct, frozen=True):
    """An estimate with its uncertainty. Printed, it names its method and its counts."""

    estimate: float
    low: float
    high: float
    level: float
    """Probability that such an interval holds the true value."""
    method: str
    counts: dict[str, int]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        ends = f"[{self.low:.4g}, {self.high:.4g}]"
        return f"{self.estimate:.4g} {ends} ({100 * self.level:g} %, {self.method}; {counts})"


def wilson(events: int, count: int, *, level: float = 0.95) -> Interval:
    """Of a rate, by Wilson's score (1927): close to its level on average, also for few events.

    Raises:
        InvalidInput: when there are more events than units, or no units.
    """
    from scipy.stats import norm

    rate = _rate(events, count)
    z = float(norm.ppf((1 + level) / 2))
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    radius = z * math.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    low, high = max(min(centre - radius, rate), 0.0), min(max(centre + radius, rate), 1.0)
    return Interval(rate, low, high, level, "Wilson", {"events": events, "units": count})


def clopper_pearson(events: int, count: int, *, level: float = 0.95) -> Interval:
    """Of a rate, by inverting the binomial test (Clopper and Pearson, 1934): never below its level.

    Raises:
        InvalidInput: when there are more events than units, or no units.
    """
    from scipy.stats import beta

    rate, tail = _rate(events, count), (1 - level) / 2
    low = float(beta.ppf(tail, events, count - events + 1)) if events else 0.0
    high = float(beta.isf(tail, events + 1, count - events)) if events < count else 1.0
    return Interval(rate, low, high, level, "Clopper-Pearson", {"events": events, "units": count})


def welch(baseline: Moments, candidate: Moments, *, level: float = 0.95) -> Interval:
    """Of the difference of means, candidate less baseline, with unequal variances (Welch, 1947).

    Raises:
        InvalidInput: when an arm has fewer than two units.
    """
    from scipy.stats import t

    arms = (baseline, candidate)
    if min(arm.count for arm in arms) < 2:
        raise InvalidInput("A difference of means needs two units in each arm.", field="count")
    parts = [arm.variance / (arm.count - 1) for arm in arms]
    estimate, variance = candidate.mean - baseline.mean, sum(parts)
    radius = 0.0
    if variance:
        freedom = variance**2 / sum(part**2 / (arm.count - 1) for part, arm in zip(parts, arms, strict=True))
        radius = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(variance)
    counts = {"baseline": baseline.count, "candidate": candidate.count}
    return Interval(estimate, estimate - radius, estimate + radius, level, "Welch", counts)


def bootstrap(
    units: Sequence["Array"],
    statistic: Callable[["Array"], float],
    *,
    rng: "np.random.Generator",
    level: float = 0.95,
    repeats: int = 1_000,
) -> Interval:
    """Of any statistic, by drawing whole units with replacement (percentiles; Efron, 1979).

    Args:
        units: for each unit (user, slide) its values, of shape (values, ...): they stay together, for they are alike.
        statistic: takes the values of all units drawn, joined on the first axis.
        rng: where chance comes from.
        level: of the interval.
        repeats: how often to draw.

    Raises:
        InvalidInput: when there are no units.
    """
    import numpy as np

    if not units:
        raise InvalidInput("There are no units to draw from.", field="units")
    estimate = float(statistic(np.concatenate(units)))
    drawn = [
        float(statistic(np.concatenate([units[place] for place in rng.integers(len(units), size=len(units))])))
        for _ in range(repeats)
    ]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    counts = {"units": len(units), "values": sum(len(one) for one in units), "draws": repeats}
    return Interval(estimate, float(low), float(high), level, "bootstrap by unit", counts)


def _rate(events: int, count: int) -> float:
    if not 0 <= events <= count or not count:
        raise InvalidInput(f"{events} events among {count} units are no rate.", field="events")
    return events / count

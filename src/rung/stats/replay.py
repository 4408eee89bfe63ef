"""How often a rule would have been wrong on traffic that was really there: a quiet log, split by chance many times."""

import math
from typing import TYPE_CHECKING

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.rules import Rule
from rung.stats.quantiles import Histogram, cumulative, p_values
from rung.stats.simulate import Measured, Sums, evidence, measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Plan", "replay"]

_AT_ONCE = 2_000_000
"""Values of all runs that are held at once."""


class Plan(msgspec.Struct, frozen=True):
    """How to replay."""

    share: float = 0.5
    """The candidate's share of the units."""
    looks: int = 50
    """At equal distances."""
    runs: int = 500
    harm: float = 0.0
    """Done to the candidate. For values of 0 and 1 so many more (or, where lower is worse, fewer) of its units have
    an event; other values are shifted by it; latencies become so many times longer: 0.5 for half as long again."""


def replay(rule: Rule, values: "Array", plan: Plan, *, rng: "np.random.Generator") -> Measured:
    """How often the rule fails a candidate that is the baseline, plus `plan.harm`: false alarms without, power with.

    Args:
        rule: of any kind.
        values: one per unit of a time when nothing was released, in the order of time; seconds for a quantile.
        plan: how to replay.
        rng: where chance comes from.

    Raises:
        InvalidInput: when a value is not finite, there are fewer units than looks, or the harm is more than there
            is room for.
    """
    import numpy as np

    known = np.asarray(values, dtype=float)
    if not np.isfinite(known).all() or len(known) < plan.looks:
        raise InvalidInput(f"{len(known)} values do not make {plan.looks} looks, or one is not finite.", field="values")
    at = np.linspace(0, len(known), plan.looks + 1).astype(int)[1:]
    if rule.metric.kind == "quantile":
        return measure(_latencies(rule, known, plan, at, rng), rule.alpha, at)
    size = max(1, _AT_ONCE // len(known))
    found = [_moments(rule, known, plan, at, rng, min(size, plan.runs - done)) for done in range(0, plan.runs, size)]
    return measure(np.concatenate(found), rule.alpha, at)


def _moments(
    rule: Rule, values: "Array", plan: Plan, at: "NDArray[np.int64]", rng: "np.random.Generator", runs: int
) -> "Array":
    import numpy as np

    arms = rng.random((runs, len(values))) < plan.share
    harmed = _harm(values, plan.harm if rule.metric.worse == "higher" else -plan.harm, runs, rng)
    starts = np.concatenate([[0], at[:-1]])

    def sums(mask: "NDArray[np.bool_]", of: "Array") -> Sums:
        parts = (mask.astype(float), np.where(mask, of, 0.0), np.where(mask, of * of, 0.0))
        return Sums(*(np.add.reduceat(part, starts, axis=1).cumsum(axis=1) for part in parts))

    return evidence(rule, sums(~arms, np.broadcast_to(values, arms.shape)), sums(arms, harmed), share=plan.share)


def _harm(values: "Array", harm: float, runs: int, rng: "np.random.Generator") -> "Array":
    """The values of each run with the harm done, of shape (runs, units)."""
    import numpy as np

    every = np.broadcast_to(values, (runs, len(values)))
    if not harm or not np.isin(values, (0.0, 1.0)).all():
        return every + harm
    room = 1 - values.mean() if harm > 0 else values.mean()
    if abs(harm) > room:
        raise InvalidInput(f"A harm of {abs(harm):g} is more than the {room:.4g} there is room for.", field="harm")
    turned = rng.random(every.shape) < abs(harm) / room
    return np.where(turned, 1.0 if harm > 0 else 0.0, every)


def _latencies(rule: Rule, values: "Array", plan: Plan, at: "NDArray[np.int64]", rng: "np.random.Generator") -> "Array":
    import numpy as np

    found = np.empty((plan.runs, len(at)))
    for run in range(plan.runs):
        arms, start = rng.random(len(values)) < plan.share, 0
        baseline = candidate = cumulative(Histogram())
        for look, end in enumerate(at):
            chosen, part = arms[start:end], values[start:end]
            baseline = baseline + cumulative(Histogram.of(part[~chosen]))
            candidate = candidate + cumulative(Histogram.of(part[chosen] * (1 + plan.harm)))
            p, _ = p_values(baseline, candidate, quantile=rule.quantile, ratio=rule.ratio)
            found[run, look], start = -math.log(p), end
    return found

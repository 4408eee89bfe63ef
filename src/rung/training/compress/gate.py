"""Whether a compressed version may be registered: pure rules on what was measured.

A drop is shown to be too large, shown to be small enough, or neither. Neither is not a pass.
"""

import math

from rung.domain.metrics import Direction
from rung.domain.rules import Verdict, combine
from rung.domain.scorecards import Figure

__all__ = ["allowed", "drop", "judge", "size"]

_LEVEL = 0.95


def allowed(limit: float, before: Figure) -> float:
    """The largest drop in the metric's own measure: of a share, `limit` itself; of an error, that share of it."""
    return limit * abs(before.value) if before.unit else limit


def drop(difference: Figure, limit: float, direction: Direction, *, looks: int = 1) -> Verdict:
    """Judge how much worse the metric is.

    Args:
        difference: after less before, on the same rows, with an interval of 95 % by Student's t.
        limit: the largest drop, in the metric's measure.
        direction: which way the metric gets better.
        looks: how many candidates may be judged until one passes. Each gets its share of the 5 %, so that with all
            together one that is too bad still passes with no more (Bonferroni).
    """
    level = 1 - (1 - _LEVEL) / looks
    low, high = _widened(difference, level)
    worst, best = (-low, -high) if direction == "maximize" else (high, low)
    lost = -difference.value if direction == "maximize" else difference.value
    if difference.name == "accuracy" and 0 < limit < 1:
        # To lose `limit` of the rows, as many must have turned wrong at least: a model that is too bad cannot vary
        # less than that, however few of its rows happened to turn here (a score test, as that of Tango, 1998).
        least = math.sqrt(limit * (1 - limit) / max(difference.groups, 1))
        worst = max(worst, lost + _quantile(difference, level) * least)
    said = f"{difference.name} is {abs(lost):.4g} {'worse' if lost > 0 else 'better' if lost < 0 else 'apart'}"
    between = f"a drop of {best:.4g} to {worst:.4g} at {100 * level:.4g} %, {difference.rows:,} rows"
    evidence = {
        "method": difference.method,
        "level": level,
        "estimate": lost,
        "low": best,
        "high": worst,
        "limit": limit,
        "counts": {"rows": difference.rows, "groups": difference.groups},
    }
    if worst <= limit:
        return Verdict("pass", "drop", f"{said} ({between}): within {limit:.4g}.", evidence)
    if best > limit:
        return Verdict("fail", "drop", f"{said} ({between}): over the limit of {limit:.4g}.", evidence)
    why = f"{said} ({between}): whether that is within {limit:.4g} is not known; more rows would tell."
    return Verdict("inconclusive", "drop", why, evidence)


def size(after: int, budget: int) -> Verdict:
    """Judge the bytes of the artifact; a budget of 0 is none."""
    evidence = {"size": after, "budget": budget}
    if budget and after > budget:
        return Verdict("fail", "size", f"{after:,} bytes are over the budget of {budget:,}.", evidence)
    return Verdict("pass", "size", f"{after:,} bytes fit the budget." if budget else "There is no budget.", evidence)


def judge(dropped: Verdict, sized: Verdict) -> Verdict:
    """Both together."""
    guards = [dropped, sized] if sized.evidence["budget"] else [dropped]
    return combine(guards, rule="compress")


def _widened(difference: Figure, level: float) -> tuple[float, float]:
    """The ends of the interval at another level."""
    factor = _quantile(difference, level) / _quantile(difference, difference.level)
    middle = difference.value
    return middle - factor * (middle - difference.low), middle + factor * (difference.high - middle)


def _quantile(difference: Figure, level: float) -> float:
    from scipy.stats import norm, t

    if "Wilson" in difference.method:
        return float(norm.ppf((1 + level) / 2))
    return float(t.ppf((1 + level) / 2, max(difference.groups - 1, 1)))

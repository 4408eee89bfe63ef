"""Whether a compressed version may be registered: pure rules on what was measured.

A drop is shown to be too large, shown to be small enough, or neither. Neither is not a pass.
"""

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
    low, high = _widened(difference, looks)
    worst, best = (-low, -high) if direction == "maximize" else (high, low)
    lost = -difference.value if direction == "maximize" else difference.value
    level = 1 - (1 - _LEVEL) / looks
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


def _widened(difference: Figure, looks: int) -> tuple[float, float]:
    """The ends of the interval at the level of several looks."""
    if looks == 1:
        return difference.low, difference.high
    from scipy.stats import norm, t

    def quantile(level: float) -> float:
        if "Wilson" in difference.method:
            return float(norm.ppf((1 + level) / 2))
        return float(t.ppf((1 + level) / 2, max(difference.groups - 1, 1)))

    factor = quantile(1 - (1 - _LEVEL) / looks) / quantile(difference.level)
    middle = difference.value
    return middle - factor * (middle - difference.low), middle + factor * (difference.high - middle)

"""How many units a rollout will need, said before it starts, and how many more a guard that is open needs."""

from collections.abc import Callable

import msgspec

from rung.domain.rules import Rule, Verdict
from rung.fleet.policy import Policy
from rung.stats.guards import judge
from rung.stats.quantiles import Histogram
from rung.stats.sequential import Moments
from rung.stats.simulate import expected_units

__all__ = ["HARMS", "Expectation", "Figures", "expect", "growth", "served"]

HARMS = (0.01, 0.05)
"""Harms of which is said when they would be found: 1 and 5 percentage points."""
_MOST = 10_000.0
_RUNS = 300

Figures = Moments | Histogram


class Expectation(msgspec.Struct, frozen=True):
    """What a rollout needs to decide, by its errors guard."""

    rate: float
    """Share of units with an error that is taken for that of the stable version."""
    least: int
    """Units served in all before it can be promoted, by the least units of its stages."""
    passes: int | None
    """Canary units at which a candidate without harm would pass; None without an errors guard."""
    found: dict[float, int]
    """Harm -> canary units by which it is found in 85 % of simulated rollouts."""
    percent: dict[float, float]
    """Harm -> stage of the ladder at which that is."""

    def __str__(self) -> str:
        lines = [f"needs at least {self.least:,} units served in all"]
        if self.passes is not None:
            lines.append(
                f"with errors at {100 * self.rate:g} % of units and no harm, passes at {self.passes:,} canary units"
            )
        for harm, units in self.found.items():
            at = self.percent[harm]
            lines.append(f"{100 * harm:g} points more are found within {units:,} canary units (85 %), at {at:g} %")
        return "\n".join(lines)


def expect(policy: Policy, rate: float = 0.05, ladder: tuple[float, ...] = ()) -> Expectation:
    """What a rollout by this policy needs, for printing before it starts.

    Args:
        policy: What it will be judged by.
        rate: Share of units with an error under the stable version.
        ladder: Its stages, if not those of the policy.
    """
    import numpy as np

    stages = ladder or policy.ladder
    rule = next((guard.rule for guard in policy.guards if guard.name == "errors"), None)
    needs = [policy.units_at(stage, percent) for stage, percent in enumerate(stages)]
    last = max((need for need, percent in zip(needs, stages, strict=True) if percent < 100), default=0)
    if rule is None:
        return Expectation(rate, served(policy, stages, last), None, {}, {})
    # A service that never fails has a rate, too: one that is smaller than could be seen.
    rate = min(max(rate, 1e-4), 0.9)
    unit = Moments.of_rate(round(rate * 1_000_000), 1_000_000)
    factor = growth(rule, _scaled(unit, 1e-6 * 100), _scaled(unit, 1e-6 * 100), "pass")
    passes = None if factor is None else round(100 * factor)
    rng = np.random.default_rng(1)
    harms = [harm for harm in HARMS if rate + harm < 1]
    found = {harm: -(-expected_units(rate, harm, rng=rng, alpha=rule.alpha, runs=_RUNS).units // 2) for harm in harms}
    percent = {harm: _stage_of(needs, stages, units) for harm, units in found.items()}
    return Expectation(rate, served(policy, stages, max(last, passes or 0)), passes, found, percent)


def served(policy: Policy, ladder: tuple[float, ...], units: int) -> int:
    """Units served in all until the canary arm has had so many, if no stage lasts longer than its least units."""
    total, had = 0.0, 0
    compared = [(stage, percent) for stage, percent in enumerate(ladder) if 0 < percent < 100]
    if ladder and ladder[0] == 0:
        total += policy.units_at(0, 0.0)
    for stage, percent in compared:
        last = stage == compared[-1][0]
        until = max(units, had) if last else max(min(policy.units_at(stage, percent), units), had)
        total += (until - had) / (percent / 100)
        had = until
    return round(total)


def growth(rule: Rule, baseline: Figures, candidate: Figures, outcome: str = "") -> float | None:
    """How many times as much of the same until a rule decides; None if that is more than 10,000 times.

    Args:
        rule: Which.
        baseline: What the arm has shown.
        candidate: The same.
        outcome: `pass` or `fail`; empty for either.
    """

    def decided(factor: float) -> bool:
        verdict: Verdict = judge(rule, _scaled(baseline, factor), _scaled(candidate, factor))
        return verdict.outcome == outcome if outcome else verdict.outcome != "inconclusive"

    if not baseline.count or not candidate.count:
        return None
    return _first(decided)


def _first(decided: Callable[[float], bool]) -> float | None:
    low = high = 1.0
    while not decided(high):
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high / low > 1.02:
        middle = (low * high) ** 0.5
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def _scaled(figures: Figures, factor: float) -> Figures:
    if isinstance(figures, Histogram):
        return Histogram({place: round(count * factor) for place, count in figures.bins.items()})
    count, events = round(figures.count * factor), round(figures.events * factor)
    if figures.binary:
        return Moments.of_rate(events, count)
    return Moments(count, figures.total * factor, figures.squares * factor, events)


def _stage_of(needs: list[int], ladder: tuple[float, ...], units: int) -> float:
    for need, percent in zip(needs, ladder, strict=True):
        if 0 < percent < 100 and units <= need:
            return percent
    return max((percent for percent in ladder if percent < 100), default=0.0)

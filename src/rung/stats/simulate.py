"""How often a rule is wrong, how often it finds what is there, and how long that takes: by simulation.

The arrays of a thousand rollouts are drawn look by look, not unit by unit, and judged by the functions that judge a
real one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from rung.domain.errors import ConfigurationError
from rung.domain.rules import Metric, Rule
from rung.stats import assignment, errors
from rung.stats.intervals import clopper_pearson
from rung.stats.sequential import (
    MIN_EVENTS,
    MIN_UNITS,
    log_mixture,
    log_mixture_above,
    null_variance,
    radius_above,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = [
    "Expected",
    "Measured",
    "Sums",
    "Traffic",
    "draw",
    "evidence",
    "expected_units",
    "measure",
    "simulate",
    "simulate_srm",
    "units_needed",
]


_RATE = Metric("rate")


class Traffic(msgspec.Struct, frozen=True):
    """What comes in: units with a rate of events, of two arms."""

    base_rate: float
    """Of the baseline."""
    effect: float = 0.0
    """Rate of the candidate less that of the baseline."""
    share: float = 0.5
    """The candidate's share of the units of both arms."""
    units: int = 40_000
    """Of both arms together, at the end."""
    looks: int = 200
    """At equal distances."""


@dataclass(frozen=True)
class Sums:
    """`Moments` of many runs at every look: arrays of shape (runs, looks)."""

    count: "Array"
    total: "Array"
    squares: "Array"


class Measured(msgspec.Struct, frozen=True):
    """In how many runs a rule failed its candidate."""

    fired: int
    runs: int
    rate: float
    low: float
    """Lower end of the 95 % Clopper-Pearson interval of `rate`."""
    high: float
    median_units: float | None
    """Units of both arms that half of the runs that fired had seen by then; None if none fired."""

    def __str__(self) -> str:
        shown = f"{100 * self.rate:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] of {self.runs} runs"
        return shown if self.median_units is None else f"{shown}, half of them by {self.median_units:.0f} units"


class Expected(msgspec.Struct, frozen=True):
    """How long a guard takes to fail a candidate that does a given harm."""

    units: int
    """Of both arms together, by which a share of `power` of the simulated runs had fired."""
    median: int
    """By which half had."""
    power: float
    runs: int
    closed_form: int
    """The same as `units` without simulation; it errs on the late side."""

    def __str__(self) -> str:
        return (
            f"{self.units} units of both arms in {100 * self.power:g} % of {self.runs} simulated runs, "
            f"{self.median} in half of them"
        )


def draw(traffic: Traffic, *, runs: int, rng: "np.random.Generator", looks: Any = None) -> tuple[Sums, Sums]:
    """Moments of both arms at every look of every run.

    Args:
        traffic: what comes in.
        runs: how many.
        rng: where chance comes from.
        looks: units of both arms at each look, if not at equal distances.
    """
    import numpy as np

    if looks is None:
        looks = np.linspace(0, traffic.units, traffic.looks + 1).astype(int)[1:]
    steps = np.broadcast_to(np.diff(looks, prepend=0), (runs, len(looks)))
    candidate = rng.binomial(steps, traffic.share)
    arms = []
    for count, rate in ((steps - candidate, traffic.base_rate), (candidate, traffic.base_rate + traffic.effect)):
        events = rng.binomial(count, rate).cumsum(axis=1).astype(float)
        arms.append(Sums(count.cumsum(axis=1).astype(float), events, events))
    return arms[0], arms[1]


def evidence(rule: Rule, baseline: Sums, candidate: Sums, *, share: float = 0.5, two_sided: bool = False) -> "Array":
    """Log of the evidence that the rule fails its candidate, of the shape (runs, looks); -inf where it may not look.

    `two_sided` is that of `sequential.compare` instead. The arms hold rates, or values where nothing is constant.

    Raises:
        ConfigurationError: for a rule on a quantile.
    """
    import numpy as np

    if rule.metric.kind == "quantile":
        raise ConfigurationError(f"`{rule.metric.name}` is a quantile; only rules on means and errors are simulated.")
    if rule.metric.kind == "errors":
        units = baseline.count + candidate.count
        return np.asarray(errors.log_wealth(baseline.total, candidate.total, units, share, rule.margin))
    sign = 1.0 if rule.metric.worse == "higher" else -1.0
    smaller = np.minimum(baseline.count, candidate.count)
    both = baseline.count + candidate.count
    rate = (baseline.total + candidate.total) / both
    ready = smaller >= MIN_UNITS
    if np.array_equal(baseline.total, baseline.squares) and np.array_equal(candidate.total, candidate.squares):
        ready &= smaller * np.minimum(rate, 1 - rate) >= MIN_EVENTS
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = sign * (candidate.total / candidate.count - baseline.total / baseline.count)
        variance = null_variance(baseline, candidate, 0.0 if two_sided else sign * rule.margin)
        found = (
            log_mixture(difference, variance, rule.tau)
            if two_sided
            else log_mixture_above(difference - rule.margin, variance, rule.tau)
        )
    return np.where(ready, found, -np.inf)


def measure(found: "Array", alpha: float, units: "Array") -> Measured:
    """How many runs fired.

    Args:
        found: log of the evidence, of shape (runs, looks).
        alpha: a run fires where the evidence reaches 1/alpha.
        units: of both arms at each look, of shape (looks,) or (runs, looks).
    """
    import numpy as np

    over = found >= math.log(1 / alpha)
    fired = over.any(axis=1)
    stops = np.take_along_axis(np.broadcast_to(units, found.shape), over.argmax(axis=1)[:, None], axis=1)[fired, 0]
    count = int(fired.sum())
    interval = clopper_pearson(count, len(found))
    median = float(np.median(stops)) if count else None
    return Measured(count, len(found), interval.estimate, interval.low, interval.high, median)


def simulate(
    rule: Rule, traffic: Traffic, *, runs: int, rng: "np.random.Generator", two_sided: bool = False
) -> Measured:
    """How often a rule on a rate fails its candidate: false alarms where `traffic.effect` is 0, else power."""
    baseline, candidate = draw(traffic, runs=runs, rng=rng)
    found = evidence(rule, baseline, candidate, share=traffic.share, two_sided=two_sided)
    return measure(found, rule.alpha, baseline.count + candidate.count)


def simulate_srm(
    asked: Sequence[float],
    real: Sequence[float],
    *,
    units: int,
    looks: int,
    alpha: float,
    runs: int,
    rng: "np.random.Generator",
) -> Measured:
    """How often the test of the split fires, when units reach the arms in the shares `real` instead of `asked`."""
    import numpy as np

    at = np.linspace(0, units, looks + 1).astype(int)[1:]
    steps = np.broadcast_to(np.diff(at, prepend=0), (runs, looks))
    counts = rng.multinomial(steps, np.asarray(real) / sum(real)).cumsum(axis=1)
    found = assignment.log_evidence([assignment.log_bayes_factor(counts, [one / sum(asked) for one in asked])])
    return measure(np.asarray(found), alpha, at)


def expected_units(
    base_rate: float,
    effect: float,
    *,
    rng: "np.random.Generator",
    share: float = 0.5,
    alpha: float = 0.005,
    power: float = 0.85,
    tau: float | None = None,
    runs: int = 500,
) -> Expected:
    """Units until a guard on a rate fails a candidate whose rate is higher by `effect`, for printing before a rollout.

    Args:
        base_rate: of the baseline.
        effect: harm to be found.
        rng: where chance comes from; with the same seed the answer is the same.
        share: the candidate's share of the units of both arms.
        alpha: of the guard.
        power: share of rollouts in which the harm is to be found by then.
        tau: of the guard; `effect` if left out.
        runs: simulated rollouts.

    Raises:
        ConfigurationError: when the rates do not lie between 0 and 1 or the effect is not above 0.
    """
    import numpy as np

    if not (0 < base_rate < 1 and effect > 0 and base_rate + effect <= 1 and 0 < share < 1):
        raise ConfigurationError("A harm to be found lies above 0, and the rates with and without it between 0 and 1.")
    tau = effect if tau is None else tau
    mean, worse = base_rate + share * effect, base_rate + effect
    apart = share * base_rate * (1 - base_rate) + (1 - share) * worse * (1 - worse)
    closed = units_needed(max(mean * (1 - mean), apart), effect, share=share, alpha=alpha, power=power, tau=tau)
    end = max(2 * closed, 2_000)
    while True:
        looks = np.unique(np.geomspace(50, end, 300).astype(int))
        baseline, candidate = draw(Traffic(base_rate, effect, share), runs=runs, rng=rng, looks=looks)
        rule = Rule(_RATE, alpha=alpha, tau=tau)
        over = evidence(rule, baseline, candidate, share=share) >= math.log(1 / alpha)
        stops = np.sort(np.where(over.any(axis=1), looks[over.argmax(axis=1)], np.iinfo(int).max))
        last = int(stops[math.ceil(power * runs) - 1])
        if last <= end:
            return Expected(last, int(stops[(runs - 1) // 2]), power, runs, closed)
        end *= 4


def units_needed(
    variance: float, effect: float, *, share: float, alpha: float, power: float, tau: float | None = None
) -> int:
    """Units of both arms after which the one-sided mSPRT is over its limit with probability `power`: closed form.

    It counts only runs that are over the limit at that very moment, so it is a little late: those that crossed
    earlier and came back count in truth.

    Args:
        variance: of the values of one unit.
        effect: difference of the means.
        share: the candidate's share of the units.
        alpha: of the guard.
        power: probability of finding the effect.
        tau: of the guard; `effect` if left out.
    """
    from scipy.special import ndtri

    tau = effect if tau is None else tau
    low, high = 1.0, 1e12
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        error = math.sqrt(variance / (middle * share * (1 - share)))
        over = (effect - radius_above(error**2, tau, alpha)) / error >= float(ndtri(power))
        low, high = (low, middle) if over else (middle, high)
    return math.ceil(high)

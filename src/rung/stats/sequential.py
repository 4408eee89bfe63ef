"""Compare the means of two arms at every look: the mixture sequential probability ratio test (mSPRT).

The difference of means d of two arms, with variance V = s²/n_A + s²/n_B, has independent increments in the
information 1/V whatever the sizes of the arms (Jennison and Turnbull, Group Sequential Methods, 2000, section 3.1), so

    exp(x d/V - x²/(2V))

is a martingale under a difference of 0, for each x. Averaged over x ~ N(0, tau²) it stays one, and gives

    L = sqrt(V/(V+tau²)) exp(tau² d² / (2V(V+tau²)))    (Johari et al., Always Valid Inference, 2022)

By Ville's inequality P(L >= 1/alpha at any look) <= alpha, so 1/L is a p-value at every look and so is the smallest
so far. Averaged over the half normal x > 0 only, it is 2 L Phi(d tau / sqrt(V(V+tau²))), a supermartingale under every
difference <= 0: the one-sided test. Mixing over the z-score with a constant tau, as some pages have it, is not one.

V is estimated. The plug-in estimate is too small early, when the small arm has had few events, and that alone gave
5.4 % false alarms at 5 %; so V is the larger of the plug-in and the one pooled under the null, and nothing is
said before `MIN_UNITS` units and, for rates, `MIN_EVENTS` expected events per arm.
The values must be one per unit of assignment (a user), never one per request: requests of one user are alike.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.rules import Outcome, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = float | NDArray[np.float64]

__all__ = [
    "MIN_EVENTS",
    "MIN_UNITS",
    "Moments",
    "compare",
    "harm",
    "log_mixture",
    "log_mixture_above",
    "null_variance",
    "radius_above",
    "ready",
]

MIN_UNITS = 100
"""Units per arm before the first look."""
MIN_EVENTS = 10
"""Events, and units without one, expected per arm under the null before the first look at a rate."""

Worse = Literal["higher", "lower"]


class Moments(msgspec.Struct, frozen=True):
    """What a comparison of means needs to know of one arm. One value per unit, added once.

    Small, merged by addition, and plain JSON, so that a controller can keep it and a run can be replayed.
    """

    count: int = 0
    """Units."""
    total: float = 0.0
    """Sum of their values."""
    squares: float = 0.0
    """Sum of the squares of their values."""
    events: int = 0
    """Units with a value other than 0."""

    @classmethod
    def of(cls, values: Iterable[float]) -> "Moments":
        """Of one finite value per unit; a unit without a value is left out, not 0.

        Raises:
            InvalidInput: when a value is NaN or infinite.
        """
        known = [float(value) for value in values]
        total, squares = math.fsum(known), math.fsum(value * value for value in known)
        if not math.isfinite(total) or not math.isfinite(squares):
            raise InvalidInput("A value is NaN or infinite; leave out the unit that has none.", field="values")
        return cls(len(known), total, squares, sum(value != 0 for value in known))

    @classmethod
    def of_rate(cls, events: int, count: int) -> "Moments":
        """Of `count` units of which `events` have the value 1 and the rest 0.

        Raises:
            InvalidInput: when there are more events than units.
        """
        if not 0 <= events <= count:
            raise InvalidInput(f"There are {events} events among {count} units.", field="events")
        return cls(count, float(events), float(events), events)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            self.events + other.events,
        )

    @property
    def mean(self) -> float:
        """Mean over units; 0 of none."""
        return self.total / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """Variance over units, divided by their number; 0 of none."""
        return max(self.squares / self.count - self.mean**2, 0.0) if self.count else 0.0

    @property
    def binary(self) -> bool:
        """Whether every value is 0 or 1, so that the mean is a rate."""
        return self.total == self.squares == self.events


def compare(
    baseline: Moments,
    candidate: Moments,
    *,
    tau: float,
    alpha: float = 0.05,
    worse: Worse = "higher",
    before: float = 1.0,
) -> Verdict:
    """Whether the two arms differ: `pass` when the candidate is better, `fail` when it is worse, at any look.

    Args:
        baseline: the arm that answers now.
        candidate: the arm that may replace it.
        tau: the difference at which the test decides fastest, in the metric's measure; set before the first look.
        alpha: probability that two arms with one mean are ever told apart.
        worse: which way the metric gets worse.
        before: the `p` of the last look; 1 at the first.
    """
    evidence = _evidence("mSPRT, two-sided", baseline, candidate, alpha, tau, before)
    unready = ready(baseline, candidate)
    if unready:
        return Verdict("inconclusive", "difference of means", unready, evidence)
    estimate = candidate.mean - baseline.mean
    variance = float(null_variance(baseline, candidate))
    p = min(before, math.exp(-max(float(log_mixture(estimate, variance, tau)), 0.0)))
    spread = variance + tau**2
    radius = math.sqrt(variance * spread / tau**2 * (math.log(spread / variance) + 2 * math.log(1 / alpha)))
    evidence |= {"p": p, "low": estimate - radius, "high": estimate + radius}
    outcome: Outcome = "inconclusive"
    if p <= alpha:
        outcome = "fail" if (estimate > 0) == (worse == "higher") else "pass"
    said = {"fail": "is worse than", "pass": "is better than", "inconclusive": "cannot be told from"}[outcome]
    return Verdict(outcome, "difference of means", f"The candidate {said} the baseline: {_show(evidence)}.", evidence)


def harm(
    baseline: Moments,
    candidate: Moments,
    *,
    tau: float,
    alpha: float = 0.005,
    margin: float = 0.0,
    tolerance: float | None = None,
    worse: Worse = "higher",
    before: float = 1.0,
) -> Verdict:
    """Guard: `fail` when the candidate is worse by more than `margin`, `pass` when by less than `tolerance`.

    Args:
        baseline: the arm that answers now, concurrently with the candidate.
        candidate: the arm that may replace it.
        tau: the harm at which the test decides fastest, in the metric's measure; set before the first look.
        alpha: probability that a candidate that is not worse by more than `margin` ever fails, and
            that one that is worse by `tolerance` or more ever passes.
        margin: harm that does not matter, in the metric's measure, as a positive number.
        tolerance: harm that would matter; `margin` if left out.
        worse: which way the metric gets worse.
        before: the `p` of the last look; 1 at the first. A guard that has failed stays failed.
    """
    limit = margin if tolerance is None else tolerance
    evidence = _evidence("mSPRT, one-sided", baseline, candidate, alpha, tau, before)
    evidence |= {"margin": margin, "tolerance": limit}
    unready = ready(baseline, candidate)
    if unready and before > alpha:
        return Verdict("inconclusive", "harm", unready, evidence)
    sign = 1.0 if worse == "higher" else -1.0
    estimate = candidate.mean - baseline.mean
    if unready:
        return Verdict("fail", "harm", "The candidate was shown to be worse at an earlier look.", evidence)
    at_margin = float(null_variance(baseline, candidate, sign * margin))
    at_limit = float(null_variance(baseline, candidate, sign * limit))
    p = min(before, math.exp(-max(float(log_mixture_above(sign * estimate - margin, at_margin, tau)), 0.0)))
    p_pass = math.exp(-max(float(log_mixture_above(limit - sign * estimate, at_limit, tau)), 0.0))
    ends = sorted(
        (estimate - sign * radius_above(at_margin, tau, alpha), estimate + sign * radius_above(at_limit, tau, alpha))
    )
    evidence |= {"p": p, "p_pass": min(p_pass, 1.0), "low": ends[0], "high": ends[1]}
    outcome: Outcome = "fail" if p <= alpha else "pass" if p_pass <= alpha else "inconclusive"
    said = {
        "fail": f"is worse than the baseline by more than {margin:g}",
        "pass": f"is not worse than the baseline by {limit:g}",
        "inconclusive": f"is not shown to be worse by more than {margin:g}, nor by less than {limit:g}",
    }[outcome]
    return Verdict(outcome, "harm", f"The candidate {said}: {_show(evidence)}.", evidence)


def ready(baseline: Moments, candidate: Moments) -> str:
    """Why it is too early to look, as a sentence; empty when it is not.

    For rates the events are those expected in an arm if both had one rate: a candidate that always fails is caught
    though its baseline never does.
    """
    smaller = min(baseline.count, candidate.count)
    if smaller < MIN_UNITS:
        return f"Too early: the smaller arm has {smaller} of at least {MIN_UNITS} units."
    both = baseline + candidate
    if both.binary and smaller * min(both.mean, 1 - both.mean) < MIN_EVENTS:
        return (
            f"Too early: {both.events} events among {both.count} units are too few for a difference of rates; "
            "for rare failures use a rule of kind `errors`."
        )
    if not both.squares * both.count > both.total**2:
        return "Every unit has the same value, so there is nothing to compare."
    return ""


def null_variance(baseline: Any, candidate: Any, shift: float = 0.0) -> "Numbers":
    """Variance of the difference of means: the larger of the plug-in and the one pooled when it is `shift`.

    Takes `Moments`, or anything with `count`, `total` and `squares`, numbers or arrays of one shape.
    """
    import numpy as np

    a, b = baseline, candidate
    parts = 1 / a.count + 1 / b.count
    plug_in = (a.squares / a.count - (a.total / a.count) ** 2) / a.count
    plug_in = plug_in + (b.squares / b.count - (b.total / b.count) ** 2) / b.count
    both = a.count + b.count
    # The candidate's values less the shift: under the null they have the baseline's mean.
    total = a.total + b.total - b.count * shift
    squares = a.squares + b.squares - 2 * shift * b.total + b.count * shift**2
    pooled = (squares / both - (total / both) ** 2) * parts
    return np.maximum(np.maximum(plug_in, pooled), np.finfo(float).tiny)  # type: ignore[no-any-return]


def log_mixture(difference: "Numbers", variance: "Numbers", tau: float) -> "Numbers":
    """Log of L: the evidence against a difference of 0, on both sides. Numbers or arrays of one shape."""
    import numpy as np

    spread = variance + tau**2
    return 0.5 * np.log(variance / spread) + tau**2 * difference**2 / (2 * variance * spread)


def log_mixture_above(difference: "Numbers", variance: "Numbers", tau: float) -> "Numbers":
    """Log of the evidence against every difference <= 0. Numbers or arrays of one shape."""
    import numpy as np
    from scipy.special import log_ndtr

    score = difference * tau / np.sqrt(variance * (variance + tau**2))
    return math.log(2) + log_mixture(difference, variance, tau) + log_ndtr(score)  # type: ignore[no-any-return]


def radius_above(variance: float, tau: float, alpha: float) -> float:
    """The difference above 0 at which the one-sided evidence is 1/alpha; it grows with the difference."""
    low, high = 0.0, math.sqrt(variance)
    while log_mixture_above(high, variance, tau) < math.log(1 / alpha):
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if log_mixture_above(middle, variance, tau) < math.log(1 / alpha) else (low, middle)
    return high


def _evidence(
    method: str, baseline: Moments, candidate: Moments, alpha: float, tau: float, before: float
) -> dict[str, Any]:
    return {
        "method": f"{method}; variance pooled under the null, always valid",
        "alpha": alpha,
        "tau": tau,
        "p": before,
        "estimate": candidate.mean - baseline.mean,
        "low": None,
        "high": None,
        "means": {"baseline": baseline.mean, "candidate": candidate.mean},
        "counts": {"baseline": baseline.count, "candidate": candidate.count},
        "events": {"baseline": baseline.events, "candidate": candidate.events},
    }


def _show(evidence: dict[str, Any]) -> str:
    means, counts = evidence["means"], evidence["counts"]
    return (
        f"{means['candidate']:.4g} of {counts['candidate']} units against {means['baseline']:.4g} of "
        f"{counts['baseline']}, difference {evidence['estimate']:+.4g} in [{evidence['low']:+.4g}, "
        f"{evidence['high']:+.4g}], p {evidence['p']:.2g} of {evidence['alpha']:g}"
    )

"""Compare how often units fail in two arms, exactly, however rare failures are.

A unit goes to the candidate with a known probability s (the salted hash sees to that) and to the baseline otherwise.
Then Y = failed/s in the candidate, -failed/(1-s) in the baseline, has the mean p_candidate - p_baseline, and with a
bet b that cannot lose more than it has, 0 <= b < 1/(1/(1-s) + margin),

    W = product over units of (1 + b (Y - margin))

is a non-negative supermartingale while the candidate is not worse by more than the margin, at any rate that moves
with time as long as it moves for both. The average over a fixed grid of bets is one too, so P(W >= 1/alpha ever) <=
alpha (Ville). Only the numbers of units and failures are needed. With a margin of 0 it is the likelihood ratio of the
candidate's share of the failures against s: the conditional binomial test, mixed over alternatives. The idea of betting
is Waudby-Smith and Ramdas, Estimating Means of Bounded Random Variables by Betting, 2024.

There is no burn-in: a dozen failures against none decide, among however few units.
"""

import math
from functools import cache
from typing import TYPE_CHECKING, Any

from rung.domain.errors import InvalidInput
from rung.domain.rules import Outcome, Verdict
from rung.stats.sequential import Moments

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = float | NDArray[np.float64]

__all__ = ["errors", "log_wealth"]


def errors(
    baseline: Moments,
    candidate: Moments,
    *,
    share: float = 0.5,
    alpha: float = 0.005,
    margin: float = 0.0,
    tolerance: float | None = None,
    before: float = 1.0,
) -> Verdict:
    """Guard: `fail` when the candidate fails more often by more than `margin`, `pass` when by less than `tolerance`.

    Args:
        baseline: `events` of `count` units failed. A unit fails when one of its requests does: count each once.
        candidate: the same.
        share: the candidate's share of the units of these two arms by the split, not as counted: 0.5 for a
            canary and a baseline of one size. Where it changes, begin again with new counts and less alpha.
        alpha: probability that a candidate that is not worse by more than `margin` ever fails, and
            that one that is worse by `tolerance` or more ever passes.
        margin: difference of the rates that does not matter.
        tolerance: difference that would matter; `margin` if left out.
        before: the `p` of the last look; 1 at the first.

    Raises:
        InvalidInput: when `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InvalidInput(f"The candidate's share of the two arms is {share}; it lies between 0 and 1.", field="share")
    limit = margin if tolerance is None else tolerance
    units, a, b = baseline.count + candidate.count, baseline.events, candidate.events
    p = min(before, _p(a, b, units, share, margin))
    # The same bet seen from the baseline: is it better by less than the tolerance?
    p_pass = _p(b, a, units, 1 - share, -limit)
    low = _bound(a, b, units, share, alpha)
    high = -_bound(b, a, units, 1 - share, alpha)
    rates = {"baseline": _rate(baseline), "candidate": _rate(candidate)}
    evidence: dict[str, Any] = {
        "method": "betting on the arm of each failure; exact, always valid",
        "alpha": alpha,
        "share": share,
        "margin": margin,
        "tolerance": limit,
        "p": p,
        "p_pass": p_pass,
        "estimate": rates["candidate"] - rates["baseline"],
        "low": low,
        "high": high,
        "means": rates,
        "counts": {"baseline": baseline.count, "candidate": candidate.count},
        "events": {"baseline": a, "candidate": b},
    }
    outcome: Outcome = "fail" if p <= alpha else "pass" if p_pass <= alpha else "inconclusive"
    return Verdict(outcome, "errors", _why(outcome, evidence), evidence)


def _why(outcome: Outcome, found: dict[str, Any]) -> str:
    margin, limit, events, counts = found["margin"], found["tolerance"], found["events"], found["counts"]
    said = {
        "fail": f"fails more often than the baseline by more than {margin:g}",
        "pass": f"does not fail more often by {limit:g}",
        "inconclusive": f"is not shown to fail more often by more than {margin:g}, nor by less than {limit:g}",
    }[outcome]
    return (
        f"The candidate {said}: {events['candidate']} of {counts['candidate']} units against {events['baseline']} of "
        f"{counts['baseline']}, difference {found['estimate']:+.4g} in [{found['low']:+.4g}, {found['high']:+.4g}], "
        f"p {found['p']:.2g} of {found['alpha']:g}."
    )


def log_wealth(baseline: "Numbers", candidate: "Numbers", units: "Numbers", share: float, margin: float) -> Any:
    """Log of the evidence that the candidate fails more often by more than `margin`.

    Args:
        baseline: failures there; a number or an array.
        candidate: failures there, of the same shape.
        units: units of both arms together, of the same shape.
        share: probability that a unit goes to the candidate.
        margin: difference of the rates, from -1 to 1.
    """
    import numpy as np

    a, b, n = (np.asarray(one, dtype=float)[..., None] for one in (baseline, candidate, units))
    worst = 1 / (1 - share) + margin
    part = _parts()
    bet = part / worst
    wealth = b * np.log1p(bet * (1 / share - margin)) + a * np.log1p(-part) + (n - a - b) * np.log1p(-bet * margin)
    most = wealth.max(axis=-1)
    return most + np.log(np.exp(wealth - most[..., None]).sum(axis=-1)) - math.log(len(part))


@cache
def _parts() -> Any:
    """The bets, as parts of the largest that cannot lose more than there is.

    Small ones for rates that differ a little, bold ones for a candidate that has nearly all the failures.
    """
    import numpy as np

    return np.concatenate([np.geomspace(0.01, 0.5, 12), 1 - np.geomspace(0.4, 0.01, 6)])


def _p(baseline: int, candidate: int, units: int, share: float, margin: float) -> float:
    return math.exp(-max(float(log_wealth(baseline, candidate, units, share, margin)), 0.0))


def _bound(baseline: int, candidate: int, units: int, share: float, alpha: float) -> float:
    """The largest margin that is still rejected: each factor of the wealth falls as the margin grows."""
    low, high = -1.0, 1.0
    for _ in range(24):  # to 1.2e-7
        middle = (low + high) / 2
        rejected = _p(baseline, candidate, units, share, middle) <= alpha
        low, high = (middle, high) if rejected else (low, middle)
    return low


def _rate(arm: Moments) -> float:
    return arm.events / arm.count if arm.count else 0.0

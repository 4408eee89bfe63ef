"""Compare the means of two arms at every look: the mixture sequential probability ratio test (mSPRT).

The difference of means d of two arms, with variance V = s²/n_A + s²/n_B, has independent increments in the
information 1/V whatever the sizes of the arms (Jennison and Turnbull, Group Sequential Methods, 2000, ch. 3.1), so

    exp(x d/V - x²/(2V))

is a martingale under a difference of 0, for each x. Averaged over x ~ N(0, tau²) it stays one, and gives

    L = sqrt(V/(V+tau²)) exp(tau² d² / (2V(V+tau²)))                 (Johari et al., Always Valid Inference, 2022, eq. 11)

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
from typing import Any, Literal

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.rules import Outcome, Verdict

__all__ = [
    "MIN_EVENTS",
    "MIN_UNITS",
    "Moments",
    "compare",
    "harm",
    "log_mixture",
    "log_mixture_above",
    "null_variance",
    "ready",
]

MIN_UNITS = 100
"""Units per arm before the first look."""
MIN_EVENTS = 10
"""Events, and non-events, expected per arm under the null before the first look at a rate."""

Worse = Literal["higher", "lower"]


class Moments(msgspec.Struct, frozen=True):
    """What a comparison of means needs to know of one arm. One value per unit, added once.

    Small, exact to merge, and plain JSON, so that a controller can keep it and replay a run.
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
        raise NotImplementedError

    @classmethod
    def of_rate(cls, events: int, count: int) -> "Moments":
        """Of `count` units of which `events` have the value 1 and the rest 0."""
        raise NotImplementedError

    def __add__(self, other: "Moments") -> "Moments":
        raise NotImplementedError


def compare(
    baseline: Moments,
    candidate: Moments,
    *,
    tau: float,
    alpha: float = 0.05,
    worse: Worse = "higher",
    before: float = 1.0,
) -> Verdict:
    """Two-sided: `fail` when the candidate is worse, `pass` when it is better, at any look, else `inconclusive`."""
    raise NotImplementedError


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
    """One-sided guard: `fail` when the candidate is worse by more than `margin`, `pass` when by less than `tolerance`."""
    raise NotImplementedError

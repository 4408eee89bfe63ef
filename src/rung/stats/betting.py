"""Paired losses: is the new model not worse than the old one on the same rows, at whichever row one stops?

The differences d_i = loss_new - loss_old lie in [-1, 1]. Against "worse by the margin m or more on average",

    E_n = mean over bets b of product over i <= n of (1 + b (m - d_i)),   0 < b < 1

is a supermartingale, so E_n >= 1/alpha at any n happens with probability alpha at most (Ville; Waudby-Smith
and Ramdas, Estimating Means of Bounded Random Variables by Betting, 2024). The rows must come in an order that does
not know their labels: shuffled, or as they arrived.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rung.domain.errors import InvalidInput
from rung.domain.rules import Outcome, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["log_wealth", "noninferiority"]

_BETS = 8
"""How many bets the average is over."""


def noninferiority(differences: Sequence[float], *, margin: float, alpha: float = 0.05) -> Verdict:
    """`pass` when the new model is shown to be worse by less than `margin`, `fail` when by more.

    Args:
        differences: loss of the new model less that of the old on the same row, from -1 to 1, in the order of arrival.
            One per unit: rows of one user or one slide are averaged first.
        margin: how much worse does not matter, from 0 to 1.
        alpha: probability that a model worse by `margin` or more ever passes, and that another ever fails.

    Raises:
        InvalidInput: when a difference is not between -1 and 1, or the margin not between 0 and 1.
    """
    import numpy as np

    d = np.asarray(differences, dtype=float)
    if not (np.abs(d) <= 1).all() or not 0 <= margin < 1:
        raise InvalidInput(
            "Differences of losses lie between -1 and 1, the margin between 0 and 1.", field="differences"
        )
    passing, failing = log_wealth(d, margin), log_wealth(-d, -margin)
    p_pass, p = (math.exp(-max(float(one.max()), 0.0)) if len(one) else 1.0 for one in (passing, failing))
    outcome: Outcome = "fail" if p <= alpha else "pass" if p_pass <= alpha else "inconclusive"
    decisive = {"fail": failing, "pass": passing}.get(outcome)
    decided = None if decisive is None else int((decisive >= math.log(1 / alpha)).argmax()) + 1
    low, high = -_bound(-d, alpha), _bound(d, alpha)
    evidence: dict[str, Any] = {
        "method": "paired betting e-process, always valid",
        "alpha": alpha,
        "margin": margin,
        "p": p,
        "p_pass": p_pass,
        "estimate": float(d.mean()) if len(d) else None,
        "low": low,
        "high": high,
        "counts": {"pairs": len(d), "better": int((d < 0).sum()), "worse": int((d > 0).sum()), "decided": decided},
    }
    said = {
        "fail": f"is worse by more than {margin:g}",
        "pass": f"is not worse by {margin:g}",
        "inconclusive": f"is not shown to be worse by more than {margin:g}, nor by less",
    }[outcome]
    mean = "none" if evidence["estimate"] is None else f"{evidence['estimate']:+.4g}"
    why = f"The new model {said}: mean difference of loss {mean} in [{low:+.4g}, {high:+.4g}] over {len(d)} pairs."
    return Verdict(outcome, "paired non-inferiority", why, evidence)


def log_wealth(differences: "Array", margin: float) -> "Array":
    """Log of the evidence, after each row, that the mean difference is below `margin`, which lies between -1 and 1.

    Args:
        differences: array of shape (..., rows), from -1 to 1.
        margin: from -1 to 1.

    Returns:
        An array of the same shape.
    """
    import numpy as np
    from scipy.special import logsumexp

    # The worst row loses bet * (1 - margin).
    largest = 1 / (1 - margin) if margin < 1 else 1.0
    bets = largest * np.geomspace(0.02, 0.9, _BETS)
    gains = margin - differences
    wealth = [np.cumsum(np.log1p(bet * gains), axis=-1) for bet in bets]
    return np.asarray(logsumexp(wealth, axis=0) - math.log(_BETS))


def _bound(differences: "Array", alpha: float) -> float:
    """The smallest margin that is shown to be kept with all rows, at `alpha`; 1 if none is."""
    low, high = -1.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        shown = len(differences) > 0 and float(log_wealth(differences, middle)[-1]) >= math.log(1 / alpha)
        low, high = (low, middle) if shown else (middle, high)
    return high

"""How long labels take to come, and from which age on a prediction may be counted.

"No label yet" is never "wrong". Labels that come early are not a fair sample of all: a complaint comes sooner than
praise.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["COMPLETE", "Delays", "arrived"]

_WHOLE = 2**64
COMPLETE = 0.9
"""Share of the labels that have come by the age of maturity."""


def arrived(ages: Any, delays: Any) -> tuple[tuple[float, float], ...]:
    """Delay in seconds -> share of all predictions that have a label by that age (Kaplan and Meier, 1958).

    A prediction without a label has had no time for a longer delay than its age: it is censored there, and says
    nothing about later. The share stays below 1 where some predictions never get a label.

    Args:
        ages: shape (predictions,), in seconds.
        delays: shape (predictions,), in seconds; NaN for a prediction without a label so far.

    Returns:
        The steps, at rising delays; none where there is no label.
    """
    age, delay = np.asarray(ages, dtype=float), np.asarray(delays, dtype=float)
    labelled = np.isfinite(delay)
    steps, counts = np.unique(np.maximum(delay[labelled], 0.0), return_counts=True)
    if not steps.size:
        return ()
    # At risk: those that neither had a label before nor were too young to show this delay.
    ends = np.sort(np.where(labelled, np.maximum(delay, 0.0), np.maximum(age, 0.0)))
    risk = ends.size - np.searchsorted(ends, steps, side="left")
    shares = 1 - np.cumprod(1 - counts / risk)
    return tuple(zip(steps.tolist(), shares.tolist(), strict=True))


class Delays:
    """How long labels take, learned from those that came: the curve F(age) and the age of maturity.

    A label is seen only if its delay is shorter than the age of its prediction, so what was seen so far is too
    fast. The product-limit estimate for such right truncation (Lynden-Bell, 1971; Kalbfleisch and Lawless, 1989)

        F(t) = product over delays d > t of (1 - labels with delay d / labels with delay <= d of predictions aged >= d)

    corrects that up to the oldest age, beyond which nothing is known.
    """

    _MOST = 2000

    def __init__(self) -> None:
        self._delays: dict[int, tuple[float, float]] = {}
        self._below = _WHOLE
        self._first = np.inf

    def add(self, request: int, predicted: float, known: float) -> None:
        """A label known at `known` of a prediction made at `predicted`; the first one of a prediction counts."""
        self._first = min(self._first, predicted)
        if request < self._below:
            self._delays.setdefault(request, (predicted, max(known - predicted, 0.0)))
            if len(self._delays) > self._MOST:
                self._below //= 2
                self._delays = {key: one for key, one in self._delays.items() if key < self._below}

    def maturity(self, now: float) -> float | None:
        """Age in seconds by which 90 % of the labels have come; None while that is not known.

        It is not while there are fewer than 20 labels, or while that age is over half of the time that labels
        have been watched for: slower ones may be still to come.
        """
        if len(self._delays) < 20:
            return None
        curve = self.curve(now)
        age = next(delay for delay, share in curve if share >= COMPLETE)
        return age if age <= (now - self._first) / 2 else None

    def curve(self, now: float) -> Sequence[tuple[float, float]]:
        """Delay in seconds -> share of the labels that come within it, rising to 1 at the longest seen."""
        pairs = [(delay, now - predicted) for predicted, delay in self._delays.values()]
        delays = np.array([delay for delay, _ in pairs])
        ages = np.array([max(age, delay) for delay, age in pairs])
        distinct, here = np.unique(delays, return_counts=True)
        within = np.cumsum(here)
        # Labels with delay <= d whose predictions are younger than d could not have shown a delay of d.
        young = np.array([np.count_nonzero((delays <= d) & (ages < d)) for d in distinct])
        left = 1 - here / np.maximum(within - young, here)
        shares = np.append(np.cumprod(left[:0:-1])[::-1], 1.0)
        return list(zip(distinct.tolist(), shares.tolist(), strict=True))

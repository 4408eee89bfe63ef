"""Has a column changed? Effect sizes with confidence, not bare significance: with enough rows everything differs."""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from rung.domain.tensors import Array

__all__ = ["mean_shift", "scale_change", "share_above"]


def mean_shift(values: Array, mean: float, deviation: float, alpha: float) -> tuple[float, float]:
    """Interval for the shift of a mean, in deviations of before: Student's, at confidence 1 - `alpha`.

    The mean of before is taken as known; it is from many more rows. One value gives no interval: (-inf, inf).
    """
    if values.size < 2:
        return -np.inf, np.inf
    error = float(values.std(ddof=1)) / np.sqrt(values.size)
    half = float(stats.t.ppf(1 - alpha / 2, values.size - 1)) * error
    shift = float(values.mean()) - mean
    return (shift - half) / deviation, (shift + half) / deviation


def scale_change(before: Sequence[float], after: Sequence[float]) -> float | None:
    """By what factor a column has grown, told from its quantiles; None where that cannot be said.

    The median ratio of the quantiles between 0.25 and 0.75: one far value does not move it. A change of unit
    multiplies all of them by one factor, which a shift does not, so they have to agree within a factor of 4. Around
    zero their ratios say nothing, and that of the distances between the quartiles stands in.
    """
    low, high = len(before) // 4, 3 * len(before) // 4
    middle = range(low, high + 1)
    ratios = [after[place] / before[place] for place in middle if before[place] * after[place] > 0]
    if len(ratios) == len(middle) and max(ratios) <= 4 * min(ratios):
        return float(np.median(ratios))
    spread, now = before[high] - before[low], after[high] - after[low]
    return now / spread if spread > 0 and now > 0 else None


def share_above(count: int, of: int, share: float, alpha: float) -> bool:
    """Whether `count` of `of` shows that the true share is above `share`: exact binomial, one-sided."""
    return of > 0 and float(stats.binom.sf(count - 1, of, share)) < alpha

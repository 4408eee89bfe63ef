"""Whether probabilities can be taken at their word: bins of equal numbers of rows, and how far off they are."""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rung.domain.errors import InvalidInput
from rung.stats.estimates import interval, mean
from rung.stats.intervals import Interval

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Groups = NDArray[np.int64]
    Places = NDArray[np.intp]

__all__ = ["Reliability", "reliability"]

_BINS = 10
_ROWS_PER_BIN = 20


class Reliability(NamedTuple):
    """How often the model was right where it was how sure."""

    error: Interval
    """Root of the mean squared distance of confidence from share right."""
    confidence: "Array"
    """[bins], mean of each."""
    right: list[Interval]
    """[bins], share right."""


def reliability(
    confidence: "Array", right: "NDArray[np.bool_]", groups: "Groups | None" = None, *, level: float = 0.95
) -> Reliability:
    """Compare probabilities with what happened, in bins drawn by quantiles of the confidence.

    Chance alone makes a perfect model look off, by the variance of each bin. That is taken off the squared distances
    (Kumar et al., 2019), so the error of such a model is 0 on average and its interval begins there. The square is a
    quadratic form of means that are as good as normal, with the variance 2 tr(WSWS) + 4 d'WSWd for distances d,
    their covariance S and the weights W of the bins.

    Args:
        confidence: [rows], probabilities that were given.
        right: [rows], whether it was so.
        groups: [rows], numbers: rows of equal number are alike.
        level: of the intervals.

    Raises:
        InvalidInput: too few rows for two bins, or a single group.
    """
    rows = len(confidence)
    bins = min(_BINS, rows // _ROWS_PER_BIN)
    units = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max(initial=-1)) + 1
    if bins < 2 or count < 2:
        raise InvalidInput(
            f"{rows} rows in {count} groups are too few to say how well probabilities fit: 40 rows and two groups "
            "are needed",
            field="rows",
        )
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1]))
    places = np.unique(np.searchsorted(edges, confidence, side="right"), return_inverse=True)[1]
    sizes = np.bincount(places).astype(np.float64)
    means = np.bincount(places, weights=confidence) / sizes
    distance = np.bincount(places, weights=right - confidence) / sizes
    residual = right - confidence - distance[places]
    covariance = _covariance(residual, places, sizes, units if groups is not None else None)
    share = np.bincount(places, weights=right) / sizes
    inside = np.array([len(np.unique(units[places == one])) for one in range(len(sizes))])
    # Where all of a bin were right, or none, nothing is seen of the variance: one more of each kind stands in for it.
    settled = np.flatnonzero((share == 0) | (share == 1))
    certain = (inside + 1) / (inside + 2) ** 2 / inside
    covariance[settled, settled] = np.maximum(covariance[settled, settled], certain[settled])
    error = _error(distance, covariance, sizes / rows, level)
    by = " by group" if groups is not None else ""
    counts = {"rows": rows, "groups": count}
    shares = [_share(right[places == one], groups, places == one, level) for one in range(len(sizes))]
    return Reliability(Interval(*error, level, f"debiased square{by}", counts), means, shares)


def _covariance(residual: "Array", places: "Places", sizes: "Array", units: "Places | None") -> "Array":
    """Of the mean distances of the bins: [bins, bins]."""
    if units is None:
        inner = np.bincount(places, weights=residual * residual)
        # Rows of different bins have nothing to do with each other.
        return np.diag(inner / np.maximum(sizes * (sizes - 1), 1.0))
    count = int(units.max()) + 1
    sums = np.bincount(units * len(sizes) + places, weights=residual, minlength=count * len(sizes))
    table = sums.reshape(count, len(sizes)) / sizes
    covariance: Array = table.T @ table * (count / (count - 1))
    return covariance


def _error(distance: "Array", covariance: "Array", weights: "Array", level: float) -> tuple[float, float, float]:
    from scipy.stats import norm

    square = float(weights @ (distance**2 - np.diag(covariance)))
    shaped = weights[:, None] * covariance
    noise = float(np.trace(shaped @ shaped))
    # The plain estimate of the second part is too large by 4 tr(WSWS) on average.
    part = 4 * float(distance @ (weights[:, None] * covariance * weights) @ distance)
    radius = float(norm.ppf((1 + level) / 2)) * math.sqrt(max(part - 2 * noise, 2 * noise))
    middle = max(square, 0.0)
    return math.sqrt(middle), math.sqrt(max(square - radius, 0.0)), math.sqrt(middle + radius)


def _share(right: "NDArray[np.bool_]", groups: "Groups | None", chosen: "NDArray[np.bool_]", level: float) -> Interval:
    inside = None if groups is None else groups[chosen]
    count = len(right) if inside is None else len(np.unique(inside))
    if count < 2:
        # One group says nothing of others.
        return Interval(float(right.mean()), 0.0, 1.0, level, "none", {"rows": len(right), "groups": count})
    return interval(mean("right", right.astype(np.float64), "share"), inside, level=level)

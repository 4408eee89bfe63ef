"""Have columns moved together? A classifier that tells window from reference, where no column alone may show it.

Classifier two-sample test (Lopez-Paz and Oquab, 2017): if a classifier tells held-out rows of the two apart, they
differ. Here a ridge classifier on normal scores of each column, their squares and their products in pairs: those see a
mean, a spread or a correlation that has moved. The area under its curve on rows that it was not fitted to is the
effect; 0.5 is none.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from rung.stats.drift import Shift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_Some = TypeVar("_Some", bound=np.generic)

__all__ = ["ROWS", "area_margin", "area_under_curve", "together"]

ROWS = 2_000
"""Rows of each side that are looked at, at most."""
_COLUMNS = 24
"""Columns whose products are taken; of further ones the scores and squares."""
_FOLDS = 5
_LEAST = 200
"""Rows of a window below which nothing is said: a classifier of many products sees too much in fewer."""
_PENALTIES = (0.01, 0.1, 1.0, 10.0)
_POWER = 0.8416


def together(
    before: "Array",
    now: "Array",
    *,
    margin: float,
    alpha: float = 0.05,
    rows: float = 0.0,
    units: "NDArray[np.int64] | None" = None,
) -> Shift:
    """Compare rows of several numbers.

    Args:
        before: finite values, of shape (n, columns).
        now: the same of the window, of shape (m, columns).
        margin: standard deviations that do not matter.
        alpha: 1 less the confidence of the bound.
        rows: independent rows that `now` is worth; 0: m.
        units: code of the unit of each row of `now`: rows of one that are alike must not be learned from and tested.
    """
    limit = area_margin(margin)
    share = (rows or len(now)) / max(1, len(now))
    units = np.arange(len(now)) if units is None else units
    before, now, units = _some(before), _some(now), _some(units)
    n, m = float(len(before)), len(now) * min(1.0, share)
    # A fold without a unit of the window could test nothing.
    if m < _LEAST or n < _LEAST or np.unique(units).size < _LEAST // _FOLDS:
        return Shift("classifier", 1.0, 0.5, 0.5, 1.0, limit, zero=0.5)
    from scipy.stats import norm

    # Under no change: Mann and Whitney's variance, twice. Each pair of folds counts in both directions, by the same
    # chance: the mean over folds spreads up to sqrt(2) times as far as independent rows would.
    error = math.sqrt((n + m + 1) / (6 * n * m))
    area = _area(before, now, units)
    p = float(norm.sf((area - 0.5) / error))
    chance = float(norm.isf(alpha)) * math.sqrt(2 * _variance(area, n, m))
    detectable = limit + (float(norm.isf(alpha)) + _POWER) * error
    return Shift("classifier", p, area, max(0.5, area - chance), detectable, limit, zero=0.5)


def area_margin(margin: float) -> float:
    """The area under the curve of two normal distributions so many standard deviations apart."""
    return 0.5 * (1 + math.erf(margin / 2))


def area_under_curve(low: "Array", high: "Array") -> float:
    """Probability that a value of `high` is above one of `low`; equal ones count half."""
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([low, high]))[low.size :]
    return float((ranks.sum() - high.size * (high.size + 1) / 2) / (low.size * high.size))


def _variance(area: float, n: float, m: float) -> float:
    """Of an area under the curve, by Hanley and McNeil (1982); at least that under no change."""
    first, second = area / (2 - area), 2 * area * area / (1 + area)
    found = (area * (1 - area) + (m - 1) * (first - area**2) + (n - 1) * (second - area**2)) / (n * m)
    return max(found, 1 / (12 * n * m))


def _some(rows: "NDArray[_Some]") -> "NDArray[_Some]":
    """At most `ROWS` of them, the same ones each time, in an order of chance: neighbours may be alike."""
    return rows[np.random.default_rng(6).permutation(len(rows))[:ROWS]]


def _area(before: "Array", now: "Array", units: "NDArray[np.int64]") -> float:
    """Mean area over folds, each by a classifier that has not seen it, nor have its scores."""
    areas, weights = [], []
    # Units by chance, for their numbers may follow an order.
    turn = np.random.default_rng(6).permutation(int(units.max()) + 1)[units]
    for fold in range(_FOLDS):
        held = [np.arange(len(before)) % _FOLDS == fold, turn % _FOLDS == fold]
        if not held[1].any() or held[1].all():
            continue
        scores = _scores(before[~held[0]])
        fitted = [_products(scores(part)) for part in (before[~held[0]], now[~held[1]])]
        tested = [_products(scores(part)) for part in (before[held[0]], now[held[1]])]
        weight = _ridge(fitted[0], fitted[1])
        areas.append(area_under_curve(tested[0] @ weight, tested[1] @ weight))
        weights.append(len(tested[1]))
    return float(np.average(areas, weights=weights))


def _scores(before: "Array") -> Callable[["Array"], "Array"]:
    """A function from rows to normal scores of their ranks among `before`: no value is far away then."""
    from scipy.special import ndtri

    ordered = np.sort(before, axis=0)
    n = len(before)

    def scores(rows: "Array") -> "Array":
        made = np.empty(rows.shape)
        for place in range(rows.shape[1]):
            below = np.searchsorted(ordered[:, place], rows[:, place], "left")
            upto = np.searchsorted(ordered[:, place], rows[:, place], "right")
            # Equal values lie in the middle of theirs.
            made[:, place] = ndtri(((below + upto) / 2 + 0.5) / (n + 1))
        return made

    return scores


def _products(scores: "Array") -> "Array":
    first = scores[:, :_COLUMNS]
    above = np.triu_indices(first.shape[1], 1)
    return np.hstack([scores, scores**2 - 1, first[:, above[0]] * first[:, above[1]]])


def _ridge(before: "Array", now: "Array") -> "Array":
    """Weights of least squares on -1 and 1, both sides counting the same.

    The penalty is the one with the least error of rows left out one at a time.
    """
    rows = np.vstack([before, now])
    target = np.concatenate([-np.ones(len(before)), np.ones(len(now))])
    root = np.sqrt(np.concatenate([np.full(len(before), 0.5 / len(before)), np.full(len(now), 0.5 / len(now))]))
    centre = (root**2) @ rows
    weighted, wanted = (rows - centre) * root[:, None], target * root
    # By the small matrix of products: rows are many, columns few.
    values, axes = np.linalg.eigh(weighted.T @ weighted)
    values, turned = values.clip(0), weighted @ axes
    projected = turned.T @ wanted
    best, chosen = math.inf, np.zeros(rows.shape[1])
    for penalty in _PENALTIES:
        inverse = 1 / (values + penalty)
        hat = (turned**2) @ inverse + root**2
        residual = wanted - turned @ (inverse * projected)
        error = float(((residual / np.maximum(1 - hat, 1e-6)) ** 2).sum())
        if error < best:
            best, chosen = error, axes @ (inverse * projected)
    return chosen

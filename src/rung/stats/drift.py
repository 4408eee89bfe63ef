"""Has a column moved, by how much at least, and could this window have shown it? Tests for every size of window.

An effect has one measure, standard deviations of before, and a lower bound at confidence 1 - alpha. For numbers it is
the Wasserstein distance: W(F_m, G_n) <= W(F, G) + integral |(F_m - F) - (G_n - G)|, and the last term is that of a
Brownian bridge times sqrt(1/m + 1/n), so its quantile is taken off. For categories it is the total variation, and its
null quantile likewise. A margin of d deviations is a total variation of 2 Phi(d/2) - 1 and an area under the curve of
Phi(d / sqrt 2): those of two normal distributions d apart.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = [
    "FEW",
    "Shift",
    "benjamini_hochberg",
    "categories",
    "judge",
    "numbers",
    "persistent",
    "population_stability",
    "run_length",
    "share_margin",
    "wasserstein",
    "worth",
]

FEW, MANY = 200, 50_000
"""Rows of a window below which numbers are compared by Kolmogorov and Smirnov's test, and above which in bins."""
_BINS, _FINE = 10, 2_048
_LEAST = 5
"""Values below which nothing is tested."""
_DRAWS, _CELLS, _STEPS = 1_000, 64, 16
_RARE = 5.0
"""Expected rows of a category below which it is counted with other rare ones."""
_KINDS = 60
"""Categories that are told apart, at most."""
_POWER = 0.8416
"""Normal quantile of 0.8: with this probability an effect of the `detectable` size is seen."""
_FAR = 10.0
"""Robust deviations from the median beyond which a value counts as lying there."""


class Shift(msgspec.Struct, frozen=True):
    """What one test of one column and window says."""

    test: str
    p: float
    """Of no change at all, before any correction."""
    effect: float
    low: float
    """Lower confidence bound of the effect; 0 where none is shown."""
    detectable: float
    """Smallest effect that such a window shows with a probability of about 0.8."""
    margin: float
    """Effect that does not matter, in the effect's measure."""
    psi: float | None = None
    """Population stability index less its mean under no change; None where it is not used."""
    zero: float = 0.0
    """Effect of no change: one half for an area under the curve."""


def numbers(
    before: "Array", now: "Array", *, margin: float, alpha: float = 0.05, count: float | None = None, rows: float = 0.0
) -> Shift:
    """Compare numbers; the test goes by the size of the window.

    Args:
        before: finite values, of shape (n,), at least two of them different.
        now: finite values, of shape (m,).
        margin: standard deviations that do not matter.
        alpha: 1 less the confidence of the bound.
        count: rows that `before` stands for, where it is a summary of more; None: n.
        rows: independent rows that `now` is worth, see `worth`; 0: m.
    """
    n, m = count or float(before.size), rows or float(now.size)
    if now.size < _LEAST:
        return Shift("too few rows", 1.0, 0.0, 0.0, math.inf, margin)
    before, now, scale = _clipped(before, now)
    width = math.sqrt(1 / n + 1 / m)
    distance = wasserstein(before, now) / scale
    chance = max(_bridge_quantile(_spacing(one) / scale, alpha) for one in (before, now)) * width
    # Under a shift the distance spreads as a difference of means does.
    detectable = margin + chance + _POWER * width
    low = max(0.0, distance - chance)
    if m < FEW:
        return Shift("Kolmogorov-Smirnov", _kolmogorov(before, now, n, m), distance, low, detectable, margin)
    index, p = population_stability(before, now, n=n, m=m, bins=_BINS if m <= MANY else 5 * _BINS)
    name = "PSI, chi-squared" if m <= MANY else "PSI in fine bins, chi-squared"
    return Shift(name, p, distance, low, detectable, margin, index)


def categories(
    before: Mapping[str, float],
    now: Mapping[str, float],
    *,
    margin: float,
    alpha: float = 0.05,
    count: float | None = None,
    rows: float = 0.0,
) -> Shift:
    """Compare counts by category: Fisher's exact test of two, chi-squared of more; the effect is total variation.

    Args:
        before: category -> rows.
        now: the same of the window.
        margin: standard deviations that do not matter.
        alpha: 1 less the confidence of the bound.
        count: rows that `before` stands for; None: their sum.
        rows: independent rows that `now` is worth; 0: their sum.
    """
    old, new = _aligned(before, now)
    limit = share_margin(margin)
    whole = float(new.sum())
    if whole < _LEAST or old.sum() < _LEAST or old.size < 2:
        same = old.size == 1 and whole >= _LEAST
        return Shift("one category" if same else "too few rows", 1.0, 0.0, 0.0, 0.0 if same else math.inf, limit)
    n, m = count or float(old.sum()), rows or whole
    old, new = old * (n / old.sum()), new * (m / whole)
    apart = float(np.abs(old / n - new / m).sum() / 2)
    width = math.sqrt(1 / n + 1 / m)
    share = (old + new) / (n + m)
    chance = float(np.quantile(_multinomial(share), 1 - alpha)) * width
    # Of two categories the difference of shares spreads most at one half.
    spread = math.sqrt(float((share * (1 - share)).max())) * width
    low = max(0.0, apart - chance)
    name, p = _independence(old, new)
    return Shift(name, p, apart, low, limit + chance + _POWER * spread, limit)


def judge(shift: Shift, *, significant: bool) -> Literal["drifted", "quiet", "underpowered"]:
    """`drifted` needs significance (after correction) and an effect that is surely above the margin.

    An effect of twice the margin matters. A window that could not have shown it says so, and is never quiet.
    """
    if significant and shift.low > shift.margin:
        return "drifted"
    return "underpowered" if shift.detectable - shift.zero > 2 * (shift.margin - shift.zero) else "quiet"


def share_margin(margin: float) -> float:
    """The total variation of two normal distributions so many standard deviations apart."""
    return math.erf(margin / 2 / math.sqrt(2))


def worth(values: "Array", units: "NDArray[np.int64]") -> float:
    """How many independent rows these values are worth, where rows of one unit (a user) are alike.

    m / (1 + (k - 1) r) with the intraclass correlation r of one-way analysis of variance and the mean size k of
    units (Kish 1965, design effect); at most m, at least the units.

    Args:
        values: of shape (m,).
        units: code of the unit of each, from 0.
    """
    from scipy.stats import rankdata

    sizes = np.bincount(units).astype(float)
    sizes_at = sizes[units]
    groups, m = int((sizes > 0).sum()), float(values.size)
    if groups < 2 or groups == m:
        return m
    # Of ranks, so that one far value does not decide.
    ranks = rankdata(values)
    means = np.bincount(units, ranks) / np.maximum(sizes, 1)
    inside = float(((ranks - means[units]) ** 2).sum()) / max(1.0, m - groups)
    between = float(((means[units] - ranks.mean()) ** 2).sum()) / (groups - 1)
    typical = (m - float((sizes**2).sum()) / m) / (groups - 1)
    alike = (between - inside) / max(between + (typical - 1) * inside, 1e-300)
    return float(min(m, max(groups, m / (1 + (float(sizes_at.mean()) - 1) * min(1.0, max(0.0, alike))))))


# --- several columns, several windows ---------------------------------------------------------------


def benjamini_hochberg(p: Sequence[float], alpha: float) -> list[bool]:
    """Which of several tests are significant at false discovery rate `alpha` (Benjamini and Hochberg, 1995).

    Where nothing has changed, the probability of any is at most `alpha`, for independent tests.
    """
    values = np.asarray(p, float)
    order = values.argsort(kind="stable")
    passing = np.flatnonzero(values[order] <= alpha * np.arange(1, values.size + 1) / max(1, values.size))
    found = np.zeros(values.size, bool)
    if passing.size:
        found[order[: passing[-1] + 1]] = True
    return [bool(one) for one in found]


def persistent(flags: Sequence[bool], need: int, of: int) -> bool:
    """Whether at least `need` of the last `of` windows say so; those that are not there say nothing."""
    return sum(flags[-of:]) >= need


def run_length(rate: float, need: int, of: int) -> float:
    """Expected windows until `need` of the last `of` are false alarms, each with probability `rate`, independently.

    By the equations of the Markov chain whose states are the last `of - 1` windows.
    """
    if rate <= 0:
        return math.inf
    states = 1 << (of - 1)
    matrix = np.eye(states)
    for state in range(states):
        for alarm, chance in ((0, 1 - rate), (1, rate)):
            seen = (state << 1) | alarm
            if seen.bit_count() < need:
                matrix[state, seen & (states - 1)] -= chance
    return float(np.linalg.solve(matrix, np.ones(states))[0])


# --- numbers ----------------------------------------------------------------------------------------


def wasserstein(before: "Array", now: "Array") -> float:
    """The area between two distribution functions; in `_FINE` bins where there are many values."""
    if max(before.size, now.size) > MANY:
        low, high = min(before.min(), now.min()), max(before.max(), now.max())
        if high <= low:
            return 0.0
        parts = [np.histogram(one, _FINE, (low, high))[0].cumsum() / one.size for one in (before, now)]
        return float(np.abs(parts[0] - parts[1]).sum() * (high - low) / _FINE)
    old, new = np.sort(before), np.sort(now)
    every = np.sort(np.concatenate([old, new]))
    gaps = np.diff(every)
    apart = np.searchsorted(old, every[:-1], "right") / old.size - np.searchsorted(new, every[:-1], "right") / new.size
    return float((np.abs(apart) * gaps).sum())


def population_stability(before: "Array", now: "Array", *, n: float, m: float, bins: int) -> tuple[float, float]:
    """The index less its mean under no change, and the p value of no change.

    Under no change it is (1/n + 1/m) times chi-squared of one degree less than bins (Yurdakul, 2018). The bins are
    quantiles of before; equal ones are joined.
    """
    from scipy.stats import chi2

    inner = np.unique(np.quantile(before, np.arange(1, bins) / bins))
    # Half a row more in each bin, so that an empty one has a logarithm.
    size = inner.size + 1
    old = np.bincount(np.searchsorted(inner, before, "right"), minlength=size) / before.size * n + 0.5
    new = np.bincount(np.searchsorted(inner, now, "right"), minlength=size) / now.size * m + 0.5
    old, new = old / old.sum(), new / new.sum()
    index = float(((new - old) * np.log(new / old)).sum())
    width = 1 / n + 1 / m
    return max(0.0, index - (size - 1) * width), float(chi2.sf(index / width, size - 1))


def _clipped(before: "Array", now: "Array") -> "tuple[Array, Array, float]":
    """Both without far values, and the deviation of before: a few enormous values would hide all others."""
    low, middle, high = np.quantile(before, (0.25, 0.5, 0.75))
    robust = float(high - low) / 1.349
    if robust > 0:
        ends = (middle - _FAR * robust, middle + _FAR * robust)
        before = before.clip(*ends)
        # The window may be further off than that, and then it should be seen to be.
        now = now.clip(middle - 10 * _FAR * robust, middle + 10 * _FAR * robust)
    return before, now, float(before.std()) or 1.0


def _kolmogorov(before: "Array", now: "Array", n: float, m: float) -> float:
    from scipy.stats import ks_2samp, kstwo

    if before.size * now.size <= 10_000 and n == before.size and m == now.size:
        return float(ks_2samp(before, now, method="exact").pvalue)
    old, new = np.sort(before), np.sort(now)
    every = np.concatenate([old, new])
    apart = np.searchsorted(old, every, "right") / old.size - np.searchsorted(new, every, "right") / new.size
    return float(kstwo.sf(np.abs(apart).max(), max(1, round(n * m / (n + m)))))


def _spacing(values: "Array") -> "Array":
    return np.diff(np.quantile(values, np.linspace(0, 1, _CELLS + 1)))


def _bridge_quantile(spacing: "Array", alpha: float) -> float:
    """Quantile 1 - alpha of the integral of |B(F(x))| dx for a Brownian bridge B, by draws that are always the same."""
    return float(np.quantile(_bridges() @ spacing, 1 - alpha))


@cache
def _bridges() -> "Array":
    """|B| in the middle of each cell, of shape (draws, cells)."""
    rng = np.random.default_rng(6)
    steps = rng.normal(size=(_DRAWS, _CELLS * _STEPS)) / math.sqrt(_CELLS * _STEPS)
    walk = steps.cumsum(axis=1)
    at = np.arange(1, _CELLS * _STEPS + 1) / (_CELLS * _STEPS)
    bridge = walk - at * walk[:, -1:]
    middle: Array = np.abs(bridge.reshape(_DRAWS, _CELLS, _STEPS)).mean(axis=2)
    return middle


# --- categories -------------------------------------------------------------------------------------


def _aligned(before: Mapping[str, float], now: Mapping[str, float]) -> "tuple[Array, Array]":
    """Counts of the same categories, rare ones together."""
    total = sum(before.values()) + sum(now.values())
    share = sum(now.values()) / total if total else 0.0
    both = {name: before.get(name, 0.0) + now.get(name, 0.0) for name in (*before, *now)}
    ordered = sorted(both, key=lambda name: (-both[name], name))
    common = [name for name in ordered[:_KINDS] if both[name] * min(share, 1 - share) >= _RARE]
    # Of two categories the exact test needs no pooling.
    if len(both) <= 2:
        common = ordered
    old, new = [float(before.get(name, 0)) for name in common], [float(now.get(name, 0)) for name in common]
    rest = (sum(before.values()) - sum(old), sum(now.values()) - sum(new))
    if sum(rest) > 0:
        old, new = [*old, rest[0]], [*new, rest[1]]
    return np.array(old), np.array(new)


def _independence(old: "Array", new: "Array") -> tuple[str, float]:
    from scipy.stats import chi2_contingency, fisher_exact

    table: Any = np.array([old, new])
    expected = table.sum(axis=0) * table.sum(axis=1, keepdims=True) / table.sum()
    if old.size == 2 and expected.min() < 50:
        return "Fisher's exact", float(fisher_exact(np.rint(table).astype(int)).pvalue)
    return "chi-squared", float(chi2_contingency(table, correction=False).pvalue)


def _multinomial(share: "Array") -> "Array":
    """Half the sum of |G| for the Gaussian limit G of multinomial shares, of shape (draws,)."""
    root = np.sqrt(share)
    draws = np.random.default_rng(6).normal(size=(_DRAWS, share.size)) * root
    found: Array = np.abs(draws - draws.sum(axis=1, keepdims=True) * share).sum(axis=1) / 2
    return found

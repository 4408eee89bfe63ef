"""Compare a quantile of two arms at every look: confidence sequences for p50, p95, p99 of latency.

At the q-quantile Q, the number of values at or below it is a sum of coin tosses with probability q (at least q, with
ties). Against "q or less" the one-sided Beta mixture of likelihood ratios

    B(a+k, b+n-k) / B(a, b) * P(Beta(a+k, b+n-k) > q) / P(Beta(a, b) > q) / (q^k (1-q)^(n-k))

is a supermartingale (Howard and Ramdas, Sequential Estimation of Quantiles, 2022, invert such tests; Robbins' mixture,
truncated at q as for their one-sided bounds). A value below which too many values lie is above Q, at all looks together
with probability 1 - alpha; likewise from the other side. Nothing is assumed of the distribution.

Values are kept in bins of 1 %, whose outer edges are used, so rounding never makes a bound too narrow.
One value per unit: a user's requests are slow together.
"""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.rules import Outcome, Verdict

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Histogram", "bounds", "cumulative", "latency", "log_above", "log_below", "p_values"]

_SMALLEST = 1e-6
_WIDTH = math.log(1.01)
_BINS = 2_100
"""Bins from 1 µs to about 20 minutes."""


class Histogram(msgspec.Struct, frozen=True):
    """How many units had which latency. Small, merged by addition, and plain JSON."""

    bins: dict[int, int] = {}
    """Bin -> units. Bin i holds seconds from 1e-6 * 1.01**(i-1) to 1e-6 * 1.01**i; 0 what is shorter."""

    @classmethod
    def of(cls, seconds: Iterable[float]) -> "Histogram":
        """Of one latency per unit.

        Raises:
            InvalidInput: when one is NaN or below 0.
        """
        import numpy as np

        known = np.fromiter(seconds, dtype=float)
        if not (known >= 0).all():
            raise InvalidInput(
                "A latency is NaN or below 0 seconds; leave out the unit that has none.", field="seconds"
            )
        places = np.log(np.maximum(known, _SMALLEST / 2) / _SMALLEST) / _WIDTH
        found, counts = np.unique(np.clip(np.floor(places) + 1, 0, _BINS).astype(int), return_counts=True)
        return cls(dict(zip(found.tolist(), counts.tolist(), strict=True)))

    def __add__(self, other: "Histogram") -> "Histogram":
        bins = dict(self.bins)
        for place, count in other.bins.items():
            bins[place] = bins.get(place, 0) + count
        return Histogram(bins)

    @staticmethod
    def place(seconds: float) -> int:
        """The bin of one latency, without numpy: for a stream that is counted as it comes."""
        if seconds <= _SMALLEST / 2:
            return 0
        return min(max(math.floor(math.log(seconds / _SMALLEST) / _WIDTH) + 1, 0), _BINS)

    @property
    def count(self) -> int:
        """Units."""
        return sum(self.bins.values())

    def at(self, quantile: float) -> float:
        """The quantile in seconds, as the upper edge of its bin; 0 of none."""
        need, seen = quantile * self.count, 0
        for place in sorted(self.bins):
            seen += self.bins[place]
            if seen >= need:
                return _edge(place)
        return 0.0


def latency(
    baseline: Histogram,
    candidate: Histogram,
    *,
    quantile: float = 0.99,
    ratio: float = 1.25,
    alpha: float = 0.005,
    before: float = 1.0,
) -> Verdict:
    """Guard: `pass` when the candidate's quantile is shown to be at most `ratio` times the baseline's.

    `fail` when it is shown to be more.

    Args:
        baseline: of the arm that answers now.
        candidate: of the arm that may replace it, over the same time.
        quantile: which, between 0 and 1.
        ratio: how many times the baseline's the candidate's may be.
        alpha: probability of ever failing without cause, and that of ever passing without.
        before: the `p` of the last look; 1 at the first.
    """
    below = cumulative(baseline), cumulative(candidate)
    fail, passing = p_values(*below, quantile=quantile, ratio=ratio)
    p = min(before, fail)
    outcome: Outcome = "fail" if p <= alpha else "pass" if passing <= alpha else "inconclusive"
    name = f"p{100 * quantile:g}"
    a, b = bounds(baseline, quantile, alpha), bounds(candidate, quantile, alpha)
    values = {"baseline": baseline.at(quantile), "candidate": candidate.at(quantile)}
    evidence: dict[str, Any] = {
        "method": f"confidence sequences of {name} by a one-sided Beta mixture, always valid",
        "alpha": alpha,
        "ratio": ratio,
        "p": p,
        "p_pass": passing,
        "estimate": values["candidate"] / values["baseline"] if values["baseline"] else None,
        "low": b[0] / a[1] if a[1] else None,
        "high": b[1] / a[0] if b[1] and a[0] else None,
        "quantiles": values,
        "intervals": {"baseline": list(a), "candidate": list(b)},
        "counts": {"baseline": baseline.count, "candidate": candidate.count},
    }
    said = {
        "fail": f"is more than {ratio:g} times",
        "pass": f"is at most {ratio:g} times",
        "inconclusive": f"is shown neither to be over nor under {ratio:g} times",
    }[outcome]
    why = (
        f"The candidate's {name} {said} the baseline's: {_show(values['candidate'], b)} of {candidate.count} units "
        f"against {_show(values['baseline'], a)} of {baseline.count}, p {p:.2g} of {alpha:g}."
    )
    return Verdict(outcome, f"latency {name}", why, evidence)


def p_values(baseline: "Array", candidate: "Array", *, quantile: float, ratio: float) -> tuple[float, float]:
    """Of "the candidate's quantile is at most `ratio` times the baseline's", and of "it is more".

    Args:
        baseline: units below each upper edge, as `cumulative` gives them.
        candidate: the same.
        quantile: which, between 0 and 1.
        ratio: how many times the baseline's the candidate's may be.
    """
    import numpy as np

    edges = _edges()
    up_a, down_a = (_each(f, baseline, quantile) for f in (log_above, log_below))
    up_b, down_b = (_each(f, candidate, quantile) for f in (log_above, log_below))
    scaled = edges * ratio * (1 + 1e-12)
    # More: the baseline's is at most an edge, and the candidate's at least the next edge over `ratio` times that.
    over = np.searchsorted(edges, scaled, side="left")
    inside = over < len(edges)
    fail = _best(up_a[inside], down_b[over[inside]])
    # At most: the baseline's is at least an edge, and the candidate's at most the last edge under `ratio` times that.
    under = np.searchsorted(edges, scaled, side="right") - 1
    inside = under >= 0
    return fail, _best(down_a[inside], up_b[under[inside]])


def bounds(histogram: Histogram, quantile: float, alpha: float) -> tuple[float, float | None]:
    """Seconds between which the quantile lies, at all looks together with probability 1 - `alpha`.

    The lower end is 0 and the upper None where there are too few units for one.
    """
    below, count = cumulative(histogram), histogram.count
    edges, need = _edges(), math.log(2 / alpha)
    low = (log_below(below, count, quantile) >= need).nonzero()[0]
    high = (log_above(below, count, quantile) >= need).nonzero()[0]
    return float(edges[low[-1]]) if len(low) else 0.0, float(edges[high[0]]) if len(high) else None


def cumulative(histogram: Histogram) -> "Array":
    """Units below each upper edge of the bins: an array of their number, the last of which counts all."""
    import numpy as np

    counts = np.zeros(_BINS + 1)
    for place, count in histogram.bins.items():
        counts[place] = count
    return np.cumsum(counts)


def log_above(below: Any, count: Any, quantile: float) -> Any:
    """Log of the evidence that values of which `below` of `count` lie below it are above the quantile."""
    from scipy.special import betaincc

    return _log_mixture(below, count, quantile, betaincc)


def log_below(below: Any, count: Any, quantile: float) -> Any:
    """Log of the evidence that values of which only `below` of `count` lie below it are below the quantile."""
    from scipy.special import betainc

    return _log_mixture(below, count, quantile, betainc)


def _log_mixture(below: Any, count: Any, quantile: float, tail: Any) -> Any:
    import numpy as np
    from scipy.special import betaln

    k, n = np.asarray(below, dtype=float), np.asarray(count, dtype=float)
    # The prior is about as sharp as some hundred units make it, and has some mass on both sides of the quantile.
    strength = max(100.0, 5 / min(quantile, 1 - quantile))
    a, b = strength * quantile, strength * (1 - quantile)
    null = k * math.log(quantile) + (n - k) * math.log1p(-quantile)
    with np.errstate(divide="ignore"):
        kept = np.log(tail(a + k, b + n - k, quantile)) - np.log(tail(a, b, quantile))
    return betaln(a + k, b + n - k) - betaln(a, b) + kept - null


def _each(evidence: Any, below: "Array", quantile: float) -> "Array":
    """The evidence at each edge, computed once for edges with no unit between them."""
    import numpy as np

    values, place = np.unique(below, return_inverse=True)
    return np.asarray(evidence(values, below[-1], quantile)[place])


def _edge(place: int) -> float:
    return _SMALLEST * math.exp(_WIDTH * place) if place < _BINS else math.inf


def _edges() -> "Array":
    """Upper edges of the bins in seconds; the last is infinite."""
    import numpy as np

    edges: Array = _SMALLEST * np.exp(_WIDTH * np.arange(_BINS + 1))
    edges[-1] = np.inf
    return edges


def _best(first: "Array", second: "Array") -> float:
    """The smallest p-value of two statements that must both hold, each at half of it."""
    import numpy as np

    both = np.minimum(first, second)
    return min(1.0, 2 * math.exp(-max(float(both.max()), 0.0))) if len(both) else 1.0


def _show(value: float, ends: tuple[float, float | None]) -> str:
    high = f"{1000 * ends[1]:.3g}" if ends[1] is not None else "∞"
    return f"{1000 * value:.3g} ms in [{1000 * ends[0]:.3g}, {high}]"

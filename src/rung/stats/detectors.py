"""Has the mean of a stream of losses risen? A detector whose false alarms are rare however long it runs.

Against a mean of at most m, the Shiryaev-Roberts e-detector with a bet b adds up the evidence of a rise that began at
any time so far,

    M_n = (M_{n-1} + 1) (1 + b (x_n - m)),   M_0 = 0,   0 < b < 1/m

M_n - n is a supermartingale while each loss is at most m on average given those before. So an alarm at M > A comes
after A losses or more on average, which is its average run length (ARL), and within n losses with probability n/A at
most (Shin, Ramdas and Rinaldo, E-detectors, 2023). The average over several bets keeps both, and finds large and small
rises alike. Evidence against a change is forgotten by itself, so that a good year does not hide a bad week.

A one-sided z-test at 5 % on each of 60 quiet days raises an alarm in 95 % of such runs; this one, in as many losses
(500 a day) and at A = 50,000, in 37 %, and it finds a rise from 10 % to 15 % after 400 losses (median).
"""

import math
from typing import TYPE_CHECKING, Any

import msgspec

from rung.domain.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Baseline", "EDetector"]

_BETS = 8
"""How many bets the average is over."""
_NOTHING = -1e9
"""Log of no evidence at all; JSON has no infinity."""


class Baseline(msgspec.Struct, frozen=True):
    """The mean loss that a stream is held against, from 0 to 1.

    It is an estimate itself. Held against the estimate, a model that did not change is above it half of the time, and
    then nothing is left of the average run length. So a detector goes by `high`: if the bound holds, which it fails to
    do with probability `alpha`, the average run length does too.
    """

    mean: float
    high: float
    """Upper confidence bound for the mean."""
    units: int = 0
    """How many values they are from; 0 where the mean is known."""
    alpha: float = 0.0
    """Probability that the true mean is above `high`."""

    def __post_init__(self) -> None:
        if not 0 <= self.mean <= self.high <= 1:
            raise InvalidInput(
                f"A baseline has a mean and a bound above it, both from 0 to 1, not {self.mean} and {self.high}.",
                field="baseline",
            )

    @classmethod
    def of(cls, losses: Any, *, alpha: float = 0.05) -> "Baseline":
        """Of the losses of a time when all was well, one for each unit: rows of one user are averaged first.

        The bound of a rate is that of Clopper and Pearson; of other values it is found by betting (Waudby-Smith and
        Ramdas, 2024). Both hold at any number of losses.

        Args:
            losses: shape (units,), from 0 to 1.
            alpha: probability that the true mean is above the bound.

        Raises:
            InvalidInput: when there is no loss, or one is not from 0 to 1.
        """
        import numpy as np

        x = _checked(losses)
        if not x.size:
            raise InvalidInput("There is no loss to take a baseline of.", field="losses")
        mean = min(float(x.mean()), 1.0)
        if np.isin(x, (0.0, 1.0)).all():
            from rung.stats.intervals import clopper_pearson

            high = clopper_pearson(int(x.sum()), int(x.size), level=1 - 2 * alpha).high
        else:
            high = _betting_bound(x, alpha)
        return cls(mean, max(mean, high), int(x.size), alpha)


class EDetector(msgspec.Struct):
    """A mixture of e-detectors. All that it knows is in its fields, so that JSON keeps it and no loss is read twice.

    Guarantees:
        1. While each loss, given those before it, is at most `limit` on average, the first alarm comes after
           `run_length` losses on average, or later. Losses of one unit are alike: average them before.
        2. In parts or at once: the same losses in the same order give the same state, up to rounding.
        3. An alarm stays. What the losses do afterwards is seen in `level`.
    """

    limit: float
    """Mean loss that is still well, from 0 to 1 exclusive: the baseline's upper bound and a margin that does not
    matter. It may be moved between two calls of `feed`, by what was known before the losses that follow."""
    run_length: float = 50_000.0
    """Losses between two false alarms, on average and at least."""
    count: int = 0
    """Losses so far."""
    at: int | None = None
    """Number of the loss, from 1, with which `run_length` was passed; None: it was not."""
    began: int | None = None
    """Number of the loss, from 1, from which on the strongest bet had won at the alarm: about when the rise began."""
    highest: float = 0.0
    """The highest level so far."""
    logs: list[float] = []
    """Log of M, by bet."""
    sums: list[float] = []
    """Log of the product of all factors, by bet."""
    lows: list[float] = []
    """The smallest of these so far, by bet."""
    lows_at: list[int] = []
    """After how many losses it was."""

    def __post_init__(self) -> None:
        if not 0 < self.limit < 1 or not self.run_length > 1:
            raise InvalidInput(
                f"A detector needs a limit between 0 and 1 and a run length above 1, not {self.limit} and "
                f"{self.run_length}; the limit is the baseline's bound and the margin together.",
                field="limit",
            )
        if not self.logs:
            self.logs = [_NOTHING] * _BETS
            self.sums, self.lows, self.lows_at = [0.0] * _BETS, [0.0] * _BETS, [0] * _BETS

    @classmethod
    def against(cls, baseline: Baseline, *, margin: float = 0.0, run_length: float = 50_000.0) -> "EDetector":
        """A new one, held against a baseline's upper bound.

        Args:
            baseline: of the version that answers, when all was well.
            margin: a rise that does not matter.
            run_length: losses between two false alarms, on average and at least.

        Raises:
            InvalidInput: when bound and margin leave no rise to be found, or the margin is negative.
        """
        if margin < 0:
            raise InvalidInput(f"The margin is {margin}; a rise that does not matter is 0 or more.", field="margin")
        # A baseline without any loss has a bound above 0, unless it is said to be known.
        return cls(max(baseline.high + margin, 1e-6), run_length)

    def feed(self, losses: Any) -> None:
        """Take in further losses.

        Args:
            losses: shape (losses,), from 0 to 1, in the order of time.

        Raises:
            InvalidInput: when one is not from 0 to 1; then none was taken in.
        """
        import numpy as np

        x = _checked(losses)
        if not x.size:
            return
        paths, logs = self._paths(x)
        levels = np.exp(np.minimum(np.logaddexp.reduce(logs, axis=0) - math.log(_BETS), 700.0))
        self.highest = max(self.highest, float(levels.max()))
        over = np.flatnonzero(levels > self.run_length)
        stop = int(over[0]) + 1 if self.at is None and over.size else 0
        if stop:
            self.at = self.count + stop
            strongest = int(logs[:, stop - 1].argmax())
            places, _ = self._lowest(paths[:, :stop])
            self.began = places[strongest] + 1
        places, lows = self._lowest(paths)
        self.lows, self.lows_at = lows, places
        self.logs, self.sums = logs[:, -1].tolist(), paths[:, -1].tolist()
        self.count += int(x.size)

    @property
    def level(self) -> float:
        """M, the average over the bets; an alarm is raised above `run_length`."""
        most = max(self.logs)
        return math.exp(min(most + math.log(sum(math.exp(one - most) for one in self.logs) / _BETS), 700.0))

    @property
    def alarm(self) -> bool:
        """Whether the level was ever above `run_length`."""
        return self.at is not None

    def _paths(self, x: "Array") -> tuple["Array", "Array"]:
        """Log of the product of all factors, and log of M, by bet after each loss: shape (bets, losses)."""
        import numpy as np

        bets = np.geomspace(0.005, 0.5, _BETS) / self.limit
        steps = np.log1p(bets[:, None] * (x - self.limit))
        before = np.array(self.sums)[:, None]
        paths = before + np.cumsum(steps, axis=1)
        # M_n = P_n (M_0 / P_0 + sum over k <= n of 1 / P_{k-1}) with the products P of the factors.
        earlier = -np.hstack([before, paths[:, :-1]])
        start = np.array(self.logs)[:, None] - before
        sums = np.logaddexp.accumulate(np.hstack([start, earlier]), axis=1)[:, 1:]
        return paths, paths + sums

    def _lowest(self, paths: "Array") -> tuple[list[int], list[float]]:
        """After how many losses each product was smallest, and its log there, with what was known before."""
        here = paths.argmin(axis=1)
        places, lows = [], []
        for bet, place in enumerate(here.tolist()):
            value = float(paths[bet, place])
            better = value < self.lows[bet]
            places.append(self.count + place + 1 if better else self.lows_at[bet])
            lows.append(value if better else self.lows[bet])
        return places, lows


def _betting_bound(x: "Array", alpha: float) -> float:
    """The smallest mean that the losses show not to be reached, at `alpha`; 1 if none is."""
    from rung.stats.betting import log_wealth

    low, high = float(x.mean()), 1.0
    for _ in range(20):
        middle = (low + high) / 2
        shown = float(log_wealth(x, middle)[-1]) >= math.log(1 / alpha)
        low, high = (low, middle) if shown else (middle, high)
    return high


def _checked(losses: Any) -> "Array":
    import numpy as np

    x = np.asarray(losses, dtype=float)
    # Written so that NaN is refused.
    if x.ndim != 1 or not ((x >= 0) & (x <= 1)).all():
        raise InvalidInput(
            "Losses are a row of numbers from 0 to 1; leave out those that are not known.", field="losses"
        )
    return x

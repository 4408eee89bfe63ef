"""What load is to come, where it repeats: the same time in earlier periods, at the level of today. Pure.

A forecast that has not shown that it beats the plain mean says so and gives no figure: load that does not repeat is not
to start replicas.
"""

import msgspec
import numpy as np

from rung.domain.tensors import Array

__all__ = ["BINS", "Forecast", "History", "forecast", "remember"]

BINS = 96
"""Bins of a period: a quarter of an hour of a day."""
_PERIODS = 4
"""Periods that are remembered."""
_NEEDED = 2.0
"""Periods without which nothing can be said to repeat."""
_SKILL = 0.5
"""Share of the variance of the last period that the forecast must have explained."""
_LEVEL = (0.5, 2.0)
"""How far the level of today may differ from that of earlier periods."""
_RECENT = 4
"""Bins by which the level of today is told."""


class History(msgspec.Struct, frozen=True):
    """Requests a second, by bins of a period; the newest bin is last."""

    period: float
    """Seconds."""
    rates: tuple[float, ...] = ()
    """Mean of each bin that is over, NaN for one in which nobody looked."""
    last: int = 0
    """Number of the bin under way, counted from the epoch."""
    sum: float = 0.0
    """Of the rates seen in it."""
    seen: int = 0
    """How many these are."""

    @property
    def width(self) -> float:
        """Seconds of a bin."""
        return self.period / BINS


class Forecast(msgspec.Struct, frozen=True):
    """What is to come."""

    rate: float | None
    """Largest requests a second that are expected within the lead; None where nothing can be said."""
    why: str
    """A clause with the figures."""


def remember(history: History, now: float, rate: float) -> History:
    """The history with one more look, at `now` in seconds since the epoch."""
    place = int(now // history.width)
    if history.seen and place < history.last:
        return history  # a clock was set back: its bins are there already
    if place == history.last and history.seen:
        return msgspec.structs.replace(history, sum=history.sum + rate, seen=history.seen + 1)
    rates = list(history.rates)
    if history.seen:
        rates.append(history.sum / history.seen)
        gap = min(place - history.last - 1, _PERIODS * BINS)
        rates += [float("nan")] * gap
    return msgspec.structs.replace(history, rates=tuple(rates[-_PERIODS * BINS :]), last=place, sum=rate, seen=1)


def forecast(history: History, lead: float) -> Forecast:
    """The most that is expected from now until `lead` seconds from now.

    The mean of the earlier periods at the same time, times how the last hour of a day (the last 4 bins of any period)
    compares with what they had then. It has to have explained half of the variance of the last period from those
    before, one bin ahead: otherwise there is none.
    """
    rates = np.array(history.rates)
    periods = np.isfinite(rates).sum() / BINS
    if len(rates) < _NEEDED * BINS or periods < _NEEDED * 0.9:
        return Forecast(None, f"{periods:.1f} of the {_NEEDED:.0f} periods are known that a forecast needs")
    skill = _skill(rates)
    explained = f"earlier periods explain {max(skill, 0.0):.0%} of the last"
    if skill < _SKILL:
        return Forecast(None, f"the load does not repeat: {explained}")
    steps = min(int(np.ceil(lead / history.width)), BINS - 1)
    expected = [_expected(rates, step) for step in range(steps + 1)]
    found = [value for value in expected if np.isfinite(value)]
    if not found:
        return Forecast(None, "nobody looked at this time in earlier periods")
    rate = float(max(found))
    return Forecast(rate, f"{rate:.3g} requests/s are expected within {lead:.0f} s: {explained}")


def _expected(rates: Array, step: int) -> float:
    """Rate of the bin `step` after the last one that is over, from all before; NaN where nobody looked."""
    at = len(rates) + step
    return _seasonal(rates, at) * _level(rates)


def _seasonal(rates: Array, at: int) -> float:
    """Mean of the earlier periods at the place of bin `at`."""
    places = np.arange(at - BINS, -1, -BINS)
    same = rates[places[places < len(rates)]]
    same = same[np.isfinite(same)]
    return float(same.mean()) if len(same) else float("nan")


def _level(rates: Array) -> float:
    """How the last bins compare with what earlier periods had there."""
    last = np.arange(max(len(rates) - _RECENT, BINS), len(rates))
    then = np.array([_seasonal(rates[:at], at) for at in last.tolist()])
    known = np.isfinite(then) & np.isfinite(rates[last])
    before = float(then[known].sum()) if known.any() else 0.0
    return float(np.clip(rates[last][known].sum() / before, *_LEVEL)) if before > 0 else 1.0


def _skill(rates: Array) -> float:
    """Share of the variance of the last period that those before explain; 1 for a constant load that stays so."""
    places = range(len(rates) - BINS, len(rates))
    made = np.array([_expected(rates[:at], 0) for at in places])
    real = rates[-BINS:]
    known = np.isfinite(made) & np.isfinite(real)
    if known.sum() < BINS // 2:
        return 0.0
    spread = float(np.var(real[known]))
    error = float(np.mean((real[known] - made[known]) ** 2))
    if spread <= 1e-12:
        return 1.0 if error <= 1e-12 else 0.0
    return 1.0 - error / spread

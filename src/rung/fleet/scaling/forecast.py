"""What load is to come, where it repeats: the same time in earlier periods, at the level of today. Pure.

A forecast that has not shown that it beats the plain mean says so and gives no figure: load that does not repeat is not
to start replicas.
"""

import msgspec
import numpy as np

from rung.domain.tensors import Array

__all__ = ["BINS", "Forecast", "Foresight", "History", "forecast", "remember"]

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
_NOTHING = 1e-12
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
    expected = _seasonal(rates, len(rates), len(rates) + steps + 1) * _level(rates, len(rates), len(rates) + 1)
    if not np.isfinite(expected).any():
        return Forecast(None, "nobody looked at this time in earlier periods")
    rate = float(np.nanmax(expected))
    return Forecast(rate, f"{rate:.3g} requests/s are expected within {lead:.0f} s: {explained}")


def _seasonal(rates: Array, first: int, last: int) -> Array:
    """Mean of the earlier periods at the places of bins `first` to `last`, NaN where nobody looked."""
    sums, seen = np.zeros(last - first), np.zeros(last - first)
    for back in range(BINS, last, BINS):
        places = np.arange(first, last) - back
        inside = (places >= 0) & (places < len(rates))
        value = np.where(inside, rates[np.clip(places, 0, len(rates) - 1)], np.nan)
        known = np.isfinite(value)
        sums[known] += value[known]
        seen += known
    found: Array = np.divide(sums, seen, out=np.full(last - first, np.nan), where=seen > 0)
    return found


def _level(rates: Array, first: int, last: int) -> Array:
    """How the bins just before each of `first` to `last` compare with what earlier periods had there."""
    start = first - _RECENT
    then, real = _seasonal(rates, start, last - 1), rates[start : last - 1]
    known = np.isfinite(then) & np.isfinite(real)
    window = np.ones(_RECENT)
    before = np.convolve(np.where(known, then, 0.0), window, "valid")
    lately = np.convolve(np.where(known, real, 0.0), window, "valid")
    level = np.divide(lately, before, out=np.ones(last - first), where=before > 0)
    found: Array = np.clip(level, *_LEVEL)
    return found


def _skill(rates: Array) -> float:
    """Share of the variance of the last period that those before explain; 1 for a constant load that stays so."""
    first, last = len(rates) - BINS, len(rates)
    made, real = _seasonal(rates, first, last) * _level(rates, first, last), rates[first:]
    known = np.isfinite(made) & np.isfinite(real)
    if known.sum() < BINS // 2:
        return 0.0
    spread = float(np.var(real[known]))
    error = float(np.mean((real[known] - made[known]) ** 2))
    if spread <= _NOTHING:
        return 1.0 if error <= _NOTHING else 0.0
    return 1.0 - error / spread


class Foresight:
    """The forecast of one load, made anew when a bin is over."""

    def __init__(self, history: History, lead: float) -> None:
        self.history = history
        self._lead = lead
        self._made: Forecast | None = None

    def see(self, now: float, rate: float) -> Forecast:
        """Take in the rate of now, and say what is to come."""
        last = self.history.last
        self.history = remember(self.history, now, rate)
        if self._made is None or self.history.last != last:
            self._made = forecast(self.history, self._lead)
        return self._made

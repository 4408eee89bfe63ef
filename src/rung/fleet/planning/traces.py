"""Arrivals that were recorded somewhere: counts per interval, or one line a request. Read, scaled, and drawn anew.

    timestamp,value              a count for each interval; also `count`, `requests`, `invocations`
    2014-04-10 00:04:00,94

    TIMESTAMP,ContextTokens      a request a line, whatever else stands there
    2023-11-16 18:15:46.680,374

Times are ISO 8601 or seconds since the epoch. `.gz` is read as it is.
"""

import csv
import gzip
import io
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from rung.domain.errors import InvalidData
from rung.domain.tensors import Array

__all__ = ["Trace", "arrivals", "read_trace"]

_TIMES = ("timestamp", "time", "period", "date", "datetime", "at")
_COUNTS = ("value", "count", "requests", "invocations")
_FEWEST = 2
_LARGEST = 1 << 30
"""Bytes of a file that are read at most."""


class Trace(msgspec.Struct, frozen=True):
    """Requests per interval."""

    name: str
    start: float
    """Of the first interval, in seconds since the epoch."""
    width: float
    """Seconds of an interval."""
    counts: Array
    """Requests in each, float64 [N]."""
    filled: int = 0
    """Intervals that were missing and were taken to be between their neighbours."""

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.width * len(self.counts)

    @property
    def rates(self) -> Array:
        """Requests a second of each interval, float64 [N]."""
        return self.counts / self.width

    @property
    def total(self) -> float:
        """Requests in all."""
        return float(self.counts.sum())

    def scaled(self, times: float) -> "Trace":
        """So many times as many requests."""
        return msgspec.structs.replace(self, counts=self.counts * times)

    def sped(self, times: float) -> "Trace":
        """The same requests a second in a fraction of the time: a day in minutes keeps its shape and its height."""
        return msgspec.structs.replace(self, width=self.width / times, counts=self.counts / times)

    def cut(self, start: float, seconds: float) -> "Trace":
        """The intervals from `start` seconds after the beginning on, for `seconds`.

        Raises:
            InvalidData: there are none.
        """
        first, last = int(start / self.width), int(np.ceil((start + seconds) / self.width))
        counts = self.counts[first:last]
        if not len(counts):
            raise InvalidData(
                f"{self.name} lasts {self.seconds:.0f} s: nothing is in it {start:.0f} s after its beginning"
            )
        return msgspec.structs.replace(self, start=self.start + first * self.width, counts=counts)


def read_trace(path: Path, width: float = 1.0) -> Trace:
    """Read a file.

    Args:
        path: CSV with a line of names, also compressed.
        width: Seconds of an interval, where each line is a request.

    Raises:
        InvalidData: it cannot be read, or holds no arrivals; the message names the line.
    """
    lines = csv.reader(io.StringIO(_text(path)))
    names = [name.strip().lower() for name in next(lines, [])]
    place = next((at for at, name in enumerate(names) if name in _TIMES), None)
    if place is None:
        raise InvalidData(f"{path.name} has no column of times: its first line must name one of {', '.join(_TIMES)}")
    counted = next((at for at, name in enumerate(names) if name in _COUNTS), None)
    times, counts = _columns(path.name, lines, place, counted)
    if len(times) < _FEWEST:
        raise InvalidData(f"{path.name} holds {len(times)} line{'s' if len(times) != 1 else ''}: too few for a trace")
    order = np.argsort(times, kind="stable")
    if counted is None:
        first = float(np.floor(times[order[0]]))
        binned = np.bincount(((times - first) // width).astype(np.int64)).astype(np.float64)
        return Trace(path.name, first, width, binned)
    return _even(path.name, times[order], counts[order])


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise InvalidData(f"{path} is larger than {_LARGEST >> 20} MiB")
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, EOFError) as error:
        raise InvalidData(
            f"{path} cannot be read: {error.strerror if isinstance(error, OSError) and error.strerror else error}"
        ) from None
    except UnicodeDecodeError as error:
        raise InvalidData(f"{path} is no text: {error.reason} at byte {error.start}") from None


def _columns(name: str, lines: Iterable[list[str]], place: int, counted: int | None) -> tuple[Array, Array]:
    times: list[float] = []
    counts: list[float] = []
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        try:
            times.append(_moment(line[place]))
            if counted is not None:
                counts.append(_count(line[counted]))
        except (ValueError, IndexError) as error:
            raise InvalidData(f"{name}, line {number}: {error}") from None
    return np.array(times), np.array(counts)


def _count(text: str) -> float:
    count = float(text)
    if not 0 <= count < float("inf"):
        raise ValueError(f"{text!r} is no count")
    return count


def _moment(text: str) -> float:
    text = text.strip()
    try:
        return float(text)
    except ValueError:
        # Fractions of more than six digits are those of other systems' clocks.
        head, dot, fraction = text.partition(".")
        moment = datetime.fromisoformat(f"{head}{dot}{fraction[:6]}" if fraction.isdigit() else text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _even(name: str, times: Array, counts: Array) -> Trace:
    """Equal intervals: their width is the middle distance, and what is missing lies between its neighbours."""
    apart = np.diff(times)
    apart = apart[apart > 0]
    if not len(apart):
        raise InvalidData(f"{name}: all its lines have the same time")
    width = float(np.quantile(apart, 0.5, method="lower"))
    places = np.round((times - times[0]) / width).astype(np.int64)
    if places[-1] > 100 * len(times):
        raise InvalidData(f"{name}: its times are too far apart for intervals of {width:g} s")
    sums = np.bincount(places, counts)
    known = np.bincount(places) > 0
    at = np.arange(len(sums))
    filled = np.interp(at, at[known], sums[known])
    return Trace(name, float(times[0]), width, filled, int((~known).sum()))


def arrivals(trace: Trace, rng: np.random.Generator) -> Array:
    """Times of single requests in seconds since the start, drawn by Poisson within each interval, float64 [N] in order.

    Rates go from one interval's middle to the next one's in a straight line, so that no interval begins with a step.
    """
    middles = (np.arange(len(trace.counts)) + 0.5) * trace.width
    fine = max(int(np.ceil(trace.seconds / max(trace.width / 16, 1e-3))), 1)
    edges = np.linspace(0.0, trace.seconds, min(fine, 2_000_000) + 1)
    rates = np.interp((edges[:-1] + edges[1:]) / 2, middles, trace.rates)
    counts = rng.poisson(rates * np.diff(edges))
    starts = np.repeat(edges[:-1], counts)
    return np.sort(starts + rng.random(len(starts)) * (edges[1] - edges[0]))

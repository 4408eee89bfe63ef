"""Samples in the text that `/metrics` answers with, and what counters gained over a time."""

import re
from collections import deque
from collections.abc import Iterator, Mapping
from math import exp, inf, log

import msgspec

__all__ = ["Gains", "Sample", "least_share", "read"]

_LINE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"')
_PLAIN = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

_FORGOTTEN = 3600.0
"""Seconds after which a source that is not seen any more is a new one when it comes back."""


class Sample(msgspec.Struct, frozen=True):
    """One line."""

    name: str
    labels: dict[str, str]
    value: float


def read(page: str) -> Iterator[Sample]:
    """The samples of a page in the Prometheus format. Lines that are none are passed over."""
    for name, labels, value in _LINE.findall(page):
        try:
            number = float(value)
        except ValueError:
            continue
        found = {
            key: re.sub(r"\\.", lambda one: _PLAIN.get(one[0], one[0]), text) for key, text in _LABEL.findall(labels)
        }
        yield Sample(name, found, number)


class Gains:
    """What counters gained within a time, as seen by looks at them. One that begins anew gained what it shows."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._last: dict[tuple[str, ...], tuple[float, float]] = {}
        """Counter -> when it was seen, and its value."""
        self._gained: deque[tuple[float, dict[tuple[str, ...], float]]] = deque()

    def look(self, now: float, counters: Mapping[tuple[str, ...], float]) -> dict[tuple[str, ...], float] | None:
        """What each counter gained in the last so many seconds; None at the first look.

        Counters are named by their source first. A further counter of a known source gained all that it shows; one of
        a new source gained nothing yet, since nobody knows when.
        """
        first = not self._gained
        sources = {key[0] for key in self._last}
        gained = {}
        for key, value in counters.items():
            _, before = self._last.get(key, (now, 0.0 if key[0] in sources else value))
            gained[key] = value - before if value >= before else value
        self._last |= {key: (now, value) for key, value in counters.items()}
        self._last = {key: one for key, one in self._last.items() if now - one[0] < _FORGOTTEN}
        self._gained.append((now, gained))
        while not now - self._seconds < self._gained[0][0] <= now:
            self._gained.popleft()
        total = dict.fromkeys(counters, 0.0)
        for _, one in self._gained:
            for key, value in one.items():
                total[key] = total.get(key, 0.0) + value
        return None if first else total


def least_share(events: float, of: float, alpha: float) -> float:
    """The least that a share can be of which `events` in `of` were seen: a lower confidence bound.

    By Chernoff's bound for the binomial, P(X >= k) <= exp(-n KL(k/n, p)): a share of p shows more than the p that is
    returned with a probability of at most `alpha`, for any number of requests. 0 where nothing was seen.
    """
    if of <= 0 or events <= 0:
        return 0.0
    seen = min(events / of, 1.0)
    need = -log(alpha) / of
    if seen == 1.0:
        return exp(-need)
    low, high = 0.0, seen
    for _ in range(60):
        middle = (low + high) / 2
        far = inf if middle <= 0 else seen * log(seen / middle) + (1 - seen) * log((1 - seen) / (1 - middle))
        low, high = (middle, high) if far > need else (low, middle)
    return low

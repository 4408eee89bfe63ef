"""What one arm did, unit by unit, in bounded memory.

A unit of assignment (a user) is the unit of analysis: requests of one user are alike, so ten of them are not ten
facts. Every unit takes one row of fixed columns. Beyond `cap` units the arm keeps those whose hash lies below a
threshold that is halved: a random half, then a quarter, the same ones whenever the log is read again.
"""

from array import array
from collections import Counter
from hashlib import blake2b
from typing import Any

import numpy as np

from rung.stats.quantiles import Histogram

__all__ = ["FLAGS", "Answers", "Tally", "flag", "key_of"]

_WHOLE = 2**64
_NO_PICK = _WHOLE - 1

FLAGS = ("answered", "errors", "not finite", "constant", "crash", "refused", "corrected")
"""What can have happened to a unit at least once, by bit. `answered` or `errors`: it reached the model."""
_REACHED = 0b11


def flag(name: str) -> int:
    """The bit of one of `FLAGS`."""
    return 1 << FLAGS.index(name)


def key_of(text: str) -> int:
    """64 bits of a unit (or an id), independent of a unit's bucket: a sample by key is random in every arm."""
    hashed = blake2b(text.encode(errors="surrogateescape"), digest_size=8, person=b"rung-evidence")
    return int.from_bytes(hashed.digest(), "big")


class Answers:
    """Whether an arm answers the same to everything: how many distinct inputs in a row had one output."""

    _MOST = 4096

    def __init__(self) -> None:
        self.inputs = 0
        """Distinct inputs among the first 4,096 seen."""
        self.commonest = 0
        """How many of those had the most frequent output."""
        self._last = b""
        self._in_run: set[bytes] = set()
        self._seen: set[bytes] = set()
        self._counts: Counter[bytes] = Counter()

    @property
    def run(self) -> int:
        """Distinct inputs since the output last changed, at most 4,096."""
        return len(self._in_run)

    def add(self, given: bytes, answer: bytes) -> None:
        """Take in the digests of an input and of its output."""
        if answer != self._last:
            self._last, self._in_run = answer, set()
        if len(self._in_run) < self._MOST:
            self._in_run.add(given)
        if self.inputs < self._MOST and given not in self._seen:
            self._seen.add(given)
            self.inputs += 1
            self._counts[answer] += 1
            self.commonest = max(self.commonest, self._counts[answer])


class Tally:
    """Units of one arm, one row each, and the sums over them that the guards ask for.

    The sums are over the units that are kept; `rate` says which share of all units those are.
    """

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.requests = 0
        """Of all units, kept or not: exact."""
        self.answers = Answers()
        self.flagged = [0] * len(FLAGS)
        """Units by flag."""
        self.began: dict[int, int] = {}
        """Stage -> units that reached the model first in it."""
        self._below = _WHOLE
        self._bins: dict[int, int] = {}
        self._slots: dict[int, int] = {}
        self._keys = array("Q")
        self._requests = array("L")
        self._flags = array("B")
        self._picks = array("Q")
        self._bin = array("H")
        self._stage = array("b")

    @property
    def units(self) -> int:
        """Units that are kept."""
        return len(self._slots)

    @property
    def rate(self) -> float:
        """Share of the units that are kept: 1 until there are more than `cap`."""
        return self._below / _WHOLE

    @property
    def below(self) -> int:
        """Keys of units that are kept lie below it."""
        return self._below

    @property
    def latency(self) -> Histogram:
        """One duration per unit: that of one of its requests, drawn by hash."""
        return Histogram({place: count for place, count in self._bins.items() if count})

    @property
    def heaviest(self) -> float:
        """The largest share of the requests of kept units that one unit made; 0 of none."""
        counts = np.frombuffer(self._requests, self._requests.typecode)
        return float(counts.max() / counts.sum()) if len(counts) else 0.0

    def add(self, key: int, request: int, stage: int, seconds: float, flags: int) -> bool:
        """Take in one request of a unit; whether the unit is kept.

        Args:
            key: Of the unit, by `key_of`.
            request: Key of the request; the lowest of a unit stands for its latency.
            stage: Of the ladder, at which it was answered.
            seconds: It took; negative where there was no answer.
            flags: Bits of `FLAGS`.
        """
        self.requests += 1
        if key >= self._below:
            return False
        slot = self._slots.get(key)
        if slot is None:
            slot = self._new(key)
            if slot < 0:
                return False
        self._requests[slot] += 1
        self._mark(slot, flags)
        if seconds >= 0 and request < self._picks[slot]:
            self._draw(slot, request, seconds)
        if flags & _REACHED and self._stage[slot] < 0:
            self._stage[slot] = stage
            self.began[stage] = self.began.get(stage, 0) + 1
        return True

    def mark(self, key: int, flags: int) -> None:
        """Set flags of a unit, if it is kept."""
        slot = self._slots.get(key)
        if slot is not None:
            self._mark(slot, flags)

    def _mark(self, slot: int, flags: int) -> None:
        fresh = flags & ~self._flags[slot]
        if fresh:
            self._flags[slot] |= fresh
            for bit in range(len(FLAGS)):
                self.flagged[bit] += fresh >> bit & 1

    def _draw(self, slot: int, request: int, seconds: float) -> None:
        if self._picks[slot] != _NO_PICK:
            self._bins[self._bin[slot]] -= 1
        place = Histogram.place(seconds)
        self._picks[slot], self._bin[slot] = min(request, _NO_PICK - 1), place
        self._bins[place] = self._bins.get(place, 0) + 1

    def _new(self, key: int) -> int:
        if len(self._slots) >= self.cap:
            self.thin(self._below // 2)
            if key >= self._below:
                return -1
        self._slots[key] = slot = len(self._keys)
        self._keys.append(key)
        self._requests.append(0)
        self._flags.append(0)
        self._picks.append(_NO_PICK)
        self._bin.append(0)
        self._stage.append(-1)
        return slot

    def thin(self, below: int) -> None:
        """Keep only units with keys below this, and count anew."""
        self._below = below
        kept = np.flatnonzero(np.frombuffer(self._keys, np.uint64) < np.uint64(self._below))
        for name in ("_keys", "_requests", "_flags", "_picks", "_bin", "_stage"):
            column: array[Any] = getattr(self, name)
            setattr(self, name, array(column.typecode, np.frombuffer(column, column.typecode)[kept].tobytes()))
        self._slots = {key: slot for slot, key in enumerate(self._keys)}
        flags = np.frombuffer(self._flags, np.uint8)
        self.flagged = [int(np.count_nonzero(flags & (1 << bit))) for bit in range(len(FLAGS))]
        picks = zip(self._bin, self._picks, strict=True)
        self._bins = dict(Counter(place for place, pick in picks if pick != _NO_PICK))
        self.began = dict(Counter(stage for stage in self._stage if stage >= 0))

"""Feedback on one arm's predictions, per unit, and when it may be counted.

"No label yet" is never "wrong". Labels that come early are not a fair sample of all (a complaint comes sooner than
praise), so a prediction counts only once 90 % of the labels of its age have come: once it is mature.
"""

import sys
from array import array
from typing import Any

import msgspec
import numpy as np

from rung.stats.sequential import Moments

__all__ = ["Labels", "Mature"]

_WHOLE = 2**64


class Mature(msgspec.Struct, frozen=True):
    """What is known of the predictions that are old enough."""

    quality: Moments = Moments()
    """Over units: the mean over each unit's labelled predictions."""
    predictions: int = 0
    labelled: int = 0

    @property
    def coverage(self) -> float | None:
        """Share of the mature predictions that have a label; None of none."""
        return self.labelled / self.predictions if self.predictions else None


class Labels:
    """Predictions of one arm and what was said of them: at most `cap`, beyond that a random half, a quarter, ..."""

    def __init__(self, cap: int) -> None:
        self.cap = cap
        self.units: set[int] = set()
        """Units with at least one label, mature or not."""
        self._below = _WHOLE
        self._slots: dict[int, int] = {}
        self._ids = array("Q")
        self._keys = array("Q")
        self._times = array("d")
        self._values = array("d")
        self._known = array("d")
        self._classes: dict[int, str] = {}
        """Prediction -> the class that it named."""

    def predicted(self, request: int, key: int, time: float, named: str = "") -> None:
        """A prediction of a unit, by the keys of both, and the class that it named."""
        if request >= self._below or request in self._slots:
            return
        if len(self._slots) >= self.cap:
            self._thin()
            if request >= self._below:
                return
        self._slots[request] = len(self._ids)
        self._ids.append(request)
        self._keys.append(key)
        self._times.append(time)
        self._values.append(np.nan)
        self._known.append(-np.inf)
        if named:
            # Few names, told apart by identity: one object each.
            self._classes[request] = sys.intern(named)

    def named(self, request: int) -> str:
        """The class that a prediction named; empty where it named none, or is not kept."""
        return self._classes.get(request, "")

    def unit(self, request: int) -> int | None:
        """Key of the unit that a prediction was for, if the prediction is kept."""
        slot = self._slots.get(request)
        return None if slot is None else self._keys[slot]

    def label(self, request: int, value: float, time: float) -> None:
        """What is known of a prediction since `time`; what was found out later stands."""
        slot = self._slots[request]
        if time >= self._known[slot]:
            self._values[slot], self._known[slot] = value, time
            self.units.add(self._keys[slot])

    def mature(self, before: float) -> Mature:
        """Of the predictions made up to a time."""
        old = np.frombuffer(self._times, np.float64) <= before
        values = np.frombuffer(self._values, np.float64)
        labelled = old & np.isfinite(values)
        if not labelled.any():
            return Mature(Moments(), int(np.count_nonzero(old)), 0)
        _, units = np.unique(np.frombuffer(self._keys, np.uint64)[labelled], return_inverse=True)
        means = np.bincount(units, values[labelled]) / np.bincount(units)
        return Mature(Moments.of(means), int(np.count_nonzero(old)), int(np.count_nonzero(labelled)))

    def _thin(self) -> None:
        self._below //= 2
        kept = np.flatnonzero(np.frombuffer(self._ids, np.uint64) < np.uint64(self._below))
        for name in ("_ids", "_keys", "_times", "_values", "_known"):
            column: array[Any] = getattr(self, name)
            setattr(self, name, array(column.typecode, np.frombuffer(column, column.typecode)[kept].tobytes()))
        self._slots = {request: slot for slot, request in enumerate(self._ids)}
        self._classes = {request: named for request, named in self._classes.items() if request in self._slots}

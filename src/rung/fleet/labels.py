"""Feedback on one arm's predictions, per unit, and when it may be counted.

"No label yet" is never "wrong". Labels that come early are not a fair sample of all (a complaint comes sooner than
praise), so a prediction counts only once 90 % of the labels of its age have come: once it is mature.
"""

import sys
from array import array
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from rung.domain.records import FeedbackRecord
from rung.stats.sequential import Moments

__all__ = ["Delays", "Labels", "Mature", "quality_of"]

_WHOLE = 2**64
COMPLETE = 0.9
"""Share of the labels that have come by the age of maturity."""


def quality_of(feedback: FeedbackRecord, predicted: str = "") -> float | None:
    """How good a prediction was by this feedback, higher is better; None where it does not say.

    A score is a number or true/false. A label names the class that would have been right, which is compared with the
    one `predicted`, or says so by `{"correct": true}` or `{"score": 0.8}`, or is itself true/false. A correction says
    that the answer was wrong, but nobody corrects what was right: it counts on its own.
    """
    value: Any = feedback.value
    if feedback.kind == "label" and predicted and isinstance(value, str | int) and not isinstance(value, bool):
        return float(str(value) == predicted)
    if feedback.kind in ("label", "mask") and isinstance(value, dict):
        value = value.get("correct", value.get("score"))
    elif feedback.kind != "score" and not isinstance(value, bool):
        return None
    if feedback.kind == "correction" or not isinstance(value, bool | int | float):
        return None
    number = float(value)
    return number if np.isfinite(number) else None


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


class Delays:
    """How long labels take, learned from those that came: the curve F(age) and the age of maturity.

    A label is seen only if its delay is shorter than the age of its prediction, so what was seen so far is too
    fast. The product-limit estimate for such right truncation (Lynden-Bell, 1971; Kalbfleisch and Lawless, 1989)

        F(t) = product over delays d > t of (1 - labels with delay d / labels with delay <= d of predictions aged >= d)

    corrects that up to the oldest age, beyond which nothing is known.
    """

    _MOST = 2000

    def __init__(self) -> None:
        self._delays: dict[int, tuple[float, float]] = {}
        self._below = _WHOLE
        self._first = np.inf

    def add(self, request: int, predicted: float, known: float) -> None:
        """A label known at `known` of a prediction made at `predicted`; the first one of a prediction counts."""
        self._first = min(self._first, predicted)
        if request < self._below:
            self._delays.setdefault(request, (predicted, max(known - predicted, 0.0)))
            if len(self._delays) > self._MOST:
                self._below //= 2
                self._delays = {key: one for key, one in self._delays.items() if key < self._below}

    def maturity(self, now: float) -> float | None:
        """Age in seconds by which 90 % of the labels have come; None while that is not known.

        It is not while there are fewer than 20 labels, or while that age is over half of the time that labels
        have been watched for: slower ones may be still to come.
        """
        if len(self._delays) < 20:
            return None
        curve = self.curve(now)
        age = next(delay for delay, share in curve if share >= COMPLETE)
        return age if age <= (now - self._first) / 2 else None

    def curve(self, now: float) -> Sequence[tuple[float, float]]:
        """Delay in seconds -> share of the labels that come within it, rising to 1 at the longest seen."""
        pairs = [(delay, now - predicted) for predicted, delay in self._delays.values()]
        delays = np.array([delay for delay, _ in pairs])
        ages = np.array([max(age, delay) for delay, age in pairs])
        distinct, here = np.unique(delays, return_counts=True)
        within = np.cumsum(here)
        # Labels with delay <= d whose predictions are younger than d could not have shown a delay of d.
        young = np.array([np.count_nonzero((delays <= d) & (ages < d)) for d in distinct])
        left = 1 - here / np.maximum(within - young, here)
        shares = np.append(np.cumprod(left[:0:-1])[::-1], 1.0)
        return list(zip(distinct.tolist(), shares.tolist(), strict=True))

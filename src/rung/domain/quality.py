"""How good predictions were, by what turned out to be right: values of a report on live quality.

Truth and estimate are kept apart: a figure of the one is never a figure of the other.
"""

import math
from typing import Any

import msgspec

from rung.domain.records import Kind
from rung.domain.rules import Verdict
from rung.domain.scorecards import Figure

__all__ = [
    "ASSUMPTION",
    "ArmCoverage",
    "Check",
    "Cohort",
    "Delay",
    "Estimate",
    "QualityReport",
    "Watch",
    "quality_of",
]

ASSUMPTION = (
    "An estimate from the model's own probabilities. It assumes that they are calibrated and that what follows from an "
    "input has not changed: where the world has, it is wrong and cannot know it."
)


class Cohort(msgspec.Struct, frozen=True):
    """Predictions of one version in one stretch of time."""

    version: int
    start: float
    """Seconds since the epoch."""
    end: float
    predictions: int
    """That were answered."""
    labelled: int
    """Of them, those whose quality is known."""
    coverage: float
    """`labelled` by `predictions`."""
    mature: bool
    """Whether so many of the labels have come that what they say is no choice of the quick ones."""
    quality: Figure | None = None
    """Mean over units of each unit's mean; None while not mature, or of fewer than two units."""
    error: Figure | None = None
    """The same of the distance of a predicted number from the true one, in the label's measure."""


class Delay(msgspec.Struct, frozen=True):
    """How long labels take."""

    labels: int
    predictions: int
    curve: tuple[tuple[float, float], ...] = ()
    """Seconds -> share of the labels that come at all which come within them."""
    arrived: tuple[tuple[float, float], ...] = ()
    """Seconds -> share of all predictions that have a label by that age."""
    why: str = ""
    """Where the age of maturity is from, or why it is not known."""


class ArmCoverage(msgspec.Struct, frozen=True):
    """How many mature predictions of an arm have labels."""

    arm: str
    version: int
    predictions: int
    labelled: int
    units: int
    labelled_units: int
    coverage: float
    """`labelled` by `predictions`."""


class Estimate(msgspec.Struct, frozen=True):
    """What a version's accuracy would be in a stretch of time if its probabilities were right. No truth is here."""

    version: int
    start: float
    end: float
    predictions: int
    """Whose probabilities are in the log."""
    accuracy: Figure
    """Its interval is that of the mean confidence alone: that the assumption is wrong is not in it."""
    f1: float | None = None
    """Mean over the classes; None where the log has no probability of every class."""
    auc: float | None = None
    """Of two classes; None of more."""


class Check(msgspec.Struct, frozen=True):
    """What the estimate was worth on mature predictions of a version: estimated accuracy less the true one."""

    version: int
    estimated: float
    true: float
    difference: Figure


class Watch(msgspec.Struct, frozen=True):
    """What the detector says of the version that answers."""

    version: int
    level: float = 0.0
    """Evidence that its loss has risen; an alarm is raised above `run_length`."""
    highest: float = 0.0
    alarm: bool = False
    at: float | None = None
    """End of the cohort in which the alarm was raised, in seconds since the epoch."""
    began: float | None = None
    """Start of the cohort in which the rise began, about."""
    baseline: float | None = None
    """Mean loss that it is held against, from 0 to 1; None while it is not known."""
    limit: float | None = None
    """The baseline's upper confidence bound and the margin: a mean up to here raises no alarm."""
    run_length: float = 50_000.0
    """Losses, one for each unit and cohort, between two false alarms on average and at least."""
    losses: int = 0
    """That were taken in so far."""
    recent: float | None = None
    """Mean of those of the last cohort."""
    why: str = ""
    """A sentence for a person."""
    state: dict[str, Any] = {}
    """What the next measurement goes on from."""


class QualityReport(msgspec.Struct, frozen=True):
    """Live quality of a model at a time."""

    model: str
    at: float
    """Seconds since the epoch."""
    since: float
    """Predictions made earlier are left out."""
    cohort_seconds: float
    delay: Delay
    maturity_seconds: float | None
    """Age at which a prediction counts; None while it is not known."""
    cohorts: tuple[Cohort, ...]
    """By version and time; those that are not mature have no figure."""
    versions: tuple[Cohort, ...]
    """All mature cohorts of each version together."""
    coverage: tuple[ArmCoverage, ...]
    imbalance: Verdict
    """`fail`: labels come back for one arm and not for another, so that arms cannot be compared by them."""
    estimates: tuple[Estimate, ...]
    checks: tuple[Check, ...]
    detector: Watch | None
    """None where there is no version to watch."""
    notes: tuple[str, ...] = ()
    """What is missing for a fuller report, and what to do about it."""

    @property
    def fell(self) -> bool | None:
        """Whether quality is below what it was; None where the detector has nothing to go by."""
        return self.detector.alarm if self.detector is not None and self.detector.limit is not None else None

    @property
    def uneven(self) -> bool | None:
        """Whether labels come back for one arm and not for another; None where that cannot be told."""
        return {"fail": True, "pass": False}.get(self.imbalance.outcome)


def quality_of(kind: Kind, value: Any, predicted: str = "") -> float | None:
    """How good a prediction was by its feedback, higher is better; None where it does not say.

    A score is a number or true/false. A label names the class that would have been right, which is compared with the
    one `predicted`, or says so by `{"correct": true}` or `{"score": 0.8}`, or is itself true/false. A correction says
    that the answer was wrong, but nobody corrects what was right: it counts on its own.
    """
    if kind == "label" and predicted and isinstance(value, str | int) and not isinstance(value, bool):
        return float(str(value) == predicted)
    if kind in ("label", "mask") and isinstance(value, dict):
        value = value.get("correct", value.get("score"))
    elif kind != "score" and not isinstance(value, bool):
        return None
    if kind == "correction" or not isinstance(value, bool | int | float):
        return None
    number = float(value)
    return number if math.isfinite(number) else None

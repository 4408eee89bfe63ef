"""Whether what a model is asked has moved, and what kind of trouble that is: values of a report, and triage."""

from typing import Literal

import msgspec

__all__ = ["ColumnDrift", "DriftReport", "Known", "Outlook", "Triage", "Window", "triage"]

Outlook = Literal["drifted", "quiet", "underpowered"]
"""`underpowered`: the window is too small to show an effect that matters, so nothing is said."""

TriageKind = Literal["covariate drift", "concept drift", "label problem", "data bug", "none", "cannot tell"]


class ColumnDrift(msgspec.Struct, frozen=True):
    """One column, or all columns together, in one window."""

    column: str
    kind: Literal["number", "category", "nulls", "joint"]
    test: str
    p: float
    """Of no change, uncorrected."""
    effect: float
    low: float
    """Lower confidence bound of the effect."""
    margin: float
    """Effect that does not matter, in the same measure."""
    measure: Literal["standard deviations", "total variation", "area under the curve"]
    verdict: Outlook
    detectable: float | None = None
    """Smallest effect that the window shows with a probability of about 0.8; None where it shows none."""
    psi: float | None = None
    """Population stability index less its mean under no change."""
    rows: float = 0.0
    """Independent rows that the window is worth."""

    @property
    def strength(self) -> float:
        """The lower bound in margins: above 1 the effect matters. Columns of all kinds are ranked by it."""
        return self._in_margins(self.low)

    @property
    def size(self) -> float:
        """The effect in margins, as it was measured."""
        return self._in_margins(self.effect)

    def _in_margins(self, effect: float) -> float:
        zero = 0.5 if self.kind == "joint" else 0.0
        return (effect - zero) / (self.margin - zero) if self.margin > zero else 0.0


class Window(msgspec.Struct, frozen=True):
    """What was asked, or answered, in one stretch of time, against the reference."""

    start: float
    """When the first row of it was asked, in seconds since the epoch."""
    end: float
    rows: int
    columns: tuple[ColumnDrift, ...]


class Known(msgspec.Struct, frozen=True):
    """What triage goes by; None where it is not known."""

    faults: tuple[str, ...] | None = None
    """Red findings of the checks of data, each a sentence."""
    inputs_moved: bool | None = None
    """Confirmed over several windows; False only where the windows could have shown it."""
    quality_fell: bool | None = None
    """By mature labels."""
    labels_moved: bool | None = None
    """Whether the share of predictions that get a label, or what the labels say, has changed."""
    columns: tuple[str, ...] = ()
    """That moved, the worst first."""


class Triage(msgspec.Struct, frozen=True):
    """What kind of trouble it is, and why."""

    kind: TriageKind
    why: str
    """Sentences for a person."""


class DriftReport(msgspec.Struct, frozen=True):
    """Drift of a model's inputs and answers at a time. Plain JSON by `msgspec.to_builtins`."""

    model: str
    version: int
    """That answers, and whose training data is the reference."""
    at: float
    """Seconds since the epoch."""
    reference: str
    """What the windows are compared with, for a person."""
    reference_rows: int
    inputs: tuple[Window, ...]
    """Oldest first."""
    answers: tuple[Window, ...]
    labels: ColumnDrift | None
    """What the labels say, against the labels of training."""
    alpha: float
    need: int
    of: int
    """Confirmed is what drifted in `need` of the last `of` windows."""
    run_length: float
    """Windows between two false confirmations on average, at least, where nothing changes."""
    persistent: tuple[str, ...]
    """Columns of the inputs that drifted in that many windows, the worst first."""
    persistent_answers: tuple[str, ...]
    confirmed: bool
    """Whether inputs have drifted, in enough windows."""
    outlook: Outlook | None
    """Of the inputs as a whole; None where there is no window."""
    worst: str
    """Column that moved most in the last window; empty where there is none."""
    triage: Triage
    notes: tuple[str, ...] = ()
    """What is missing for a fuller report, and what to do about it."""


def triage(known: Known) -> Triage:
    """Name the trouble, or say what is missing to name it."""
    if known.faults:
        return Triage("data bug", "The data itself is wrong: " + "; ".join(known.faults) + ".")
    checked = "no fault of the data was found" if known.faults is not None else "the data could not be checked"
    if known.inputs_moved:
        moved = f"Inputs have moved ({', '.join(known.columns[:5]) or 'together'}), and {checked}"
        return Triage("covariate drift", f"{moved}; {_quality(known.quality_fell)}.")
    if known.inputs_moved is None:
        fell = "Quality has fallen" if known.quality_fell else _quality(known.quality_fell).capitalize()
        return Triage("cannot tell", f"{fell}, and whether inputs have moved is not known.")
    if known.labels_moved:
        return Triage(
            "label problem",
            f"Labels have moved and inputs have not; {_quality(known.quality_fell)}, which such labels cannot show.",
        )
    if known.quality_fell:
        if known.labels_moved is None:
            return Triage(
                "cannot tell",
                "Quality has fallen and inputs have not moved: concept drift, or a problem of the labels, of whose "
                "coverage and distribution too little is known.",
            )
        return Triage(
            "concept drift",
            f"Quality by mature labels has fallen, inputs and labels have not moved, and {checked}: what follows from "
            "an input has changed.",
        )
    if known.quality_fell is None:
        return Triage("cannot tell", "Inputs have not moved; quality is not known, so concept drift cannot be seen.")
    return Triage("none", "Inputs have not moved and quality has not fallen.")


def _quality(fell: bool | None) -> str:
    if fell is None:
        return "quality is not known"
    return "quality has fallen" if fell else "quality has not fallen"

"""What evaluating a version finds out. No figure without its count and its interval."""

from typing import Literal

import msgspec

from rung.domain.metrics import Direction
from rung.domain.rules import Verdict

__all__ = [
    "Bin",
    "Calibration",
    "Comparison",
    "Confusion",
    "Difference",
    "Figure",
    "Latency",
    "Picture",
    "Scorecard",
    "SliceScore",
    "Standing",
]

Standing = Literal["better", "worse", "inconclusive"]
"""`inconclusive` is its own answer: it never means `no worse`."""


class Figure(msgspec.Struct, frozen=True):
    """An estimate with its interval and its counts."""

    name: str
    value: float
    low: float
    """Lower end of the interval."""
    high: float
    rows: int
    """What it was counted on."""
    groups: int
    """What varies independently: groups where rows of one stay together, else rows."""
    method: str
    """How the interval was made."""
    level: float = 0.95
    """Probability that such an interval holds the true value."""
    unit: str = ""
    of: str = ""
    """The class it is about; empty: all of them."""


class SliceScore(msgspec.Struct, frozen=True):
    """The headline metric on the rows of which a column has one value."""

    column: str
    value: str
    rows: int
    groups: int
    figure: Figure | None = None
    """None where there are too few rows to say."""
    difference: Figure | None = None
    """Of the slice less all other rows."""
    p: float | None = None
    """Of the test that the slice is no worse than the rest; before correction."""
    worse: bool = False
    """Whether it is worse than the rest, over all slices together with a false-alarm rate of 5 % (Holm, 1979)."""
    note: str = ""

    @property
    def name(self) -> str:
        """Column and value: `district = north`, `area > 100`."""
        between = " " if self.value.startswith(("<= ", "> ")) else " = "
        return f"{self.column}{between}{self.value}"


class Bin(msgspec.Struct, frozen=True):
    """Rows that the model was about equally sure of."""

    confidence: float
    """Mean probability that it gave."""
    right: float
    """Share of them that it was right about."""
    low: float
    """Ends of the interval of `right`."""
    high: float
    rows: int


class Calibration(msgspec.Struct, frozen=True):
    """Whether a probability of 0.8 means right in 8 of 10."""

    error: Figure
    bins: tuple[Bin, ...]
    about: str
    """Whose probability: that of the likeliest class, or of the one class of two."""


class Confusion(msgspec.Struct, frozen=True):
    """How often each class was taken for each."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    """Rows: the truth; columns: what the model said."""


class Picture(msgspec.Struct, frozen=True):
    """One picture of the holdout and its scores."""

    row: int
    """Place in the holdout, from 0."""
    name: str
    iou: float
    dice: float
    file: str = ""
    """Picture, truth and answer side by side, in the folder of the scorecard."""


class Latency(msgspec.Struct, frozen=True):
    """How long answers took in this process on this machine: transforms and model, without a door."""

    rows: int
    """In one call."""
    calls: int
    """Measured, after warming up."""
    p50: Figure
    p99: Figure | None
    """None where so few calls say nothing of it."""


class Difference(msgspec.Struct, frozen=True):
    """How two versions differ in one metric on the same rows."""

    figure: Figure
    """Of this version less the other."""
    standing: Standing
    value: float
    """Of this version."""
    other: float


class Comparison(msgspec.Struct, frozen=True):
    """This version and another one, answer by answer."""

    version: int
    digest: str
    differences: tuple[Difference, ...]
    """The headline metric first."""
    rows: int
    """That both answered."""
    agree: Figure | None = None
    """Share of rows that both answer alike, where answers are classes."""


class Scorecard(msgspec.Struct, frozen=True):
    """All that was found on one version."""

    model: str
    version: int
    digest: str
    """Of the version."""
    task: str
    metric: str
    """Name of the headline metric."""
    direction: Direction
    figures: tuple[Figure, ...]
    """The headline metric first; then those of all rows, then those of each class."""
    rows: int
    """That were answered."""
    refused: int = 0
    """Rows that the version would not answer."""
    refusals: tuple[str, ...] = ()
    """Why, for the first few."""
    group: str = ""
    """Column whose equal values count as one, or `blocks of` the column of times; empty: rows count."""
    dataset: str = ""
    """Digest of the dataset version; empty: a table that was handed in."""
    trained_on: tuple[str, ...] = ()
    """Digests of what the version was trained on, as its lineage says."""
    split: str = ""
    held_out: str = ""
    """How the rows were chosen."""
    slices: tuple[SliceScore, ...] = ()
    calibration: Calibration | None = None
    confusion: Confusion | None = None
    worst: tuple[Picture, ...] = ()
    checks: tuple[Verdict, ...] = ()
    """Whether something of the truth has leaked into what the model saw."""
    comparison: Comparison | None = None
    latency: tuple[Latency, ...] = ()
    size: int = 0
    """Bytes of the artifact."""
    notes: tuple[str, ...] = ()
    """What a reader has to know, such as metrics that could not be worked out."""
    created: str = ""
    """RFC 3339, UTC."""

    @property
    def headline(self) -> Figure:
        """The figure that says how good the version is."""
        return self.figures[0]

    @property
    def metrics(self) -> dict[str, float]:
        """Name -> value of the figures of all rows, as a manifest holds them."""
        return {figure.name: figure.value for figure in self.figures if not figure.of}

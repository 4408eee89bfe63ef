"""The detector on a version's losses: which are taken in, in which order, and where the next measurement goes on.

A unit gives one loss for each cohort, the mean of its predictions there: its requests are alike. Only whole cohorts of
mature predictions are taken in, each once, by the time at which a unit first came.

A baseline of few losses has a bound far above its mean, and small rises are not found. So one that is made of the
version's own cohorts grows while there is no alarm: each time that it has doubled its bound is worked out anew, until
it has eight times the losses that it began with. Each bound has its part of the probability to be too low, so that all
hold together. The detector goes by the lowest, which was known before the losses that are held against it.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.quality import Watch
from rung.stats.detectors import Baseline, EDetector

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Rule", "moment", "watch"]

_MARKS = 2_000
_LOOKS = 4
"""Bounds of a growing baseline: at once, and each time that it has doubled."""
_ALPHA = 0.05
"""Probability that any of them is below the true mean."""


class Rule(msgspec.Struct, frozen=True):
    """How the detector is set."""

    baseline: Baseline | None = None
    """What the losses are held against; None: the version's own first mature cohorts."""
    least: int = 200
    """Losses that a baseline from cohorts begins with, at least; it grows to eight times as many."""
    margin: float = 0.01
    """A rise of the mean loss that does not matter."""
    run_length: float = 50_000.0
    """Losses between two false alarms, on average and at least."""


class _State(msgspec.Struct):
    detector: EDetector
    baseline: Baseline
    through: float
    """Losses of predictions before this time were taken in, or are the baseline."""
    cohort: float
    margin: float = 0.0
    most: int = 0
    """Losses at which the baseline is done growing."""
    early: list[float] = []
    """Those of a baseline that still grows."""
    recent: float | None = None
    marks: list[tuple[int, float]] = []
    """After how many losses which cohort had ended."""


def watch(losses: "pl.DataFrame", version: int, rule: Rule, *, cohort: float, before: Watch | None = None) -> Watch:
    """Take in what came since the last measurement.

    Args:
        losses: of the version, of whole mature cohorts only: columns `start` (of the cohort), `time`, `unit`, `loss`.
        version: that answers.
        rule: how the detector is set; it stays as it was while `before` is of the same version.
        cohort: length in seconds.
        before: of the last measurement; of another version, or None: it begins anew.
    """
    import polars as pl

    state = _state(before, version, cohort)
    per_unit = (
        losses.group_by("start", "unit")
        .agg(pl.col("loss").mean(), pl.col("time").min())
        .sort("start", "time", "unit")
        .filter(pl.col("start") >= (state.through if state else -1.0))
    )
    if state is None:
        try:
            state = _begin(per_unit, rule, cohort)
        except InvalidInput:
            why = "its losses are so large to begin with that a rise could not be told: look at the version itself"
            return Watch(version, run_length=rule.run_length, why=why)
        if state is None:
            why = f"a baseline takes {rule.least} losses, one for each unit and cohort: {per_unit.height} are there"
            return Watch(version, run_length=rule.run_length, why=why)
        per_unit = per_unit.filter(pl.col("start") >= state.through)
    for (at,), part in per_unit.group_by("start", maintain_order=True):
        state.detector.feed(part["loss"].to_numpy())
        state.recent = float(part["loss"].to_numpy().mean())
        state.through = float(at) + cohort
        _grow(state, part["loss"].to_list())
        state.marks = [*state.marks, (state.detector.count, state.through)][-_MARKS:]
    return _told(version, state)


def _state(before: Watch | None, version: int, cohort: float) -> _State | None:
    if before is None or before.version != version or not before.state:
        return None
    state = msgspec.convert(before.state, _State)
    # Losses over another stretch of time are others.
    return state if state.cohort == cohort else None


def _begin(per_unit: "pl.DataFrame", rule: Rule, cohort: float) -> _State | None:
    """A new detector: against what it was given, or against the first cohorts that have enough losses together."""
    import polars as pl

    baseline, through, early = rule.baseline, 0.0, list[float]()
    if baseline is None:
        counts = per_unit.group_by("start", maintain_order=True).len().with_columns(pl.col("len").cum_sum())
        enough = counts.filter(pl.col("len") >= rule.least)
        if not enough.height:
            return None
        through = float(enough["start"][0]) + cohort
        early = per_unit.filter(pl.col("start") < through)["loss"].to_list()
        baseline = Baseline.of(early, alpha=_ALPHA / _LOOKS)
    detector = EDetector.against(baseline, margin=rule.margin, run_length=rule.run_length)
    most = rule.least * 2 ** (_LOOKS - 1)
    return _State(detector, baseline, through, cohort, rule.margin, most, early if len(early) < most else [])


def _grow(state: _State, losses: list[float]) -> None:
    """Take losses into the baseline that raised no alarm, while it grows."""
    if not state.early:
        return
    if state.detector.alarm:
        state.early = []
        return
    state.early = [*state.early, *losses]
    if len(state.early) >= min(2 * state.baseline.units, state.most):
        found = Baseline.of(state.early, alpha=_ALPHA / _LOOKS)
        high = min(found.high, state.baseline.high)
        state.baseline = Baseline(min(found.mean, high), high, found.units, _ALPHA)
        state.detector.limit = high + state.margin
    if len(state.early) >= state.most:
        state.early = []


def _told(version: int, state: _State) -> Watch:
    detector = state.detector
    at, began = _ended(state, detector.at), _ended(state, detector.began)
    if detector.alarm:
        since = f" since about {moment(began - state.cohort)}" if began else ""
        why = f"its loss has risen{since}: the mean was {state.baseline.mean:.4g}"
        why += f" and {state.recent:.4g} in the last cohort" if state.recent is not None else ""
    else:
        why = f"no rise of its loss above {detector.limit:.4g} is seen in {detector.count:,} losses"
    return Watch(
        version,
        detector.level,
        detector.highest,
        detector.alarm,
        at,
        began - state.cohort if began else None,
        state.baseline.mean,
        detector.limit,
        detector.run_length,
        detector.count,
        state.recent,
        why,
        msgspec.json.decode(msgspec.json.encode(state)),
    )


def _ended(state: _State, number: int | None) -> float | None:
    """End of the cohort that a loss, by its number from 1, was of; None where it is not known any more."""
    if number is None:
        return None
    return next((end for count, end in state.marks if count >= number), None)


def moment(time: float) -> str:
    """A moment of UTC for people; of midnight only the day."""
    text = datetime.fromtimestamp(time, UTC).isoformat(sep=" ", timespec="seconds")[:19]
    return text[:10] if text.endswith("00:00:00") else text.removesuffix(":00")

"""What graded answers say: figures with intervals, slices, calibration, and the difference of two versions."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.domain.metrics import METRICS, Measure, measure
from rung.domain.scorecards import Bin, Calibration, Comparison, Confusion, Difference, Figure, SliceScore, Standing
from rung.domain.tensors import Array
from rung.settings.project import DataSection
from rung.stats.calibration import reliability
from rung.stats.estimates import Estimate, holm, interval, mean, paired, part_against_rest
from rung.stats.intervals import Interval
from rung.stats.scores import Answers, by_class, classification, confusion, regression
from rung.training.grading import Graded

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "LEAST",
    "calibration",
    "compare",
    "compare_slices",
    "confidence_of",
    "confusion_of",
    "figures",
    "groups_of",
    "slices",
]

LEAST = 20
"""Rows, or groups where rows of one are alike, that a slice needs before anything is said about it."""
_VALUES = 30
"""Values of a column that are shown apart; the rest are one slice."""
_BLOCKS, _ROWS_PER_BLOCK = 50, 5
_CLASSES = 50
"""Classes with figures of their own, and of a confusion matrix."""


def figures(graded: Graded, task: str, metric: str, groups: Array | None) -> tuple[list[Figure], list[str]]:
    """All figures, the headline metric first, and notes on those that there are none of.

    Raises:
        ConfigurationError: the headline metric is not one of this task, or cannot be worked out of these rows.
        InvalidInput: fewer than two rows or groups.
    """
    known = measure(metric)
    if known.task != task:
        usable = ", ".join(one.name for one in METRICS.values() if one.task == task)
        raise ConfigurationError(f"{metric} is no metric of a {task}: choose one of {usable}")
    found = [_figure(interval(one, groups), one) for one in _estimates(graded)]
    notes: list[str] = []
    certain = calibration(graded, groups)
    if certain is not None:
        found.append(certain.error)
    classes = 0
    if graded.answers is not None:
        classes = int((np.bincount(graded.answers.truth) > 0).sum())
        if classes <= _CLASSES:
            found += _of_classes(graded.answers, groups)
        else:
            notes.append(f"{classes} classes: figures of each are left out")
    head = [one for one in found if one.name == metric and not one.of]
    if not head:
        raise ConfigurationError(f"{metric} cannot be worked out of these {len(graded.rows)} rows: choose another")
    absent = [
        name for name, one in METRICS.items() if one.task == task and name not in {figure.name for figure in found}
    ]
    if absent:
        notes.append(f"not worked out of these rows: {', '.join(absent)}")
    return [*head, *(one for one in found if one is not head[0])], notes


def _of_classes(answers: Answers, groups: Array | None) -> Iterator[Figure]:
    for one in by_class(answers):
        try:
            yield _figure(interval(one, groups), one)
        except InvalidInput:
            continue  # a class of a single row, or group, has no interval


def calibration(graded: Graded, groups: Array | None) -> Calibration | None:
    """Whether the probabilities can be taken at their word; None where they are none, or for too few rows."""
    answers = graded.answers
    if answers is None or not answers.whole:
        return None
    about, confidence, right = confidence_of(answers)
    try:
        found = reliability(confidence, right, groups)
    except InvalidInput:
        return None
    bins = tuple(
        Bin(float(middle), share.estimate, share.low, share.high, share.counts["rows"])
        for middle, share in zip(found.confidence, found.right, strict=True)
    )
    return Calibration(_named("calibration_error", found.error), bins, about)


def confidence_of(answers: Answers) -> tuple[str, Array, Array]:
    """Which probability is meant, what it was for each row, and whether it came to be so."""
    if len(answers.labels) == 2:
        return f"probability of {answers.labels[1]}", answers.probabilities[:, 1].astype(np.float64), answers.truth == 1
    likeliest = answers.probabilities.max(axis=1).astype(np.float64)
    return "probability of the likeliest class", likeliest, answers.said == answers.truth


def confusion_of(graded: Graded) -> Confusion | None:
    """How often each class was taken for each."""
    answers = graded.answers
    if answers is None or len(answers.labels) > _CLASSES:
        return None
    return Confusion(answers.labels, tuple(tuple(map(int, row)) for row in confusion(answers)))


def slices(
    graded: Graded, frame: "pl.DataFrame", columns: tuple[str, ...], measured: Measure, groups: Array | None
) -> list[SliceScore]:
    """The headline metric on the rows of each value, and which slices are worse than all other rows.

    Every slice is tested against the rest, one-sided; Holm's procedure holds the probability of flagging any slice
    wrongly at 5 % over all of them. A slice under `LEAST` rows is not tested, and so cannot pass.
    """
    found: list[SliceScore] = []
    for column in columns:
        values = _values(frame[column].gather(graded.rows.tolist()))
        found += [_slice(graded, column, name, inside, measured, groups) for name, inside in values]
    tested = [place for place, one in enumerate(found) if one.p is not None]
    rejected = holm([found[place].p or 0.0 for place in tested])
    for place, worse in zip(tested, rejected, strict=True):
        found[place] = msgspec.structs.replace(found[place], worse=worse)
    return found


def _slice(
    graded: Graded, column: str, name: str, inside: Array, measured: Measure, groups: Array | None
) -> SliceScore:
    rows = int(inside.sum())
    counts = [int(side.sum()) if groups is None else len(np.unique(groups[side])) for side in (inside, ~inside)]
    bare = SliceScore(column, name, rows, counts[0])
    what = "rows" if groups is None else "groups"
    if counts[0] < LEAST:
        return msgspec.structs.replace(bare, note=f"too few: {counts[0]} {what}, {LEAST} are needed")
    part = _one(_chosen(graded, inside), measured.name)
    if part is None:
        return msgspec.structs.replace(bare, note=f"no {measured.name} can be worked out of these rows alone")
    figure = _figure(interval(part, None if groups is None else groups[inside]), part)
    rest = _one(_chosen(graded, ~inside), measured.name) if counts[1] >= LEAST else None
    if rest is None:
        return msgspec.structs.replace(bare, figure=figure, note="too few other rows to compare with")
    between, lower = part_against_rest(part, rest, inside, groups)
    p = lower if measured.direction == "maximize" else 1 - lower
    return msgspec.structs.replace(bare, figure=figure, difference=_named(measured.name, between), p=p)


def compare(new: Graded, old: Graded, version: tuple[int, str], measured: Measure, groups: Array | None) -> Comparison:
    """The difference of two versions on the rows that both answered; `groups` belong to the rows of `new`.

    `better` and `worse` are said where the whole interval lies on one side of 0.
    """
    both = np.intersect1d(new.rows, old.rows)
    here, there = np.isin(new.rows, both), np.isin(old.rows, both)
    groups = None if groups is None else groups[here]
    ours = {one.name: one for one in _estimates(_chosen(new, here))}
    theirs = {one.name: one for one in _estimates(_chosen(old, there))}
    names = [name for name in ours if name in theirs and name in METRICS]
    differences = []
    for name in sorted(names, key=lambda name: name != measured.name):
        found = paired(ours[name], theirs[name], groups)
        standing = _standing(found, METRICS[name])
        differences.append(Difference(_named(name, found), standing, ours[name].value, theirs[name].value))
    agree = None
    if new.answers is not None and old.answers is not None:
        alike = (_chosen(new, here).answers.said == _chosen(old, there).answers.said).astype(np.float64)  # type: ignore[union-attr]
        agree = _named("agreement", interval(mean("agreement", alike, "share"), groups))
    return Comparison(*version, tuple(differences), len(both), agree)


def compare_slices(
    new: Graded, old: Graded, frame: "pl.DataFrame", columns: tuple[str, ...], measured: Measure, groups: Array | None
) -> Iterator[tuple[str, str, int, Difference | None]]:
    """Column, value, rows, and how two versions differ on them in the headline metric; None under `LEAST` rows."""
    both = np.intersect1d(new.rows, old.rows)
    here, there = _chosen(new, np.isin(new.rows, both)), _chosen(old, np.isin(old.rows, both))
    groups = None if groups is None else groups[np.isin(new.rows, both)]
    for column in columns:
        for value, inside in _values(frame[column].gather(both.tolist())):
            rows = int(inside.sum())
            ours, theirs = (_one(_chosen(side, inside), measured.name) for side in (here, there))
            of = None if groups is None else groups[inside]
            if ours is None or theirs is None or (rows if of is None else len(np.unique(of))) < LEAST:
                yield column, value, rows, None
                continue
            found = paired(ours, theirs, of)
            yield (
                column,
                value,
                rows,
                Difference(_named(measured.name, found), _standing(found, measured), ours.value, theirs.value),
            )


def _standing(found: Interval, measured: Measure) -> Standing:
    low, high = (found.low, found.high) if measured.direction == "maximize" else (-found.high, -found.low)
    return "better" if low > 0 else "worse" if high < 0 else "inconclusive"


def groups_of(frame: "pl.DataFrame", rows: Array, section: DataSection) -> tuple[Array | None, str]:
    """A number for each row that rows which are alike share, and what these groups are called; None: rows stand alone.

    With a time and no group, the rows are cut into blocks of neighbouring times: an hour is like the hour before, and
    an interval that took them for independent would be too narrow (batch means; Law and Carson, 1979).
    """
    if section.group:
        values = frame[section.group].gather(rows.tolist()).rank("dense").fill_null(0)
        groups: Array = values.to_numpy().astype(np.int64)
        return groups, section.group
    blocks = min(_BLOCKS, len(rows) // _ROWS_PER_BLOCK)
    if not section.time or section.time not in frame.columns or blocks < LEAST:
        return None, ""
    places = frame[section.time].gather(rows.tolist()).rank("ordinal").fill_null(1).to_numpy().astype(np.int64) - 1
    return places * blocks // len(rows), f"blocks of {section.time}"


def _estimates(graded: Graded) -> Iterator[Estimate]:
    if graded.answers is not None:
        yield from classification(graded.answers)
    elif graded.overlaps:
        for name, values in graded.overlaps.items():
            yield mean(name, values, "share")
    else:
        yield from regression(graded.predicted, graded.truth)


def _one(graded: Graded, name: str) -> Estimate | None:
    return next((one for one in _estimates(graded) if one.name == name), None)


def _chosen(graded: Graded, inside: Array) -> Graded:
    """Some of the rows."""
    answers = graded.answers
    return Graded(
        graded.rows[inside],
        answers and answers._replace(probabilities=answers.probabilities[inside], truth=answers.truth[inside]),
        graded.predicted[inside] if len(graded.predicted) else graded.predicted,
        graded.truth[inside] if len(graded.truth) else graded.truth,
        {name: values[inside] for name, values in graded.overlaps.items()},
    )


def _values(column: "pl.Series") -> list[tuple[str, Array]]:
    """Names of slices, and which rows are in each. Numbers of many values are cut into quarters."""
    import polars as pl

    distinct = column.n_unique()
    if column.dtype.is_numeric() and distinct > LEAST // 2:
        numbers = column.cast(pl.Float64).to_numpy()
        edges = np.unique(np.nanquantile(numbers, [0.25, 0.5, 0.75]))
        places = np.searchsorted(edges, numbers, side="left")
        bounds = ["", *(f"{edge:.4g}" for edge in edges), ""]
        named = [
            f"<= {high}" if not low else f"> {low}" if not high else f"{low} to {high}"
            for low, high in pairwise(bounds)
        ]
        missing = np.isnan(numbers)
        parts = [(name, (places == place) & ~missing) for place, name in enumerate(named)]
        parts.append(("empty", missing))
    else:
        texts = column.cast(pl.String).fill_null("empty").to_numpy()
        names, counts = np.unique(texts.astype(str), return_counts=True)
        shown = names[np.argsort(-counts, kind="stable")][:_VALUES]
        parts = [(str(name), texts == name) for name in sorted(shown)]
        if len(names) > _VALUES:
            parts.append((f"{len(names) - _VALUES} rarer values", ~np.isin(texts.astype(str), shown)))
    return [(name, inside) for name, inside in parts if inside.any()]


def _figure(found: Interval, estimate: Estimate) -> Figure:
    return msgspec.structs.replace(_named(estimate.name, found), of=estimate.of)


def _named(name: str, found: Interval) -> Figure:
    known: Any = METRICS.get(name)
    unit = known.unit if known else "label" if name == "bias" else ""
    counts = found.counts
    return Figure(
        name, found.estimate, found.low, found.high, counts["rows"], counts["groups"], found.method, found.level, unit
    )

"""Whether a new version may be released: both versions are asked the same rows again, now, side by side.

What it was once scored at does not count. The rows are those that neither has learned from: the latest labelled
requests, on which the new one has to be shown not to be worse, and what was held out of the data before, on which, as
on every slice, it must not be shown to be worse. The losses of a row lie between 0 and 1:

    classification   1 where the likeliest class is wrong
    regression       size of the error by three standard deviations of the label, at most 1
    segmentation     1 - overlap by union
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from rung.catalog import models
from rung.domain.errors import InvalidData
from rung.domain.rules import Verdict, combine
from rung.domain.tensors import Array
from rung.ports import BlobStore
from rung.settings.project import DataSection, RetrainSection
from rung.stats.betting import noninferiority
from rung.training import latency
from rung.training.answering import Answerer, opened
from rung.training.grading import Graded, grade
from rung.training.scorecard import LEAST

if TYPE_CHECKING:
    import polars as pl

__all__ = ["RULE", "Rows", "judge", "losses"]

RULE = "gate 2"
"""Name and version of the rules: they are written down with each decision."""


class Rows(msgspec.Struct):
    """What the versions are compared on."""

    frame: "pl.DataFrame"
    newest: Array
    """bool [rows]: the latest labelled requests, in the order in which they were asked; the others are earlier."""
    section: DataSection


_OPENED = 3
"""Times that both are loaded until the new one counts as slower."""


def judge(
    store: BlobStore, name: str, champion: int, candidate: int, rows: Rows, settings: RetrainSection, *, task: str = ""
) -> Verdict:
    """Whether `candidate` may take over from `champion`.

    Raises:
        InvalidData: the rows lack a column or a label, or one of the versions answered none of them.
        NotFound, BundleError: a version is not there, or may not be served.
    """
    sides = partial(_sides, store, name, (champion, candidate), task)
    with sides() as (old, new):
        before, now = _losses(old, rows), _losses(new, rows)
        sizes = _smaller(old.size, new.size, settings)
    both = np.isfinite(before) & np.isfinite(now)
    worse = now - before
    newest = noninferiority(worse[both & rows.newest].tolist(), margin=settings.margin, alpha=settings.alpha)
    required = [_golden(store, name, candidate), _named("newest requests", newest)]
    parts = [("earlier data", ~rows.newest), *_slices(rows)]
    alpha = settings.alpha / len(parts)
    slices = [
        _named(what, noninferiority(worse[both & inside].tolist(), margin=settings.forget, alpha=alpha))
        for what, inside in parts
        if settings.forget < 1 and (both & inside).sum() >= LEAST
    ]
    refused = int((np.isfinite(before) & ~np.isfinite(now)).sum())
    speed = _faster(sides, rows.frame[np.flatnonzero(both).tolist()], rows.section, settings)
    allowed = [*slices, _refusals(refused, len(worse)), speed, sizes]
    # What only must not fail does not keep a version back by being undecided.
    found = combine([*required, *(one for one in allowed if one.outcome == "fail")], rule=RULE)
    kept = {"verdicts": [msgspec.to_builtins(one) for one in (*required, *allowed)]}
    return msgspec.structs.replace(found, evidence=kept)


def losses(answerer: Answerer, graded: Graded, rows: int, scale: float) -> Array:
    """float64 [rows], from 0 to 1; NaN for rows that were not answered. `scale` is the error that counts as 1."""
    found = np.full(rows, np.nan)
    if graded.answers is not None:
        found[graded.rows] = graded.answers.said != graded.answers.truth
    elif answerer.task == "regression":
        found[graded.rows] = np.minimum(np.abs(graded.predicted - graded.truth) / scale, 1.0)
    else:
        found[graded.rows] = 1 - graded.overlaps["iou"]
    return found


@contextmanager
def _sides(store: BlobStore, name: str, versions: tuple[int, int], task: str) -> Iterator[tuple[Answerer, Answerer]]:
    old, new = versions
    with opened(store, name, old, task=task) as champion, opened(store, name, new, task=task) as candidate:
        yield champion, candidate


def _losses(answerer: Answerer, rows: Rows) -> Array:
    frame, section = rows.frame, rows.section
    graded = grade(answerer, frame, section.label, answerer.answer(frame, section))
    scale = 1.0
    if answerer.task == "regression":
        # Of the earlier rows, which were there before the ones that are judged by.
        before = frame[section.label].to_numpy()[~rows.newest]
        scale = 3 * float(np.std(before if len(before) > 1 else frame[section.label].to_numpy())) or 1.0
    return losses(answerer, graded, frame.height, scale)


def _golden(store: BlobStore, name: str, version: int) -> Verdict:
    found = models.verify(store, name, version)
    if found.problem:
        return Verdict("fail", "golden examples", f"Version {version} is not what was registered: {found.problem}.")
    return Verdict("pass", "golden examples", f"{found.examples} golden examples are answered as at registration.")


def _named(what: str, verdict: Verdict) -> Verdict:
    return msgspec.structs.replace(verdict, rule=what, why=f"On the {what}: {verdict.why}")


def _slices(rows: Rows) -> list[tuple[str, Array]]:
    """Values of the slice columns that have enough rows."""
    found = []
    for column in rows.section.slices:
        if column not in rows.frame.columns:
            raise InvalidData(f"there is no column {column!r} (data.slices); there are {', '.join(rows.frame.columns)}")
        values = rows.frame[column].cast(str).to_list()
        for value in sorted({one for one in values if one is not None}):
            inside = np.array([one == value for one in values])
            if inside.sum() >= LEAST:
                found.append((f"slice {column} = {value}", inside))
    return found


def _refusals(refused: int, rows: int) -> Verdict:
    if refused:
        return Verdict("fail", "refusals", f"It refuses {refused} of {rows} rows that the old one answers.")
    return Verdict("pass", "refusals", "It answers every row that the old one does.")


def _faster(
    sides: Callable[[], AbstractContextManager[tuple[Answerer, Answerer]]],
    frame: "pl.DataFrame",
    section: DataSection,
    settings: RetrainSection,
) -> Verdict:
    """Asked by turns.

    One graph loaded twice may differ by where its memory lies, so one that seems slower is loaded anew: it is slower
    if it is so each time.
    """
    ratio = None
    for _ in range(_OPENED):
        with sides() as (old, new):
            ratio = latency.compare(old, new, frame, section) if frame.height else None
        if ratio is None:
            return Verdict("inconclusive", "latency", "The time of an answer could not be measured.")
        if ratio.low <= settings.slower:
            break
    assert ratio is not None
    slow = ratio.low > settings.slower
    why = (
        f"One row takes {ratio.value:.3g} [{ratio.low:.3g}, {ratio.high:.3g}] times as long as before; "
        f"{settings.slower:g} times are allowed."
    )
    evidence = {"ratio": msgspec.to_builtins(ratio), "most": settings.slower}
    return Verdict("fail" if slow else "pass", "latency", why, evidence)


def _smaller(old: int, new: int, settings: RetrainSection) -> Verdict:
    large = new > settings.larger * old
    why = f"The new version has {new:,} bytes, and the old one {old:,}; {settings.larger:g} times are allowed."
    return Verdict("fail" if large else "pass", "size", why)

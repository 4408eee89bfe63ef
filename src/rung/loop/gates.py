"""Whether a new version may be released: both versions are asked the same rows again, now, side by side.

What it was once scored at does not count. The rows are those that neither has learned from: the latest labelled
requests, on which the new one has to be shown not to be worse, and what was held out of the data before, on which, as
on every slice, it must not be shown to be worse. The losses of a row lie between 0 and 1:

    classification   1 where the likeliest class is wrong
    regression       size of the error by three standard deviations of the label, at most 1
    segmentation     1 - overlap by union
"""

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from rung.catalog import models
from rung.domain.errors import InvalidData
from rung.domain.rules import Verdict, combine
from rung.domain.scorecards import Latency
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

RULE = "gate 1"
"""Name and version of the rules: they are written down with each decision."""


class Rows(msgspec.Struct):
    """What the versions are compared on."""

    frame: "pl.DataFrame"
    newest: Array
    """bool [rows]: the latest labelled requests, in the order in which they were asked; the others are earlier."""
    section: DataSection


class _Side(msgspec.Struct):
    """One version's answers."""

    losses: Array
    """float64 [rows]; NaN where it refused."""
    size: int
    times: tuple[Latency, ...]


def judge(
    store: BlobStore, name: str, champion: int, candidate: int, rows: Rows, settings: RetrainSection, *, task: str = ""
) -> Verdict:
    """Whether `candidate` may take over from `champion`.

    Raises:
        InvalidData: the rows lack a column or a label, or one of the versions answered none of them.
        NotFound, BundleError: a version is not there, or may not be served.
    """
    old, new = (_answers(store, name, version, rows, task) for version in (champion, candidate))
    both = np.isfinite(old.losses) & np.isfinite(new.losses)
    worse = new.losses - old.losses
    newest = noninferiority(worse[both & rows.newest].tolist(), margin=settings.margin, alpha=settings.alpha)
    required = [_golden(store, name, candidate), _named("newest requests", newest)]
    parts = [("earlier data", ~rows.newest), *_slices(rows)]
    alpha = settings.alpha / len(parts)
    slices = [
        _named(what, noninferiority(worse[both & inside].tolist(), margin=settings.forget, alpha=alpha))
        for what, inside in parts
        if settings.forget < 1 and (both & inside).sum() >= LEAST
    ]
    refused = int((np.isfinite(old.losses) & ~np.isfinite(new.losses)).sum())
    allowed = [*slices, _refusals(refused, len(worse)), _faster(old, new, settings), _smaller(old, new, settings)]
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


def _answers(store: BlobStore, name: str, version: int, rows: Rows, task: str) -> _Side:
    frame, section = rows.frame, rows.section
    with opened(store, name, version, task=task) as answerer:
        graded = grade(answerer, frame, section.label, answerer.answer(frame, section))
        scale = 1.0
        if answerer.task == "regression":
            # Of the earlier rows, which were there before the ones that are judged by.
            before = frame[section.label].to_numpy()[~rows.newest]
            scale = 3 * float(np.std(before if len(before) > 1 else frame[section.label].to_numpy())) or 1.0
        times = latency.measure(answerer, frame[graded.rows.tolist()], section)
        return _Side(losses(answerer, graded, frame.height, scale), answerer.size, times)


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


def _faster(old: _Side, new: _Side, settings: RetrainSection) -> Verdict:
    """By the intervals of the median of one-row calls, timed one after the other in this process."""
    if not old.times or not new.times:
        return Verdict("inconclusive", "latency", "The time of an answer could not be measured.")
    before, now = old.times[0].p50, new.times[0].p50
    evidence = {"before": msgspec.to_builtins(before), "now": msgspec.to_builtins(now), "most": settings.slower}
    text = f"One row takes {1e3 * now.value:.3g} ms, and took {1e3 * before.value:.3g} ms"
    slow = now.low > settings.slower * before.high
    return Verdict("fail" if slow else "pass", "latency", f"{text}; {settings.slower:g} times are allowed.", evidence)


def _smaller(old: _Side, new: _Side, settings: RetrainSection) -> Verdict:
    large = new.size > settings.larger * old.size
    why = (
        f"The new version has {new.size:,} bytes, and the old one {old.size:,}; {settings.larger:g} times are allowed."
    )
    return Verdict("fail" if large else "pass", "size", why)

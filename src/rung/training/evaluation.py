"""Score a registered version on rows that it has not seen, through the code that serves it."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from rung.domain.datasets import DatasetVersion, Split
from rung.domain.errors import InvalidData, NotFound
from rung.domain.metrics import METRICS, default_metric, measure
from rung.domain.models import Manifest
from rung.domain.scorecards import Comparison, Picture, Scorecard
from rung.ports import BlobStore
from rung.settings.project import DataSection, ModelSettings, ProjectSettings
from rung.store.blobs import open_store
from rung.training import latency, leakage
from rung.training.answering import Answerer, opened
from rung.training.grading import Graded, grade, names_of
from rung.training.scorecard import calibration, compare, confusion_of, figures, groups_of, slices

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Evaluation", "Holdout", "evaluate", "examine", "holdout_of"]


class Holdout(msgspec.Struct):
    """Rows to score on, and where they are from."""

    frame: "pl.DataFrame"
    section: DataSection
    learned: "pl.DataFrame | None" = None
    """Rows that the model has seen, for the checks; None: nobody knows."""
    metric: str = ""
    """The headline; empty: the usual one of the task."""
    dataset: str = ""
    split: str = ""
    held_out: str = ""
    """How the rows were chosen, for people."""
    notes: tuple[str, ...] = ()


class Evaluation(msgspec.Struct):
    """A scorecard, and the answers that its pictures are drawn from."""

    card: Scorecard
    graded: Graded


def evaluate(
    store: BlobStore,
    name: str,
    version: int,
    frame: "pl.DataFrame",
    section: DataSection,
    *,
    task: str = "",
    metric: str = "",
    threads: int = 1,
) -> Scorecard:
    """Score a version on a table.

    Args:
        store: the repository.
        name: of the model.
        version: its number.
        frame: rows that the model has not seen, with the label column.
        section: which columns are what; its `label` is needed, `group` and `slices` are minded.
        task: empty: as its manifest says.
        metric: the headline; empty: the usual one of the task.
        threads: cores of one call.

    Raises:
        NotFound: there is no such version.
        BundleError: it may not be served, and why.
        ConfigurationError: it cannot be scored as this task, or by this metric.
        InvalidData: the table lacks a column, a label is missing, or no row was answered.
    """
    return examine(store, name, version, Holdout(frame, section, metric=metric), task=task, threads=threads).card


def examine(
    store: BlobStore,
    name: str,
    version: int,
    holdout: Holdout,
    *,
    task: str = "",
    threads: int = 1,
    against: int | None = None,
) -> Evaluation:
    """`evaluate` with the checks for leakage, latency, and the paired difference to the version `against`.

    Raises:
        as `evaluate`.
    """
    frame, section = holdout.frame, holdout.section
    for column in (*section.slices, *([section.group] if section.group else [])):
        if column not in frame.columns:
            raise InvalidData(
                f"there is no column {column!r} to group or slice by; there are {', '.join(frame.columns)}"
            )
    with opened(store, name, version, task=task, threads=threads) as answerer:
        graded = grade(answerer, frame, section.label, answerer.answer(frame, section))
        timed = latency.measure(answerer, frame[graded.rows.tolist()], section)
    card = _card(answerer, graded, holdout)
    learned = holdout.learned
    card = msgspec.structs.replace(
        card,
        checks=tuple(leakage.check(learned, frame, section, task=answerer.task)) if learned is not None else (),
        comparison=_against(store, answerer, graded, holdout, against, threads),
        latency=timed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    return Evaluation(card, graded)


def _card(answerer: Answerer, graded: Graded, holdout: Holdout) -> Scorecard:
    """What the answers alone say."""
    frame, section = holdout.frame, holdout.section
    measured = measure(holdout.metric or default_metric(answerer.task))
    groups, grouped = groups_of(frame, graded.rows, section)
    if len(graded.rows if groups is None else np.unique(groups)) < 2:
        raise InvalidData(
            f"{len(graded.rows)} rows of {frame.height} were answered, of one {grouped or 'row'}: an interval "
            "takes two at least"
        )
    found, notes = figures(graded, answerer.task, measured.name, groups)
    names = names_of(frame, [one.row for one in graded.worst], section.key)
    worst = [
        Picture(one.row, name, one.iou, one.dice, f"worst-{place:02}.png")
        for place, (one, name) in enumerate(zip(graded.worst, names, strict=True), 1)
    ]
    return Scorecard(
        model=answerer.manifest.name,
        version=answerer.manifest.version,
        digest=answerer.digest,
        task=answerer.task,
        metric=measured.name,
        direction=measured.direction,
        figures=tuple(found),
        rows=len(graded.rows),
        refused=answerer.refused,
        refusals=tuple(answerer.refusals[:3]),
        group=grouped,
        dataset=holdout.dataset,
        trained_on=tuple(answerer.manifest.lineage.data.values()),
        split=holdout.split,
        held_out=holdout.held_out,
        slices=tuple(slices(graded, frame, section.slices, measured, groups)),
        calibration=calibration(graded, groups),
        confusion=confusion_of(graded),
        worst=tuple(worst),
        size=answerer.size,
        notes=(*holdout.notes, *graded.notes, *notes, *_doubts(answerer, holdout)),
    )


def _against(
    store: BlobStore, answerer: Answerer, graded: Graded, holdout: Holdout, against: int | None, threads: int
) -> Comparison | None:
    if against is None:
        return None
    frame, section = holdout.frame, holdout.section
    with opened(store, answerer.manifest.name, against, task=answerer.task, threads=threads) as other:
        old = grade(other, frame, section.label, other.answer(frame, section))
    measured = METRICS[holdout.metric or default_metric(answerer.task)]
    groups, _ = groups_of(frame, graded.rows, section)
    return compare(graded, old, (against, other.digest), measured, groups)


def _doubts(answerer: Answerer, holdout: Holdout) -> list[str]:
    """What a reader of the figures has to know."""
    doubts = []
    if answerer.refused:
        total = holdout.frame.height
        doubts.append(f"{answerer.refused} of {total} rows were refused: the figures are of the others alone")
    trained = answerer.manifest.lineage.data.values()
    if holdout.dataset and trained and holdout.dataset not in trained:
        doubts.append("the version was trained on another dataset version: rows held out here may be known to it")
    if holdout.dataset and not trained:
        doubts.append("nothing is known of what the version was trained on: these rows may be known to it")
    if holdout.learned is None:
        doubts.append("the training rows are not known here: nothing was checked for leakage")
    return doubts


def holdout_of(
    settings: ProjectSettings, folder: Path, manifest: Manifest, *, split: Split = "test", source: str = ""
) -> Holdout:
    """The rows to score a version of a project on: a split of what it was trained on, or all rows of a source.

    Args:
        settings: of the project.
        folder: that paths are relative to.
        manifest: of the version; its lineage names what it was trained on, else the newest data is taken.
        split: which rows.
        source: URL of other rows; none of them is kept.

    Raises:
        InvalidData: there is no data, or none in the split.
        NotFound: what it was trained on is not here.
    """
    from rung.data import datasets
    from rung.data.splits import divide

    model = settings.models.get(manifest.name, ModelSettings())
    section, store = model.dataset, open_store(_place(settings.project.data, folder))
    try:
        version = _trained_on(store, manifest)
    except NotFound:
        if not source:
            raise
        version = None
    metric, notes = _headline(model)
    learned = None
    parts: dict[Split, pl.DataFrame] = {}
    if version is not None:
        section = datasets.divided(section, version)
        parts = divide(datasets.frame(store, version), section)
        learned = _learned(parts, split if not source else "test")
    if source:
        rows = _rows_of(source, manifest.name, section, folder)
        return Holdout(rows, section, learned, metric, "", "all", f"all rows of {source}", notes)
    if version is None:
        raise InvalidData(
            f"there is no data of {manifest.name}: train it, or name rows with --source URL (rung data ingest "
            f"{manifest.name} reads those of the project)"
        )
    if split not in parts or not parts[split].height:
        raise InvalidData(f"no row falls into the split {split!r}: set [models.{manifest.name}.data] {split} above 0")
    how = f"{parts[split].height} of {version.rows} rows, {_how(section)}"
    return Holdout(parts[split], section, learned, metric, version.digest, split, how, notes)


def _place(url: str, folder: Path) -> str:
    return url if "://" in url else str(folder / url)


def _trained_on(store: BlobStore, manifest: Manifest) -> DatasetVersion | None:
    from rung.data import datasets

    data = manifest.lineage.data
    digest = data.get(manifest.name) or next(iter(data.values()), "")
    return datasets.load(store, manifest.name, digest) if digest else datasets.latest(store, manifest.name)


def _learned(parts: "dict[Split, pl.DataFrame]", split: Split) -> "pl.DataFrame | None":
    """What the model has seen: the rows that chose its best step, too."""
    import polars as pl

    seen: tuple[Split, ...] = {"test": ("train", "validation"), "validation": ("train",), "train": ()}[split]  # type: ignore[assignment]
    frames = [parts[one] for one in seen if one in parts and parts[one].height]
    return pl.concat(frames) if frames else None


def _rows_of(source: str, name: str, section: DataSection, folder: Path) -> "pl.DataFrame":
    import tempfile

    from rung.data import datasets

    with tempfile.TemporaryDirectory(prefix="rung-evaluate-") as place:
        store = open_store(place)
        version = datasets.ingest(store, name, msgspec.structs.replace(section, source=source), folder)
        rows = datasets.frame(store, version)
    if not rows.height:
        raise InvalidData(f"there is no row in {source}")
    return rows


def _headline(model: ModelSettings) -> tuple[str, tuple[str, ...]]:
    # What training reports on the validation rows is called so; here it is the same figure of other rows.
    plain = re.sub(r"^(val|valid|validation|test)[_/.-]", "", model.metric)
    if not plain or plain in METRICS:
        return plain, ()
    return "", (f"the project's metric {model.metric!r} is its own: the headline is the usual one of the task",)


def _how(section: DataSection) -> str:
    if section.split:
        return f"as the column {section.split!r} says"
    if section.time:
        return f"the latest by {section.time!r}"
    if section.group:
        return f"whole groups of {section.group!r} by hash"
    return f"by hash of {', '.join(section.key) or 'all columns'}"

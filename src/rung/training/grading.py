"""Answers beside the truth: what is kept of each row, so that every figure can be worked out of it.

Masks are compared as they come and let go; of the worst pictures a small copy is kept.
"""

import heapq
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from rung.domain.errors import InvalidData
from rung.domain.tensors import Array
from rung.stats.scores import Answers, overlap
from rung.training.answering import Answerer, Batch

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Graded", "Shown", "grade", "names_of"]

_WORST = 10
_SIDE = 320
"""Pixels of the longer side of a picture that is shown."""


class Shown(msgspec.Struct):
    """A picture that was answered badly."""

    row: int
    iou: float
    dice: float
    image: Array
    """uint8 [H, W, 3]."""
    truth: Array
    """uint8 [H, W], numbers of classes."""
    said: Array
    """uint8 [H, W]."""


class Graded(msgspec.Struct):
    """What is known of each row that was answered. The arrays that belong to another task are empty."""

    rows: Array
    """Places in the table, ascending."""
    answers: Answers | None = None
    """Of a classification."""
    predicted: Array = msgspec.field(default_factory=lambda: np.empty(0))
    """Of a regression: [rows]."""
    truth: Array = msgspec.field(default_factory=lambda: np.empty(0))
    overlaps: dict[str, Array] = {}
    """Of a segmentation: `iou`, `dice`, `pixel_accuracy`, each [rows]."""
    worst: list[Shown] = []
    """Of a segmentation, worst first."""
    notes: list[str] = []


def grade(answerer: Answerer, frame: "pl.DataFrame", label: str, batches: Iterable[Batch]) -> Graded:
    """Compare all answers with the label column.

    Raises:
        InvalidData: there is no such column, a label is missing, or it is nothing that the model could say.
    """
    if not label or label not in frame.columns:
        what = f"there is no column {label!r}" if label else "data.label names no column"
        raise InvalidData(f"{what}: scores need the truth; there are {', '.join(frame.columns)}")
    missing = frame[label].null_count()
    if missing:
        raise InvalidData(f"the label column {label!r} is empty in {missing} of {frame.height} rows: leave them out")
    make = {"classification": _classes, "regression": _numbers, "segmentation": _masks}[answerer.task]
    graded = make(answerer, frame, label, batches)
    if not len(graded.rows):
        why = answerer.refusals[0] if answerer.refusals else "there are none"
        raise InvalidData(f"not one of {frame.height} rows was answered; {why}")
    return graded


def _classes(answerer: Answerer, frame: "pl.DataFrame", label: str, batches: Iterable[Batch]) -> Graded:
    places: dict[str, int] = {}
    rows: list[int] = []
    chunks: list[Array] = []
    for batch in batches:
        if not places:
            # A class without a label is called by its number.
            names = {one["label"] for one in batch.results[0]}
            declared = answerer.manifest.labels
            ordered = declared if names == set(declared) else sorted(names)
            places = {str(name): place for place, name in enumerate(ordered)}
        chunk = np.zeros((len(batch.results), len(places)), np.float32)
        for index, ranked in enumerate(batch.results):
            for one in ranked:
                chunk[index, places[str(one["label"])]] = one["score"]
        chunks.append(chunk)
        rows += batch.rows
    if not rows:
        return Graded(np.empty(0, np.int64))
    probabilities = np.concatenate(chunks)
    truth = np.array([places.get(_class_name(value), -1) for value in frame[label].gather(rows)], np.int64)
    if (truth < 0).any():
        strange = frame[label][rows[int((truth < 0).argmax())]]
        raise InvalidData(
            f"the label column {label!r} holds {strange!r}, and {answerer.manifest.name} version "
            f"{answerer.manifest.version} knows the classes {', '.join(places)[:300]}: give its labels when it is "
            "registered, in the order of its outputs"
        )
    sums = probabilities.sum(axis=1)
    whole = bool(np.allclose(sums, 1, atol=1e-3)) and bool((probabilities >= 0).all())
    notes = [] if whole else ["the scores of a row do not add up to 1: no log loss, Brier score or calibration"]
    return Graded(np.array(rows, np.int64), Answers(probabilities, truth, tuple(places), whole), notes=notes)


def _class_name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(answerer: Answerer, frame: "pl.DataFrame", label: str, batches: Iterable[Batch]) -> Graded:
    if not frame[label].dtype.is_numeric():
        raise InvalidData(f"the label column {label!r} holds {frame[label].dtype}, and a regression gives numbers")
    rows: list[int] = []
    said: list[float] = []
    for batch in batches:
        for row, result in zip(batch.rows, batch.results, strict=True):
            value = result["value"] if isinstance(result, dict) else result
            if value is None:
                answerer.refused += 1
                answerer.refusals.append(f"row {row + 1}: the answer is no finite number")
                continue
            rows.append(row)
            said.append(float(value))
    truth = frame[label].gather(rows).cast(float).to_numpy()
    if not np.isfinite(truth).all():
        raise InvalidData(f"the label column {label!r} holds NaN or infinity: leave those rows out")
    return Graded(np.array(rows, np.int64), predicted=np.array(said), truth=truth)


def _masks(answerer: Answerer, frame: "pl.DataFrame", label: str, batches: Iterable[Batch]) -> Graded:
    rows: list[int] = []
    found: list[tuple[float, float, float]] = []
    worst: list[tuple[float, int, Shown]] = []
    for batch in batches:
        for row, result in zip(batch.rows, batch.results, strict=True):
            truth = _mask(frame[label][row], row, label, classes=len(result.labels))
            if truth.shape != result.mask.shape:
                raise InvalidData(
                    f"row {row + 1}: the mask in {label!r} is {truth.shape[1]} x {truth.shape[0]}, its picture "
                    f"{result.mask.shape[1]} x {result.mask.shape[0]}"
                )
            scores = overlap(result.mask, truth)
            rows.append(row)
            found.append((scores.iou, scores.dice, scores.accuracy))
            # The heap's top is the best of the worst; ties go to the earlier row.
            if len(worst) < _WORST or -scores.iou > worst[0][0]:
                shown = _small(Shown(row, scores.iou, scores.dice, _picture(result), truth, result.mask))
                heapq.heappush(worst, (-scores.iou, -row, shown))
                if len(worst) > _WORST:
                    heapq.heappop(worst)
    table = np.array(found).reshape(-1, 3)
    overlaps = {name: table[:, place] for place, name in enumerate(("iou", "dice", "pixel_accuracy"))}
    shown_worst = [shown for _, _, shown in sorted(worst, key=lambda entry: (-entry[0], -entry[1]))]
    return Graded(np.array(rows, np.int64), overlaps=overlaps, worst=shown_worst)


def _picture(result: Any) -> Array:
    if result.image is None:
        return np.zeros((*result.mask.shape, 3), np.uint8)
    image: Array = result.image
    return image


def _mask(value: Any, row: int, label: str, *, classes: int) -> Array:
    """uint8 [H, W]: numbers of classes; of one class, everything that is not black is of it."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(value)) as image:
            # A palette's numbers are classes, not colours.
            pixels = np.asarray(image if image.mode in ("P", "L", "1", "I", "I;16") else image.convert("L"))
    except (OSError, ValueError, TypeError, SyntaxError) as error:
        raise InvalidData(f"row {row + 1}: the mask in {label!r} is no picture that can be read: {error}") from None
    if classes == 1:
        return (pixels > 0).astype(np.uint8)
    if pixels.size and int(pixels.max()) > classes:
        raise InvalidData(
            f"row {row + 1}: the mask in {label!r} holds the class {int(pixels.max())}, the model knows 0 to {classes}"
        )
    return pixels.astype(np.uint8)


def _small(shown: Shown) -> Shown:
    from PIL import Image

    height, width = shown.said.shape
    factor = min(1.0, _SIDE / max(height, width, 1))
    size = max(1, round(width * factor)), max(1, round(height * factor))

    def scaled(array: Array, *, smooth: bool) -> Array:
        method = Image.Resampling.BOX if smooth else Image.Resampling.NEAREST
        return np.asarray(Image.fromarray(array).resize(size, method))

    shown.image, shown.truth, shown.said = (
        scaled(shown.image, smooth=True),
        scaled(shown.truth, smooth=False),
        scaled(shown.said.astype(np.uint8), smooth=False),
    )
    return shown


def names_of(frame: "pl.DataFrame", rows: Sequence[int], key: Sequence[str]) -> list[str]:
    """What people call some rows: by their key, else by a column `name` or `path`, else by number."""
    columns = [name for name in key if name in frame.columns] or [
        name for name in ("name", "path", "id") if name in frame.columns
    ][:1]
    if not columns:
        return [f"row {row + 1}" for row in rows]
    return [", ".join(str(frame[name][row]) for name in columns) for row in rows]

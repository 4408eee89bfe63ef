"""Metrics of answers against the truth, each as an estimate that knows the influence of every row.

Arrays are numpy: probabilities [rows, classes], truth [rows]. A ratio of means, such as precision, moves with a row by
(numerator - ratio * denominator) / mean denominator; sums and roots follow by the chain rule.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rung.domain.errors import InvalidInput
from rung.stats.estimates import Estimate, average, mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Classes = NDArray[np.int64]

__all__ = ["Answers", "Overlap", "auc", "by_class", "classification", "confusion", "overlap", "regression"]

_LEAST_PROBABILITY = 1e-15
"""A probability of 0 for what then happens would cost infinitely much; it is counted as this one."""
_CLASSES_FOR_AUC = 100


class Answers(NamedTuple):
    """What a classifier said and what was right."""

    probabilities: "NDArray[np.floating]"
    """[rows, classes]; 0 for classes that it did not name."""
    truth: "Classes"
    """[rows], numbers of classes."""
    labels: tuple[str, ...]
    whole: bool = True
    """Whether the probabilities of a row add up to 1, so that log loss and Brier score mean something."""

    @property
    def said(self) -> "Classes":
        """The likeliest class of each row; of equal ones the first."""
        said: Classes = self.probabilities.argmax(axis=1)
        return said


class Overlap(NamedTuple):
    """How well one mask covers another."""

    iou: float
    dice: float
    accuracy: float
    """Share of pixels that are right."""


def classification(answers: Answers) -> Iterator[Estimate]:
    """The figures of all rows, `accuracy` first. Means over classes are over those that occur.

    Raises:
        InvalidInput: when there are no rows.
    """
    said, truth = answers.said, answers.truth
    yield mean("accuracy", (said == truth).astype(np.float64), "share")
    present = np.flatnonzero(np.bincount(truth, minlength=len(answers.labels)))
    for name in ("precision", "recall", "f1"):
        parts = [_of_class(name, said, truth, int(one), answers.labels) for one in present]
        yield average(name, parts)
        if name == "recall":
            # The same number under the name that many look for.
            yield average("balanced_accuracy", parts)
    if 2 <= len(present) <= _CLASSES_FOR_AUC:
        # Of two classes, both areas are equal.
        chosen = [1] if len(answers.labels) == 2 else present.tolist()
        yield average("auc", [auc(answers.probabilities[:, one], truth == one) for one in chosen])
    if answers.whole:
        right = answers.probabilities[np.arange(len(truth)), truth].astype(np.float64)
        yield mean("log_loss", -np.log(np.maximum(right, _LEAST_PROBABILITY)))
        # Half the squared distance: of two classes the usual score, from 0 to 1 for any number of them.
        squares = np.einsum("ij,ij->i", answers.probabilities, answers.probabilities, dtype=np.float64)
        yield mean("brier", np.clip((squares - 2 * right + 1) / 2, 0.0, 1.0), "share")


def by_class(answers: Answers) -> Iterator[Estimate]:
    """Precision, recall and F1 of each class that occurs."""
    said, truth = answers.said, answers.truth
    for one in np.flatnonzero(np.bincount(truth, minlength=len(answers.labels))):
        for name in ("precision", "recall", "f1"):
            yield _of_class(name, said, truth, int(one), answers.labels)


def confusion(answers: Answers) -> "Classes":
    """[classes, classes]: rows are the truth, columns what was said."""
    classes = len(answers.labels)
    cells = answers.truth * classes + answers.said
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def auc(scores: "NDArray[np.floating]", positive: "NDArray[np.bool_]") -> Estimate:
    """Chance that a positive row has a higher score than a negative one, ties half (DeLong et al., 1988).

    Raises:
        InvalidInput: when all rows are of one kind.
    """
    from scipy.stats import rankdata

    positives, rows = int(positive.sum()), len(positive)
    negatives = rows - positives
    if not positives or not negatives:
        raise InvalidInput("An area under the curve takes rows of both kinds.", field="positive")
    ranks = rankdata(scores)
    beaten = np.empty(rows)
    # Of each row, the share of the other kind on its right side.
    beaten[positive] = (ranks[positive] - rankdata(scores[positive])) / negatives
    beaten[~positive] = 1 - (ranks[~positive] - rankdata(scores[~positive])) / positives
    value = float(beaten[positive].mean())
    influence = (beaten - value) * np.where(positive, rows / positives, rows / negatives)
    return Estimate("auc", value, influence, "share", scarce=min(positives, negatives))


def regression(predicted: "Array", truth: "Array") -> Iterator[Estimate]:
    """The figures of all rows, `mae` first; `mape` only where no label is near 0, `r2` only where labels vary.

    Raises:
        InvalidInput: when there are no rows.
    """
    error = predicted - truth
    yield mean("mae", np.abs(error))
    square = mean("rmse", error * error)
    root = math.sqrt(square.value)
    yield Estimate("rmse", root, square.influence / (2 * root) if root else square.influence)
    deviation = truth - truth.mean()
    total = float((deviation * deviation).mean())
    if total > 0:
        ratio = float((error * error).mean()) / total
        yield Estimate("r2", 1 - ratio, -(error * error - ratio * deviation * deviation) / total, "gap")
    size = np.abs(truth)
    if size.min() > 1e-3 * size.mean():
        yield mean("mape", np.abs(error) / size)
    yield mean("bias", error, "free")


def overlap(mask: "NDArray[np.integer]", truth: "NDArray[np.integer]") -> Overlap:
    """Compare two masks [height, width] of class numbers, 0 being background.

    Mean over the classes that occur in either; 1 where neither holds anything.
    """
    classes = np.union1d(np.unique(mask), np.unique(truth))
    ious, dices = [], []
    for one in classes[classes != 0]:
        here, there = mask == one, truth == one
        both, areas = int((here & there).sum()), int(here.sum()) + int(there.sum())
        ious.append(both / (areas - both))
        dices.append(2 * both / areas)
    accuracy = float((mask == truth).mean())
    return Overlap(float(np.mean(ious)), float(np.mean(dices)), accuracy) if ious else Overlap(1.0, 1.0, accuracy)


def _of_class(name: str, said: "Classes", truth: "Classes", one: int, labels: tuple[str, ...]) -> Estimate:
    called, there = said == one, truth == one
    both = (called & there).astype(np.float64)
    counted, denominator = {
        "precision": (called, called.astype(np.float64)),
        "recall": (there, there.astype(np.float64)),
        "f1": (called | there, (called.astype(np.float64) + there) / 2),
    }[name]
    size = float(denominator.mean())
    if not size:
        # Never called: there is no precision, and it is counted as 0, as scikit-learn does.
        return Estimate(name, 0.0, np.zeros(len(said)), "share", there, scarce=int(there.sum()), of=labels[one])
    ratio = float(both.mean()) / size
    influence = (both - ratio * denominator) / size
    return Estimate(name, ratio, influence, "share", counted, scarce=int(counted.sum()), of=labels[one])

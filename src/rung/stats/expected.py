"""What a classifier's figures would be if its probabilities were right, without any label: confidence-based estimates.

With calibrated probabilities p of the classes, the likeliest is right with probability max p, so that the expected
accuracy is the mean of max p; each cell of the expected confusion matrix is a sum of probabilities, and F1 and AUC
follow (CBPE; NannyML's documentation; Guillory et al., Predicting with Confidence on Unseen Distributions, 2021).

All of it assumes that P(y | x) has not changed since the probabilities were calibrated. It sees that inputs became
harder; it cannot see that the same inputs now mean something else. It is an estimate, and never stands for a label.
"""

from typing import TYPE_CHECKING, Any

from rung.domain.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["auc", "confidence", "confusion", "f1"]


def confidence(probabilities: Any) -> "Array":
    """Probability that the likeliest class of each row is right; its mean is the expected accuracy.

    Args:
        probabilities: shape (rows, classes), adding up to 1, or (rows,): of the second of two classes.

    Returns:
        Shape (rows,).

    Raises:
        InvalidInput: these are no probabilities.
    """
    most: Array = _checked(probabilities).max(axis=1)
    return most


def confusion(probabilities: Any) -> "Array":
    """Expected number of rows by true class and likeliest class: shape (classes, classes).

    Raises:
        InvalidInput: these are no probabilities.
    """
    import numpy as np

    p = _checked(probabilities)
    cells = np.zeros((p.shape[1], p.shape[1]))
    np.add.at(cells.T, p.argmax(axis=1), p)
    return cells


def f1(probabilities: Any) -> float:
    """F1 of each class by the expected confusion matrix, averaged over the classes that are expected or named at all.

    Raises:
        InvalidInput: these are no probabilities.
    """
    import numpy as np

    cells = confusion(probabilities)
    both = cells.sum(axis=0) + cells.sum(axis=1)
    there = both > 0
    return float(np.mean(2 * cells.diagonal()[there] / both[there])) if there.any() else 0.0


def auc(probabilities: Any) -> float | None:
    """Expected chance that a row of the second class is ranked over one of the first; None where one is not expected.

    Every row is of the second class with its probability p and of the first with 1 - p; pairs of rows are weighted by
    the product, pairs with equal p count half.

    Args:
        probabilities: of two classes.

    Raises:
        InvalidInput: these are no probabilities of two classes.
    """
    import numpy as np

    whole = _checked(probabilities)
    if whole.shape[1] != 2:
        raise InvalidInput("The expected AUC is of two classes.", field="probabilities")
    values, counts = np.unique(whole[:, 1], return_counts=True)
    second, first = values * counts, (1 - values) * counts
    below = np.concatenate([[0.0], np.cumsum(first)[:-1]])
    # A row is not compared with itself.
    pairs = float(second.sum() * first.sum() - (counts * values * (1 - values)).sum())
    won = float((second * below + second * first / 2).sum() - (counts * values * (1 - values)).sum() / 2)
    return won / pairs if pairs > 0 else None


def _checked(probabilities: Any) -> "Array":
    import numpy as np

    p = np.asarray(probabilities, dtype=float)
    if p.ndim == 1:
        p = np.stack([1 - p, p], axis=1)
    # Written so that NaN is refused.
    if p.ndim != 2 or p.shape[1] < 2 or not ((p >= -1e-6) & (p <= 1 + 1e-6)).all():
        raise InvalidInput(
            "Probabilities have the shape (rows, classes) and lie between 0 and 1.", field="probabilities"
        )
    if not (abs(p.sum(axis=1) - 1) < 1e-3).all():
        raise InvalidInput("The probabilities of a row add up to 1.", field="probabilities")
    return p

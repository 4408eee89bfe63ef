"""Names of metrics: which task each belongs to, which way it gets better, and what it is measured in."""

import re
from typing import Literal

import msgspec

from rung.domain.errors import ConfigurationError

__all__ = ["METRICS", "Direction", "Measure", "default_metric", "direction", "measure", "task_of"]

Direction = Literal["maximize", "minimize"]


class Measure(msgspec.Struct, frozen=True):
    """One metric that `rung evaluate` knows."""

    name: str
    task: str
    direction: Direction
    about: str
    """What it says, in a few words."""
    unit: str = ""
    """What one is measured in; `label` stands for the unit of the label column; empty: a share or an index."""


_ALL = (
    Measure("accuracy", "classification", "maximize", "share of rows whose likeliest class is the right one"),
    Measure(
        "balanced_accuracy",
        "classification",
        "maximize",
        "the same as recall: mean over the classes of the share that was found",
    ),
    Measure(
        "precision",
        "classification",
        "maximize",
        "of the rows called a class, the share that is it; mean over the classes",
    ),
    Measure(
        "recall",
        "classification",
        "maximize",
        "of the rows of a class, the share that was found; mean over the classes",
    ),
    Measure(
        "f1", "classification", "maximize", "harmonic mean of precision and recall of each class; mean over the classes"
    ),
    Measure("auc", "classification", "maximize", "chance that a row of a class is ranked over one that is not of it"),
    Measure("log_loss", "classification", "minimize", "mean of -log of the probability of the right class", "nat"),
    Measure("brier", "classification", "minimize", "mean squared distance of the probabilities from the truth"),
    Measure("calibration_error", "classification", "minimize", "mean distance of confidence from share that is right"),
    Measure("mae", "regression", "minimize", "mean size of the error", "label"),
    Measure("rmse", "regression", "minimize", "root of the mean squared error", "label"),
    Measure("r2", "regression", "maximize", "share of the label's variance that is explained"),
    Measure("mape", "regression", "minimize", "mean size of the error as a share of the label"),
    Measure("iou", "segmentation", "maximize", "mean over pictures of overlap by union"),
    Measure("dice", "segmentation", "maximize", "mean over pictures of twice the overlap by both areas"),
    Measure("pixel_accuracy", "segmentation", "maximize", "mean over pictures of the share of right pixels"),
)
METRICS: dict[str, Measure] = {one.name: one for one in _ALL}
"""Name -> what `rung evaluate` knows of it. The first of a task is not its usual one; see `default_metric`."""

_USUAL = {"classification": "accuracy", "regression": "rmse", "segmentation": "iou"}
_LOW_IS_GOOD = {
    *("loss", "losses", "error", "errors", "err", "mae", "mse", "rmse", "mape", "smape", "rmsle", "nll", "perplexity"),
    *("brier", "deviance", "wer", "cer", "distance", "regret", "latency", "seconds"),
}


def measure(metric: str) -> Measure:
    """What is known of a metric.

    Raises:
        ConfigurationError: `rung evaluate` has no such metric; the message lists those there are.
    """
    try:
        return METRICS[metric]
    except KeyError:
        raise ConfigurationError(f"there is no metric {metric!r}; there are {', '.join(METRICS)}") from None


def direction(metric: str) -> Direction:
    """Which way a metric gets better, also one that only the user knows.

    `val_loss` and `test/mean_error` go by their words: losses, errors and times get better downward, all else upward.
    """
    known = METRICS.get(metric)
    if known is not None:
        return known.direction
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", metric).lower())
    return "minimize" if _LOW_IS_GOOD.intersection(words) else "maximize"


def task_of(task: str) -> str:
    """The task without what narrows it down: `text-classification` is a classification."""
    return task.rpartition("-")[2]


def default_metric(task: str) -> str:
    """The usual metric of a task; `loss` where there is none."""
    return _USUAL.get(task_of(task), "loss")

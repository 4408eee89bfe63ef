"""The picture of the story: how good answers were, by kind of picture, and who gave them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from users import Answer

__all__ = ["Mark", "draw"]

_COLOURS = ("#2563eb", "#d97706", "#2a7f4f", "#7c3aed")
_WINDOW = 25
"""Answers of which the mean is drawn."""


class Mark(NamedTuple):
    """Something that happened."""

    at: float
    """Seconds since the epoch."""
    name: str


def draw(seen: Sequence[Answer], marks: Sequence[Mark], kinds: Mapping[str, str], path: Path) -> Path:
    """Write the picture: IoU over time above, share of each version below."""
    from matplotlib.figure import Figure

    begun = seen[0].at
    figure = Figure(figsize=(13, 7.4), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1))
    for colour, (domain, name) in zip(_COLOURS, kinds.items(), strict=False):
        mine = [one for one in seen if one.domain == domain]
        times = np.array([one.at - begun for one in mine])
        values = np.array([one.iou for one in mine])
        above.plot(times, values, ".", color=colour, alpha=0.15, markersize=4)
        above.plot(times, _smooth(values), color=colour, linewidth=2, label=f"{name}, mean of {_WINDOW} answers")
    above.set_ylabel("overlap with the truth (IoU)")
    above.set_ylim(0, 1.02)
    above.legend(frameon=False, loc="lower right")
    _shares(below, seen, begun)
    for place, mark in enumerate(marks):
        at = mark.at - begun
        for axis in (above, below):
            axis.axvline(at, color="#9ca3af", linewidth=1, linestyle="--", zorder=0)
        # In steps, since several may happen within seconds.
        above.annotate(
            mark.name,
            (at, 1.02),
            xytext=(3, 6 + 13 * (place % 4)),
            textcoords="offset points",
            fontsize=9,
            color="#374151",
            annotation_clip=False,
        )
    for axis in (above, below):
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("The world moves, and the model follows", fontsize=14, x=0.01, ha="left")
    figure.savefig(path)
    return path


def _smooth(values: Any) -> Any:
    """Of each value and those before it, as a user would have met them lately."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - _WINDOW, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _shares(axis: Any, seen: Sequence[Answer], begun: float) -> None:
    times = np.array([one.at - begun for one in seen])
    edges = np.arange(0, times.max() + 5, 5)
    versions = sorted({one.version for one in seen})
    counts = [np.histogram(times[[one.version == v for one in seen]], edges)[0] for v in versions]
    whole = np.maximum(np.sum(counts, axis=0), 1)
    shares = [np.append(count / whole, 0) for count in counts]
    axis.stackplot(edges, *shares, step="post", colors=_COLOURS, alpha=0.6, labels=[f"version {v}" for v in versions])
    axis.set_ylim(0, 1)
    axis.set_ylabel("share of answers")
    axis.set_xlabel("seconds since the first user")
    axis.legend(frameon=False, loc="upper left", ncols=len(versions))

"""The picture of the story, on one time axis: how good answers were, how many, from how many replicas, how soon."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from users import Answer

__all__ = ["Mark", "draw"]

_COLOURS = ("#2563eb", "#d97706", "#2a7f4f", "#7c3aed")
_WINDOW = 25
"""Answers of which the mean is drawn."""
_STEP = 5.0
"""Seconds that are counted together."""


class Mark(NamedTuple):
    """Something that happened."""

    at: float
    """Seconds since the epoch."""
    name: str


def draw(
    seen: Sequence[Answer],
    marks: Sequence[Mark],
    kinds: Mapping[str, str],
    replicas: Sequence[tuple[float, int]],
    path: Path,
) -> Path:
    """Write the picture. `replicas` are those that answered, with the times at which they were counted."""
    from matplotlib.figure import Figure

    begun = seen[0].at
    figure = Figure(figsize=(13, 11), dpi=110, layout="constrained")
    panels = figure.subplots(5, 1, sharex=True, height_ratios=(2.6, 1, 0.7, 1, 1))
    quality, load, count, latency, versions = panels
    for colour, (domain, name) in zip(_COLOURS, kinds.items(), strict=False):
        mine = [one for one in seen if one.domain == domain]
        times = np.array([one.at - begun for one in mine])
        values = np.array([one.iou for one in mine])
        quality.plot(times, values, ".", color=colour, alpha=0.15, markersize=4)
        quality.plot(times, _smooth(values), color=colour, linewidth=2, label=f"{name}, mean of {_WINDOW} answers")
    quality.set_ylabel("overlap with the\ntruth (IoU)")
    quality.set_ylim(0, 1.02)
    quality.legend(frameon=False, loc="lower right")
    times = np.array([one.at - begun for one in seen])
    edges = np.arange(0, times.max() + _STEP, _STEP)
    load.stairs(np.histogram(times, edges)[0] / _STEP, edges, fill=True, color="#9ca3af")
    load.set_ylabel("answers\na second")
    at, alive = np.array([(at - begun, alive) for at, alive in replicas]).T
    count.step(at, alive, where="post", color="#b3261e", linewidth=1.5)
    count.set_ylim(0, max(alive) + 0.5)
    count.yaxis.get_major_locator().set_params(integer=True)
    count.set_ylabel("replicas")
    _percentiles(latency, times, np.array([one.seconds for one in seen]) * 1e3)
    _shares(versions, seen, times, edges)
    for place, mark in enumerate(marks):
        at = mark.at - begun
        for axis in panels:
            axis.axvline(at, color="#9ca3af", linewidth=1, linestyle="--", zorder=0)
        # In steps, since several may happen within seconds.
        quality.annotate(
            mark.name,
            (at, 1.02),
            xytext=(3, 6 + 13 * (place % 5)),
            textcoords="offset points",
            fontsize=9,
            color="#374151",
            annotation_clip=False,
        )
    for axis in panels:
        axis.spines[["top", "right"]].set_visible(False)
    panels[-1].set_xlabel("seconds since the first user")
    panels[-1].set_xlim(0, times.max())
    figure.align_ylabels(panels)
    figure.suptitle("The world moves, and the model follows", fontsize=14, x=0.01, ha="left")
    figure.savefig(path)
    return path


def _smooth(values: Any) -> Any:
    """Of each value and those before it, as a user would have met them lately."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - _WINDOW, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _percentiles(axis: Any, times: Any, milliseconds: Any) -> None:
    """Of the answers of each few seconds; where there are too few for the larger one, it is the slowest."""
    starts = np.arange(0, times.max(), _STEP)
    parts = [milliseconds[(times >= start) & (times < start + _STEP)] for start in starts]
    there = [(start + _STEP / 2, part) for start, part in zip(starts, parts, strict=True) if len(part)]
    for share, style in ((50, "-"), (99, ":")):
        values = [np.percentile(part, share) for _, part in there]
        axis.plot([at for at, _ in there], values, style, color="#2a7f4f", linewidth=1.3, label=f"p{share}")
    axis.set_yscale("log")
    axis.set_ylabel("latency, ms")
    axis.legend(frameon=False, loc="upper left", ncols=2)


def _shares(axis: Any, seen: Sequence[Answer], times: Any, edges: Any) -> None:
    versions = sorted({one.version for one in seen})
    counts = [np.histogram(times[[one.version == v for one in seen]], edges)[0] for v in versions]
    whole = np.maximum(np.sum(counts, axis=0), 1)
    shares = [np.append(count / whole, 0) for count in counts]
    axis.stackplot(edges, *shares, step="post", colors=_COLOURS, alpha=0.6, labels=[f"version {v}" for v in versions])
    axis.set_ylim(0, 1)
    axis.set_ylabel("share of\nanswers")
    axis.legend(frameon=False, loc="upper left", ncols=len(versions))

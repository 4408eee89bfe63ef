"""Pictures of replayed traces: load, replicas and latency over time, in the world and on paper."""

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["draw"]

_COLOURS = ["#b3261e", "#6b6b6b", "#d97706", "#2563eb", "#2a7f4f"]


def draw(shape: str, times: np.ndarray, seconds: float, found: dict[str, dict[str, Any]], path: Path) -> None:
    """Three panels; the simulation is dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 9), dpi=110, layout="constrained")
    load, replicas, latency = figure.subplots(3, 1, sharex=True, height_ratios=[2, 3, 3])
    counts, edges = np.histogram(times, bins=np.arange(0.0, seconds + 1.0, 1.0))
    load.fill_between(edges[:-1], counts, step="post", color="#9ca3af", linewidth=0)
    load.set_title(f"{shape}: requests a second", fontsize=10)
    for colour, (name, both) in zip(_COLOURS, found.items(), strict=True):
        for where, style in (("real", "-"), ("paper", ":")):
            one = both[where]
            label = name if where == "real" else None
            replicas.step(one.at, one.replicas, style, where="post", color=colour, label=label, linewidth=1.2)
            at, p99 = _p99(np.array(one.due), np.array(one.latency), seconds)
            latency.plot(at, p99, style, color=colour, linewidth=1.2)
    replicas.set_title("replicas paid for; dotted: on paper", fontsize=10)
    replicas.set_ylim(bottom=0)
    replicas.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    latency.set_title("99th percentile of the requests of 2 seconds, ms", fontsize=10)
    latency.set_yscale("log")
    latency.set_xlabel("seconds")
    latency.set_xlim(0, seconds)
    for axis in (load, replicas, latency):
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        axis.grid(axis="y", color="#eeeeee", linewidth=0.6)
    figure.savefig(path)


def _p99(due: np.ndarray, latency: np.ndarray, seconds: float) -> tuple[list[float], list[float]]:
    at, found = [], []
    for start in np.arange(0.0, seconds, 2.0):
        some = latency[(due >= start) & (due < start + 2.0) & ~np.isnan(latency)]
        if len(some):
            at.append(float(start) + 1.0)
            found.append(float(np.quantile(some, 0.99)) * 1e3)
    return at, found

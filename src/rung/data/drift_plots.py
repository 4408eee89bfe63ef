"""The pictures of a report on drift, as PNG files in memory: before and now, and how far columns moved."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.data.drift import Examined
from rung.data.drift_reference import Column, counts_of, names_of, numbers_of
from rung.domain.drift import ColumnDrift, Window
from rung.domain.errors import MissingDependency

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes

__all__ = ["draw", "ranked", "title"]

_GREY, _BLUE, _RED, _LIGHT, _INK = "#9ca3af", "#2563eb", "#b3261e", "#d1d5db", "#374151"
_COLOURS = (_BLUE, "#d97706", "#2a7f4f", "#7c3aed", "#0891b2", "#be185d")
_DPI = 120
_SHOWN, _MOVED, _BARS, _CELLS = 6, 24, 10, 40


def draw(found: Examined) -> dict[str, bytes]:
    """File name -> PNG; only those for which there is something to show.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: F401 - asked for once, here
    except ImportError:
        raise MissingDependency("pictures need matplotlib: install rung[platform]") from None
    report = found.report
    if not report.inputs:
        return {}
    pictures = {"effects.png": _effects(report.inputs[-1])}
    if len(report.inputs) > 1:
        pictures["windows.png"] = _over_windows(report.inputs)
    columns = [one for one in ranked(report.inputs[-1]) if one.kind in ("number", "category")][:_SHOWN]
    if columns:
        pictures["columns.png"] = _columns(found, columns)
    return pictures


def ranked(window: Window) -> list[ColumnDrift]:
    """The columns of a window, those that surely moved furthest first."""
    return sorted(window.columns, key=lambda one: (-one.strength, -one.size, one.column))


def title(one: ColumnDrift) -> str:
    """What was tested, in words."""
    return f"{one.column} (missing)" if one.kind == "nulls" else one.column


def _effects(window: Window) -> bytes:
    """Each column's effect and its lower bound, in margins."""
    shown = ranked(window)[:_MOVED]
    canvas, axes = _canvas(1, 1, 8.6, 1.1 + 0.27 * len(shown))
    axis = axes[0]
    for place, one in enumerate(shown):
        colour = {"drifted": _RED, "quiet": _BLUE}.get(one.verdict, _GREY)
        axis.plot([one.strength, max(one.size, one.strength)], [place, place], color=colour, linewidth=2)
        axis.plot([one.strength], [place], color=colour, marker="|", markersize=9, markeredgewidth=2)
        axis.plot([max(one.size, one.strength)], [place], color=colour, marker="o", markersize=4.5)
    axis.axvline(1, color=_INK, linewidth=0.9, linestyle="--")
    names = {"drifted": _RED, "quiet": _BLUE, "underpowered": _GREY}
    for name, colour in names.items():
        if any(one.verdict == name for one in shown):
            axis.plot([], [], color=colour, marker="o", markersize=4.5, label=name)
    axis.plot([], [], color=_INK, linewidth=0.9, linestyle="--", label="margin")
    axis.set_yticks(range(len(shown)), [_plain(title(one), 34) for one in shown])
    axis.set_ylim(len(shown) - 0.4, -0.6)
    axis.set_xlim(left=0)
    axis.set_xlabel("effect in margins: a bar is the lower bound, a dot what was measured")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _png(canvas)


def _over_windows(windows: Sequence[Window]) -> bytes:
    """The lower bounds of the strongest columns, window by window."""
    best: dict[str, float] = {}
    for window in windows:
        for one in window.columns:
            best[title(one)] = max(best.get(title(one), 0.0), one.strength)
    # Of those that never moved one is as good as another.
    names = sorted((name for name in best if best[name] > 0), key=lambda name: -best[name])[:_SHOWN]
    names = names or list(best)[:1]
    canvas, axes = _canvas(1, 1, 8.6, 2.9)
    axis = axes[0]
    for name, colour in zip(names, _COLOURS, strict=False):
        own = [{title(one): one.strength for one in window.columns}.get(name, 0.0) for window in windows]
        look: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4.5, "linewidth": 1.4}
        axis.plot(range(len(windows)), own, label=_plain(name, 34), **look)
    axis.axhline(1, color=_INK, linewidth=0.9, linestyle="--", label="margin")
    axis.set_xticks(range(len(windows)), [f"{_moment(one.end)}\n{one.rows:,} rows" for one in windows])
    axis.set_xlim(-0.3, len(windows) - 0.7)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("lower bound in margins")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _png(canvas)


def _columns(found: Examined, columns: Sequence[ColumnDrift]) -> bytes:
    across = min(2, len(columns))
    down = -(-len(columns) // across)
    canvas, axes = _canvas(down, across, 4.3 * across, 2.3 * down)
    for axis, one in zip(axes, columns, strict=False):
        before, now = found.reference.columns[one.column], found.windows[-1][one.column]
        if before.values is not None:
            _histograms(axis, before, now)
        else:
            _bars(axis, before, now)
        axis.set_title(_plain(one.column, 40), fontsize=9, color=_RED if one.verdict == "drifted" else _INK, loc="left")
    for axis in axes[len(columns) :]:
        axis.set_axis_off()
    handles, names = axes[0].get_legend_handles_labels()
    canvas.legend(handles, names, frameon=False, fontsize=8, loc="outside upper right", ncols=2)
    return _png(canvas)


def _histograms(axis: "Axes", before: Column, now: "pl.Series") -> None:
    assert before.values is not None
    values, _ = numbers_of(now)
    if before.ends is not None:
        values = values.clip(*before.ends)
    # Far values would flatten all the rest.
    ends = [np.quantile(one, (0.005, 0.995)) for one in (before.values, values) if one.size]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    edges = np.linspace(low, high if high > low else low + 1, _CELLS + 1)
    if high - low <= _CELLS and (before.values == np.rint(before.values)).all():
        edges = np.arange(np.floor(low) - 0.5, np.ceil(high) + 1)
    for one, colour, name in ((before.values, _GREY, "before"), (values, _BLUE, "now")):
        share = np.histogram(one.clip(edges[0], edges[-1]), edges)[0] / max(1, one.size)
        axis.stairs(share, edges, fill=True, color=colour, alpha=0.35)
        axis.stairs(share, edges, color=colour, linewidth=1.2, label=name)
    axis.set_ylim(bottom=0)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)


def _bars(axis: "Axes", before: Column, now: "pl.Series") -> None:
    texts, _ = names_of(now)
    counts = counts_of(texts)
    whole, here = max(1.0, sum(before.counts.values())), max(1, texts.len())
    both = {name: before.counts.get(name, 0) / whole + counts.get(name, 0) / here for name in (*before.counts, *counts)}
    names = sorted(both, key=lambda name: -both[name])[:_BARS]
    # Numbers stand in their own order, words in that of their counts.
    if all(_number(name) is not None for name in names):
        names.sort(key=lambda name: _number(name) or 0.0)
    places = np.arange(len(names))
    axis.barh(places - 0.2, [before.counts.get(name, 0) / whole for name in names], 0.38, color=_GREY, label="before")
    axis.barh(places + 0.2, [counts.get(name, 0) / here for name in names], 0.38, color=_BLUE, label="now")
    axis.set_yticks(places, [_plain(name, 18) for name in names])
    axis.invert_yaxis()
    axis.set_xlabel("share")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _plain(text: str, most: int) -> str:
    text = text if len(text) <= most else f"{text[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
    return text.replace("$", r"\$")


def _moment(time: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(time, UTC):%b %d, %H:%M}"


def _canvas(down: int, across: int, width: float, height: float) -> "tuple[Any, list[Any]]":
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes: list[Any] = list(canvas.subplots(down, across, squeeze=False).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, length=2)
        for label in (axis.xaxis.label, axis.yaxis.label):
            label.set(fontsize=9, color=_INK)
    return canvas, axes


def _png(canvas: Any) -> bytes:
    buffer = io.BytesIO()
    # Without the version of matplotlib, equal figures give equal files.
    canvas.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()

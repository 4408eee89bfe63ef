"""The pictures of a report on live quality, as PNG files in memory. Truth and estimate have charts of their own."""

import io
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rung.domain.errors import MissingDependency
from rung.domain.quality import Cohort, QualityReport
from rung.domain.scorecards import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_COLOURS = ("#2563eb", "#d97706", "#2a7f4f", "#7c3aed", "#0891b2", "#be185d")
_RED, _GREY, _LIGHT = "#b3261e", "#6b7280", "#d1d5db"
_DPI = 120
_UNITS = (
    (300.0, 1.0, "seconds"),
    (3 * 3_600.0, 60.0, "minutes"),
    (3 * 86_400.0, 3_600.0, "hours"),
    (float("inf"), 86_400.0, "days"),
)
"""Up to which length which unit fits."""


def draw(report: QualityReport) -> dict[str, bytes]:
    """File name -> PNG; only those for which there is something to show.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: F401 - asked for once, here
    except ImportError:
        raise MissingDependency("pictures need matplotlib: install rung[platform]") from None
    pictures = {}
    if any(one.quality for one in report.cohorts):
        pictures["quality.png"] = _picture(lambda axes: _truth(axes, report, "quality"))
    if any(one.error for one in report.cohorts):
        pictures["error.png"] = _picture(lambda axes: _truth(axes, report, "error"))
    if report.delay.arrived:
        pictures["delay.png"] = _picture(lambda axes: _delay(axes, report))
    if report.coverage:
        height = 0.9 + 0.32 * len(report.coverage)
        pictures["coverage.png"] = _picture(lambda axes: _coverage(axes, report), height)
    if report.estimates:
        pictures["estimate.png"] = _picture(lambda axes: _estimate(axes, report))
    return pictures


def _truth(axes: "Axes", report: QualityReport, name: str) -> None:
    """Mature cohorts with their intervals; where others lie, only that they do."""
    versions = sorted({one.version for one in report.cohorts})
    for number, version in enumerate(versions):
        own = [one for one in report.cohorts if one.version == version and getattr(one, name)]
        if own:
            figures = [getattr(one, name) for one in own]
            _series(axes, own, figures, _place(number, len(versions)), f"version {version}", {"fmt": "o-"})
    watch = report.detector
    if name == "quality" and watch is not None and watch.limit is not None:
        axes.axhline(
            1 - watch.limit, color=_RED, linestyle="--", linewidth=1, label=f"limit of version {watch.version}"
        )
    young = [one for one in report.cohorts if not one.mature]
    if young:
        low, high = min(one.start for one in young), max(one.end for one in young)
        axes.axvspan(_day(low), _day(high), color=_LIGHT, alpha=0.5, linewidth=0, label="not mature yet")  # type: ignore[arg-type]
    if watch is not None and watch.alarm and watch.began is not None:
        axes.axvline(_day(watch.began), color=_RED, linewidth=1.2, label="rise of the loss began, about")  # type: ignore[arg-type]
    axes.set_ylabel({"quality": "quality", "error": "mean absolute error"}[name])
    _time_axis(axes, report)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _series(
    axes: "Axes", cohorts: Sequence[Any], figures: Sequence[Figure], place: tuple[str, float], label: str, style: Any
) -> None:
    colour, shift = place
    middles = [_day(one.start + (one.end - one.start) * (0.5 + shift)) for one in cohorts]
    values = [one.value for one in figures]
    ends = [[one.value - one.low for one in figures], [one.high - one.value for one in figures]]
    look = {"color": colour, "markersize": 4, "linewidth": 1, "elinewidth": 1.2, "capsize": 2, **style}
    axes.errorbar(middles, values, ends, label=label, **look)  # type: ignore[arg-type]


def _place(number: int, of: int) -> tuple[str, float]:
    """Colour of a version, and its distance from the middle of a cohort: several stand side by side."""
    return _COLOURS[number % len(_COLOURS)], (number - (of - 1) / 2) * 0.12


def _estimate(axes: "Axes", report: QualityReport) -> None:
    versions = sorted({one.version for one in report.estimates})
    for number, version in enumerate(versions):
        own = [one for one in report.estimates if one.version == version]
        style = {"fmt": "D:", "markerfacecolor": "white"}
        _series(axes, own, [one.accuracy for one in own], _place(number, len(versions)), f"version {version}", style)
    axes.set_ylabel("expected accuracy")
    axes.set_title("estimated, not measured", loc="right", fontsize=9, color=_GREY)
    _time_axis(axes, report)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _delay(axes: "Axes", report: QualityReport) -> None:
    longest = max(report.delay.arrived[-1][0], report.maturity_seconds or 0.0)
    size, unit = next((size, unit) for limit, size, unit in _UNITS if longest < limit)
    # Where nearly all get a label the two lie upon each other.
    for points, label, colour, line in (
        (report.delay.curve, "of the labels that come at all", _COLOURS[0], "-"),
        (report.delay.arrived, "of all predictions", _COLOURS[1], "--"),
    ):
        if points:
            x = [0.0, *(seconds / size for seconds, _ in points), longest * 1.05 / size]
            y = [0.0, *(share for _, share in points), points[-1][1]]
            axes.step(x, y, where="post", color=colour, linestyle=line, label=label)
    if report.maturity_seconds is not None:
        axes.axvline(
            report.maturity_seconds / size, color=_RED, linestyle="--", linewidth=1, label="mature from here on"
        )
    axes.set_xlabel(f"age of a prediction in {unit}")
    axes.set_ylabel("share with a label")
    axes.set_ylim(0, 1.03)
    axes.set_xlim(0, longest * 1.05 / size)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _coverage(axes: "Axes", report: QualityReport) -> None:
    arms = list(report.coverage)
    bars = axes.barh(range(len(arms)), [one.coverage for one in arms], color=_COLOURS[0], height=0.5)
    axes.bar_label(bars, [f"{one.labelled:,} of {one.predictions:,}" for one in arms], padding=4, fontsize=8)
    axes.set_yticks(range(len(arms)), [f"{one.arm or 'all'}, version {one.version}" for one in arms])
    axes.set_ylim(len(arms) - 0.3, -0.7)
    axes.set_xlim(0, 1.15)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_xlabel("share of mature predictions with a label")
    axes.grid(visible=False, axis="y")


def _time_axis(axes: "Axes", report: QualityReport) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    cohorts: Sequence[Cohort] = report.cohorts
    locator = AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    axes.set_xlim(_day(cohorts[0].start), _day(max(one.end for one in cohorts)))  # type: ignore[arg-type]


def _day(time: float) -> datetime:
    return datetime.fromtimestamp(time, UTC)


def _picture(paint: Callable[["Axes"], None], height: float = 3.0) -> bytes:
    from matplotlib.figure import Figure as Canvas

    figure = Canvas(figsize=(8.6, height), dpi=_DPI, layout="constrained")
    axes: Any = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8, length=2)
    axes.grid(axis="y", color=_LIGHT, linewidth=0.5)
    axes.set_axisbelow(True)
    paint(axes)
    for label in (axes.xaxis.label, axes.yaxis.label, axes.xaxis.get_offset_text()):
        label.set(fontsize=9, color=_GREY)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

"""The picture of an experiment: its units, and how the interval of every guard has narrowed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rung.domain.errors import InvalidInput, MissingDependency
from rung.domain.rules import Rule
from rung.fleet.report import GuardState, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_COLOURS = {"pass": "#2a7f4f", "fail": "#b3261e", "inconclusive": "#6b6b6b"}
_ARMS = {"canary": "#d97706", "baseline": "#2563eb", "stable": "#9ca3af", "shadow": "#7c3aed"}


def draw(report: Report, rules: dict[str, Rule], path: Path) -> None:
    """Write a picture, PNG or SVG by the name of `path`.

    Raises:
        MissingDependency: matplotlib is not installed.
        InvalidInput: there is nothing to draw yet, or no such kind of picture.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("pictures need matplotlib: install rung[platform]") from None
    if path.suffix not in {".png", ".svg"}:
        raise InvalidInput(f"{path.name} is no picture that can be written: use .png or .svg", field="plot")
    if not report.course:
        raise InvalidInput("nothing was answered in this experiment yet, so there is nothing to draw", field="plot")
    panels = 1 + len(report.guards)
    figure = Figure(figsize=(5.2 * panels, 3.8), dpi=110, layout="constrained")
    axes: Any = figure.subplots(1, panels, squeeze=False)[0]
    _units(axes[0], report)
    for axis, state in zip(axes[1:], report.guards, strict=True):
        _guard(axis, report, state, rules[state.name])
    release = report.release
    what = f"version {release.rollout.candidate} at {release.rollout.percent:g} %" if release.rollout else "a split"
    figure.suptitle(f"{release.model}: {what}{' (over)' if report.over else ''}", fontsize=12)
    figure.savefig(path)


def _units(axis: "Axes", report: Report) -> None:
    names = [name for name in _ARMS if any(name in moment.units for moment in report.course)]
    for name in names:
        points = [(moment.seconds / 60, moment.units.get(name, 0)) for moment in report.course]
        # The two that are compared lie upon each other, if all is well.
        style = "--" if name == "canary" else "-"
        axis.plot(
            *zip(*points, strict=True), color=_ARMS[name], label=name, linestyle=style, zorder=2 + (style == "--")
        )
    axis.set_title("units so far", fontsize=10)
    axis.set_xlabel("minutes since it began")
    axis.set_yscale("symlog")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8)
    _clean(axis)


def _guard(axis: "Axes", report: Report, state: GuardState, rule: Rule) -> None:
    found = [(moment.units.get("canary", 0), *moment.guards.get(state.name, (None,) * 3)) for moment in report.course]
    known = [(units, middle, low, high) for units, middle, low, high in found if units and middle is not None]
    colour = _COLOURS[state.verdict.outcome]
    ratio = rule.metric.kind == "quantile"
    least, most = _range(known, rule)
    if known:
        units, middle, low, high = zip(*known, strict=True)
        lows = [least if one is None else one for one in low]
        highs = [most if one is None else one for one in high]
        axis.fill_between(units, lows, highs, color=colour, alpha=0.2, linewidth=0)
        axis.plot(units, middle, color=colour, marker=".", markersize=3)
    else:
        axis.text(0.5, 0.5, "no data yet", ha="center", va="center", transform=axis.transAxes, color="#6b6b6b")
    axis.axhline(1.0 if ratio else 0.0, color="#111111", linewidth=0.8)
    limit = _limit(rule)
    axis.axhline(limit, color=_COLOURS["fail"], linewidth=0.8, linestyle="--")
    axis.annotate(
        "harm that matters", (0.98, limit), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=7
    )
    axis.set_ylim(least, most)
    what = f"p{100 * rule.quantile:g}, times the baseline's" if ratio else "canary less baseline, per unit"
    axis.set_title(f"{state.name}: {state.verdict.outcome}\n{what}", fontsize=10, color=colour)
    axis.set_xlabel("canary units")
    _clean(axis)


def _limit(rule: Rule) -> float:
    if rule.metric.kind == "quantile":
        return rule.ratio
    harm = rule.margin if rule.tolerance is None else rule.tolerance
    return harm if rule.metric.worse == "higher" else -harm


def _range(known: list[tuple[int, float, float | None, float | None]], rule: Rule) -> tuple[float, float]:
    """What the axis shows: the limit, and the interval as it is now, with room for some of its past."""
    centre = 1.0 if rule.metric.kind == "quantile" else 0.0
    reach = 2 * abs(_limit(rule) - centre)
    if known:
        _, middle, low, high = known[-1]
        ends = [one for one in (middle, low, high) if one is not None]
        reach = max(reach, *(1.6 * abs(one - centre) for one in ends))
    return centre - reach, centre + reach


def _clean(axis: "Axes") -> None:
    axis.tick_params(labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)

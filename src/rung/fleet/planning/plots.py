"""The picture of a plan: the load, the replicas and latency of each policy over time, and the knee of one replica."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.domain.errors import InvalidInput, MissingDependency
from rung.domain.tensors import Array
from rung.fleet.planning.planner import Option, Plan, Question

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_COLOURS = {
    "autoscaled": "#2563eb",
    "predictive": "#2a7f4f",
    "fixed": "#6b6b6b",
    "threshold": "#d97706",
    "least": "#b3261e",
    "function": "#7c3aed",
}
_PANELS = 4
_POINTS = 150
_BEYOND = 3.0
"""Times the others' most at which the plain rule would make them a line at the bottom."""


def draw(question: Question, plan: Plan, path: Path) -> None:
    """Write a picture, PNG or SVG by the name of `path`.

    Raises:
        MissingDependency: matplotlib is not installed.
        InvalidInput: there is no such kind of picture.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("pictures need matplotlib: install rung[platform]") from None
    if path.suffix not in {".png", ".svg"}:
        raise InvalidInput(f"{path.name} is no picture that can be written: use .png or .svg", field="out")
    figure = Figure(figsize=(11, 12), dpi=110, layout="constrained")
    load, replicas, latency, knee = figure.subplots(_PANELS, 1, height_ratios=[2, 3, 3, 3])
    unit, name = _unit(question.trace.seconds)
    shown = _shown(plan)
    _load(load, question, unit)
    for option in shown:
        style = {"color": _COLOURS[option.policy], "label": f"{option.policy}, {option.platform}", "linewidth": 1.2}
        replicas.step(option.at / unit, option.replicas, where="post", **style)
        latency.plot(*_thinned(option.at / unit, option.latency * 1e3), **style)
    top = max((option.most for option in shown if option.policy != "threshold"), default=1)
    beyond = [option.policy for option in shown if option.most > _BEYOND * top]
    above = f"; {beyond[0]} goes up to {max(one.most for one in shown):,}, above the picture" if beyond else ""
    replicas.set_title(f"replicas paid for{above}", fontsize=10)
    replicas.set_ylim(0, (1.1 if beyond else 1.05) * (top if beyond else max(one.most for one in shown)))
    latency.set_title("99th percentile of what came in, ms", fontsize=10)
    latency.set_yscale("log")
    latency.axhline(question.objective * 1e3, color="#111111", linestyle=":", linewidth=1, label="objective")
    for axis in (load, replicas, latency):
        axis.set_xlim(0, question.trace.seconds / unit)
        axis.set_xlabel(name)
        _clean(axis)
    for axis in (replicas, latency):
        axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _knee(knee, question, plan)
    figure.savefig(path)


def _thinned(at: Array, values: Array) -> tuple[Array, Array]:
    """The largest of every few points, so that lines can be told apart; gaps stay gaps."""
    together = max(len(at) // _POINTS, 1)
    whole = len(at) // together * together
    groups = values[:whole].reshape(-1, together)
    largest = np.where(np.isnan(groups).all(axis=1), np.nan, np.nanmax(np.nan_to_num(groups, nan=-1.0), axis=1))
    return at[:whole:together], largest


def _shown(plan: Plan) -> Sequence[Option]:
    """Every policy once: on the platform of the cheapest option, else on the first."""
    chosen: dict[str, Option] = {}
    for option in plan.options:
        better = plan.best is not None and option.platform == plan.best.platform
        if option.policy not in chosen or better:
            chosen[option.policy] = option
    return list(chosen.values())


def _unit(seconds: float) -> tuple[float, str]:
    for unit, name in ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= 2 * unit:
            return unit, name
    return 1.0, "seconds"


def _load(axis: "Axes", question: Question, unit: float) -> None:
    trace = question.trace
    at = (np.arange(len(trace.counts)) + 0.5) * trace.width / unit
    axis.fill_between(at, trace.rates, color="#9ca3af", linewidth=0)
    axis.set_title(f"requests a second: {trace.name}", fontsize=10)
    axis.set_ylim(bottom=0)


def _knee(axis: "Axes", question: Question, plan: Plan) -> None:
    curve = plan.curve
    axis.plot(curve.loads * curve.capacity, curve.p99() * 1e3, color="#2563eb", marker="o", markersize=3)
    axis.axhline(question.objective * 1e3, color="#111111", linestyle=":", linewidth=1)
    if plan.knee:
        axis.axvline(plan.knee, color="#2a7f4f", linewidth=1)
        axis.annotate(f" {plan.knee:.3g}/s", (plan.knee, question.objective * 1e3), color="#2a7f4f", fontsize=9)
    axis.set_title("99th percentile of one replica by its load, ms; dotted: the objective", fontsize=10)
    axis.set_xlabel("requests a second to a replica")
    axis.set_yscale("log")
    _clean(axis)


def _clean(axis: Any) -> None:
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", color="#eeeeee", linewidth=0.6)

"""The pictures of a study: how it went, and which parameters matter."""

from pathlib import Path
from typing import Any

from rung.domain.errors import MissingDependency
from rung.domain.studies import StudyResult, TrialResult

__all__ = ["draw"]

_INK, _GREY, _BLUE, _RED, _AMBER = "#1f2937", "#9ca3af", "#2563eb", "#b3261e", "#d97706"


def draw(result: StudyResult, folder: Path) -> list[Path]:
    """Write `history.png` and `importance.png` into `folder`; leaves out what there is nothing to say about.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependency("pictures need matplotlib: install rung[platform]") from None
    made: list[Path] = []

    def save(name: str, height: float, fill: Any) -> None:
        figure = Figure(figsize=(7.2, height), dpi=120, layout="constrained")
        axis = figure.subplots()
        axis.tick_params(labelsize=8, colors=_INK)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        fill(axis)
        draft = folder / f".{name}"
        figure.savefig(draft, format="png")
        made.append(draft.replace(folder / name))

    if any(trial.value is not None for trial in result.trials):
        save("history.png", 3.6, lambda axis: _history(axis, result))
    if result.importance:
        save("importance.png", 1.1 + 0.4 * len(result.importance), lambda axis: _importance(axis, result))
    return made


def _history(axis: Any, result: StudyResult) -> None:
    plan = result.plan
    complete = _of(result, "complete")
    pruned = [trial for trial in _of(result, "pruned") if trial.value is not None]
    if pruned:
        label = f"pruned ({len(pruned)}), at their last report"
        axis.scatter(*_points(pruned), s=18, marker="x", color=_AMBER, label=label)
    axis.scatter(*_points(complete), s=20, color=_GREY, label=f"complete ({len(complete)})")
    best: list[float] = []
    for trial in complete:
        assert trial.value is not None
        better = min if plan.minimize else max
        best.append(better(best[-1], trial.value) if best else trial.value)
    last = max((trial.number for trial in result.trials), default=0)
    numbers = [trial.number for trial in complete]
    axis.step([*numbers, last], [*best, *best[-1:]], where="post", color=_BLUE, lw=1.6, label="best so far")
    if result.best is not None:
        axis.scatter([result.best.number], [result.best.value], s=70, facecolors="none", edgecolors=_BLUE, lw=1.6)
        axis.annotate(
            f"trial {result.best.number}: {result.best.value:.4g}",
            (result.best.number, result.best.value),
            textcoords="offset points",
            xytext=(0, 9 if not plan.minimize else -15),
            ha="center",
            fontsize=8,
            color=_BLUE,
        )
    for trial in _of(result, "failed"):
        axis.axvline(trial.number, color=_RED, lw=0.8, ls=":", label=None)
    if count := result.count("failed"):
        axis.plot([], [], color=_RED, lw=0.8, ls=":", label=f"failed ({count})")
    axis.margins(0.05, 0.15)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("trial", fontsize=9, color=_INK)
    way = "lower is better" if plan.minimize else "higher is better"
    axis.set_ylabel(f"{plan.metric} ({way})", fontsize=9, color=_INK)
    axis.set_title(f"{result.study}: {plan.sampler}, pruner {plan.pruner}", fontsize=10, color=_INK, loc="left")
    # Below the axis: there is no place in it where no trial may lie.
    axis.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4)


def _importance(axis: Any, result: StudyResult) -> None:
    names = list(result.importance)[::-1]
    shares = [result.importance[name] for name in names]
    axis.barh(names, shares, color=_BLUE, height=0.6)
    for place, share in enumerate(shares):
        where = {"textcoords": "offset points", "xytext": (4, 0), "va": "center"}
        axis.annotate(f"{share:.0%}", (share, place), fontsize=8, color=_INK, **where)
    axis.set_xlim(0, max(shares) * 1.15 or 1)
    axis.set_xticks([])
    axis.spines["bottom"].set_visible(False)
    count = len(_of(result, "complete"))
    title = f"{result.study}: what makes {result.plan.metric} differ, from {count} trials"
    axis.set_title(title, fontsize=10, color=_INK, loc="left")


def _of(result: StudyResult, state: str) -> list[TrialResult]:
    return [trial for trial in result.trials if trial.state == state]


def _points(trials: list[TrialResult]) -> tuple[list[int], list[float]]:
    return [trial.number for trial in trials], [trial.value for trial in trials if trial.value is not None]

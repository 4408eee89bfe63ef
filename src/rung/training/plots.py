"""Pictures of runs: metrics over steps, one panel a metric, one line a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rung.domain.errors import InvalidInput
from rung.training.runs import SYSTEM, Point

__all__ = ["draw_runs"]

_COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")

_TITLES = {
    f"{SYSTEM}cpu": "processor, % of one core",
    f"{SYSTEM}memory_mib": "memory, MiB",
    f"{SYSTEM}threads": "threads",
}


def draw_runs(histories: Mapping[str, Mapping[str, Sequence[Point]]], path: Path) -> None:
    """Draw every metric that was reported more than once, and the others as bars.

    Raises:
        InvalidInput: the file is neither .png nor .svg, or there is nothing to draw.
    """
    if path.suffix not in (".png", ".svg"):
        raise InvalidInput(f"--plot {path}: a picture ends in .png or .svg", field="plot")
    # What training reported comes first, what it took of the machine last.
    names = sorted(
        {name for history in histories.values() for name in history}, key=lambda name: (name.startswith(SYSTEM), name)
    )
    if not names:
        raise InvalidInput("nothing was reported, so there is nothing to draw", field="plot")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    across = min(2, len(names))
    down = -(-len(names) // across)
    figure, panels = plt.subplots(down, across, figsize=(5.2 * across, 3.4 * down), squeeze=False, layout="constrained")
    for panel, name in zip(panels.flat, names, strict=False):
        there = {run: history[name] for run, history in histories.items() if name in history}
        if all(len(points) == 1 for points in there.values()):
            panel.bar(
                list(there), [points[0].value for points in there.values()], color=_COLORS[: len(there)], width=0.5
            )
        else:
            for color, (run, points) in zip(_COLORS * len(there), there.items(), strict=False):
                steps, values = [point.step for point in points], [point.value for point in points]
                panel.plot(
                    steps,
                    values,
                    color=color,
                    marker="o" if len(points) < 50 else None,
                    markersize=3,
                    linewidth=1.5,
                    label=run,
                )
            machine = name.startswith(SYSTEM)
            panel.set_xlabel("seconds" if machine else "step")
            if machine:
                panel.set_ylim(bottom=0)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        panel.set_title(_TITLES.get(name, name), loc="left", fontsize=11)
        panel.grid(axis="y", color="#e5e7eb", linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    for panel in list(panels.flat)[len(names) :]:
        panel.set_visible(False)
    if len(histories) > 1:
        handles, labels = next(
            (found for panel in panels.flat if (found := panel.get_legend_handles_labels())[0]), ([], [])
        )
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)

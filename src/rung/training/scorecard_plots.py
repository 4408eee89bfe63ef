"""The pictures of a scorecard, as PNG files in memory."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.domain.errors import MissingDependency
from rung.domain.scorecards import Calibration, Confusion, Figure, Scorecard
from rung.domain.tensors import Array
from rung.stats.scores import Answers
from rung.training.grading import Graded, Shown
from rung.training.scorecard import confidence_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_INK, _GREY, _LIGHT = "#1f2937", "#6b7280", "#d1d5db"
_BLUE, _RED, _GREEN, _AMBER = "#2563eb", "#b3261e", "#2a7f4f", "#d97706"
_DPI = 120
_SLICES = 40
_POINTS = 5_000
_RIGHT, _MISSED, _WRONG = (46, 160, 90), (214, 48, 49), (255, 176, 0)
"""RGB of pixels that are rightly of a class, missed, and wrongly called so; told apart in all kinds of colour vision
by their brightness, too."""


def draw(card: Scorecard, graded: Graded) -> dict[str, bytes]:
    """File name -> PNG. Which there are depends on the task.

    Raises:
        MissingDependency: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: F401 - asked for once, here
    except ImportError:
        raise MissingDependency("pictures need matplotlib: install rung[platform]") from None
    pictures: dict[str, bytes] = {}
    if any(one.figure for one in card.slices):
        pictures["slices.png"] = _slices(card)
    if card.calibration is not None and graded.answers is not None:
        pictures["calibration.png"] = _calibration(card.calibration, graded.answers)
    if card.confusion is not None:
        pictures["confusion.png"] = _confusion(card.confusion)
    if len(graded.predicted):
        pictures["residuals.png"] = _residuals(graded)
    if graded.overlaps:
        pictures["overlap.png"] = _overlaps(card, graded)
    for picture, shown in zip(card.worst, graded.worst, strict=True):
        pictures[picture.file] = _side_by_side(shown, picture.name)
    return pictures


def _figure(width: float, height: float, columns: int = 1) -> tuple[Any, list["Axes"]]:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(width, height), dpi=_DPI, layout="constrained")
    axes: Any = canvas.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.tick_params(labelsize=8, colors=_INK)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axis.spines[side].set_color(_LIGHT)
    return canvas, list(axes)


def _png(canvas: Any) -> bytes:
    buffer = io.BytesIO()
    # Without the version of matplotlib, equal figures give equal files.
    canvas.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _slices(card: Scorecard) -> bytes:
    """Every slice with its interval, beside all rows."""
    shown = [one for one in card.slices if one.figure][:_SLICES]
    canvas, (axis,) = _figure(7.0, 1.1 + 0.3 * (len(shown) + 1))
    head = card.headline
    axis.axvspan(head.low, head.high, color=_LIGHT, alpha=0.5, linewidth=0)
    axis.axvline(head.value, color=_GREY, linewidth=0.8)
    names = []
    for place, one in enumerate(shown):
        assert one.figure is not None
        colour = _RED if one.worse else _BLUE
        _bar(axis, place, one.figure, colour)
        names.append(f"{one.name[:48]} ({one.rows:,})")
    _bar(axis, len(shown), head, _INK)
    axis.set_yticks(range(len(shown) + 1), [*names, f"all rows ({head.rows:,})"])
    axis.invert_yaxis()
    _short(axis)
    axis.set_xlabel(f"{card.metric}, 95 % interval; red: worse than the rest", fontsize=8)
    return _png(canvas)


def _short(axis: "Axes") -> None:
    """Write large numbers as 50k and 1.2M."""
    from matplotlib.ticker import EngFormatter

    for side, ends in ((axis.xaxis, axis.get_xlim()), (axis.yaxis, axis.get_ylim())):
        if max(map(abs, ends)) >= 10_000:
            side.set_major_formatter(EngFormatter(sep=""))


def _bar(axis: "Axes", place: float, figure: Figure, colour: str) -> None:
    axis.plot([figure.low, figure.high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
    axis.plot([figure.value], [place], color=colour, marker="o", markersize=5)


def _calibration(found: Calibration, answers: Answers) -> bytes:
    """Confidence against share right, and how many rows were how sure."""
    canvas, (axis, counts) = _figure(7.6, 3.7, 2)
    axis.plot([0, 1], [0, 1], color=_GREY, linewidth=0.8, linestyle="--", label="as it says")
    middle = np.array([one.confidence for one in found.bins])
    right = np.array([one.right for one in found.bins])
    reach = np.array([[one.right - one.low for one in found.bins], [one.high - one.right for one in found.bins]])
    axis.errorbar(middle, right, yerr=reach, color=_BLUE, fmt="o-", markersize=4, linewidth=1, label="as it is, 95 %")
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_aspect("equal")
    axis.set_xlabel(found.about[:60], fontsize=8)
    axis.set_ylabel("share right", fontsize=8)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    error = found.error
    axis.set_title(f"error {error.value:.3f} [{error.low:.3f}, {error.high:.3f}]", fontsize=9, color=_INK)
    _, confidence, so = confidence_of(answers)
    names = ("right", "wrong") if len(answers.labels) != 2 else (answers.labels[1], answers.labels[0])
    parts, colours = [confidence[so], confidence[~so]], [_GREEN, _AMBER]
    shown = [f"{name[:20]} ({len(part):,})" for name, part in zip(names, parts, strict=True)]
    counts.hist(parts, bins=np.linspace(0, 1, 21).tolist(), stacked=True, color=colours, alpha=0.8, label=shown)
    # Most rows are often in one bar.
    counts.set_yscale("symlog", linthresh=10)
    counts.yaxis.set_major_formatter("{x:,.0f}")
    counts.set_xlim(0, 1)
    counts.set_xlabel(found.about[:60], fontsize=8)
    counts.set_ylabel("rows", fontsize=8)
    counts.set_title(f"{error.rows:,} rows, {len(found.bins)} bins on the left", fontsize=9, color=_INK)
    counts.legend(frameon=False, fontsize=8, loc="upper center")
    return _png(canvas)


def _confusion(found: Confusion) -> bytes:
    """Counts, coloured by their share of the truth's row."""
    counts = np.array(found.counts)
    size = len(found.labels)
    longest = max(len(one) for one in found.labels)
    side = min(max(2.6, 0.42 * size + 0.07 * min(longest, 20) + 1.2), 12.0)
    canvas, (axis,) = _figure(side + 0.6, side)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="equal")
    names = [one[:20] for one in found.labels]
    axis.set_xticks(range(size), names, rotation=90 if size > 12 or longest > 6 else 0)
    axis.set_yticks(range(size), names)
    axis.set_xlabel("the model said", fontsize=8)
    axis.set_ylabel("it was", fontsize=8)
    if size <= 25:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.55 else _INK
                axis.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7, color=colour)
    bar = canvas.colorbar(image, ax=axis, shrink=0.8, pad=0.02)
    bar.set_label("share of the row", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.outline.set_visible(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return _png(canvas)


def _residuals(graded: Graded) -> bytes:
    """Prediction against label, error against prediction, and the spread of the errors."""
    canvas, (both, along, spread) = _figure(11.0, 3.6, 3)
    predicted, truth = graded.predicted, graded.truth
    if len(truth) > _POINTS:
        chosen = np.sort(np.random.default_rng(0).choice(len(truth), _POINTS, replace=False))
        predicted, truth = predicted[chosen], truth[chosen]
    error = predicted - truth
    dots: dict[str, Any] = {"s": 9, "alpha": max(0.15, min(0.7, 150 / len(truth))), "color": _BLUE, "linewidths": 0}
    ends = [min(truth.min(), predicted.min()), max(truth.max(), predicted.max())]
    both.plot(ends, ends, color=_GREY, linewidth=0.8, linestyle="--")
    both.scatter(truth, predicted, **dots)
    both.set_xlabel("label", fontsize=8)
    both.set_ylabel("prediction", fontsize=8)
    both.set_title("prediction against label", fontsize=9, color=_INK)
    along.axhline(0, color=_GREY, linewidth=0.8, linestyle="--")
    along.scatter(predicted, error, **dots)
    _trend(along, predicted, error)
    along.set_xlabel("prediction", fontsize=8)
    along.set_ylabel("prediction less label", fontsize=8)
    along.set_title("error against prediction", fontsize=9, color=_INK)
    along.legend(frameon=False, fontsize=8)
    spread.hist(error, bins=min(40, max(8, len(error) // 10)), color=_BLUE, alpha=0.75)
    spread.axvline(0, color=_GREY, linewidth=0.8, linestyle="--")
    spread.set_xlabel("prediction less label", fontsize=8)
    spread.set_ylabel("rows", fontsize=8)
    spread.set_title("spread of the errors", fontsize=9, color=_INK)
    for axis in (both, along, spread):
        axis.locator_params(nbins=5)
        _short(axis)
    return _png(canvas)


def _trend(axis: "Axes", predicted: Array, error: Array) -> None:
    """Mean error of ten equally large parts: a line off zero is an error that could be learned."""
    parts = np.array_split(np.argsort(predicted), min(10, max(2, len(predicted) // 10)))
    middles = [float(predicted[part].mean()) for part in parts if len(part)]
    means = [float(error[part].mean()) for part in parts if len(part)]
    axis.plot(middles, means, color=_AMBER, marker="o", markersize=3, linewidth=1.2, label="mean of a tenth")


def _overlaps(card: Scorecard, graded: Graded) -> bytes:
    """How many pictures are covered how well."""
    canvas, axes = _figure(7.6, 3.2, 2)
    for axis, name in zip(axes, ("iou", "dice"), strict=True):
        figure = next(one for one in card.figures if one.name == name)
        axis.hist(graded.overlaps[name], bins=np.linspace(0, 1, 26).tolist(), color=_BLUE, alpha=0.75)
        axis.axvspan(figure.low, figure.high, color=_AMBER, alpha=0.3, linewidth=0)
        axis.axvline(figure.value, color=_AMBER, linewidth=1.5)
        axis.set_xlim(0, 1)
        title = f"{name}: {figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
        axis.set_title(title, fontsize=9, color=_INK)
        axis.set_xlabel(f"{name} of a picture", fontsize=8)
        axis.set_ylabel("pictures", fontsize=8)
        axis.locator_params(axis="y", integer=True)
    return _png(canvas)


def _side_by_side(shown: Shown, name: str) -> bytes:
    """Picture, truth, answer, and where they differ."""
    height, width = shown.truth.shape
    panel = 2.4
    canvas, axes = _figure(4 * panel, panel * min(max(height / width, 0.4), 1.8) + 0.75, 4)
    several = max(int(shown.truth.max(initial=0)), int(shown.said.max(initial=0))) > 1
    picture = shown.image
    differ = picture // 2
    truth, said = shown.truth, shown.said
    differ[(truth == said) & (truth > 0)] = _RIGHT
    differ[(truth != said) & (truth > 0)] = _MISSED
    differ[(truth == 0) & (said > 0)] = _WRONG
    panels: list[tuple[str, Array]] = [
        ("picture", picture),
        ("truth", _coloured(truth, several=several)),
        ("model", _coloured(said, several=several)),
        ("green right, red missed, yellow wrong", differ),
    ]
    for axis, (title, array) in zip(axes, panels, strict=True):
        axis.imshow(array, interpolation="nearest")
        axis.set_title(title, fontsize=8, color=_INK)
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_visible(True)
            spine.set_color(_LIGHT)
    canvas.suptitle(f"{name[-70:]}: IoU {shown.iou:.3f}, Dice {shown.dice:.3f}", fontsize=10, color=_INK)
    return _png(canvas)


def _coloured(mask: Array, *, several: bool) -> Array:
    from rung.transforms.heads import COLOURS

    if not several:
        grey: Array = np.repeat((mask > 0).astype(np.uint8)[:, :, None] * np.uint8(255), 3, axis=2)
        return grey
    colours = np.concatenate([np.zeros((1, 3), np.uint8), np.resize(COLOURS, (255, 3))])
    coloured: Array = colours[mask]
    return coloured

"""The head of a detector: boxes round things, on the picture as it came."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import orjson
from PIL import Image, ImageDraw, ImageFont

from rung.domain.errors import ConfigurationError, ModelError, NotAcceptable
from rung.domain.tensors import Array, Signature
from rung.transforms.heads import COLOURS, JSON, OVERLAY, png
from rung.transforms.steps import has_bulk, real, renders

__all__ = ["Detections", "boxes", "suppress"]

_CANDIDATES = 4096
# Boxes that are compared with each other at most; the best by score.
_FORMATS = {
    "xyxy": (0, 1, 2, 3),
    "yxyx": (1, 0, 3, 2),
    "cxcywh": (0, 1, 2, 3),
    "xywh": (0, 1, 2, 3),
}
_DARK = (16, 16, 16)


class Detections(msgspec.Struct):
    """What was found in one picture, best first."""

    boxes: Array
    """float [N, 4]: left, top, right, bottom."""
    scores: Array
    """float [N]."""
    classes: Array
    """int [N]."""
    labels: tuple[str, ...]
    """Names of the classes 0, 1, ...; may be empty."""
    size: tuple[int, int] | None = None
    """(height, width) of the picture; None without one: then boxes are in the model's own coordinates."""
    image: Array | None = None
    """uint8 [H, W, 3], the picture itself, where there was one."""

    def label(self, index: int) -> Any:
        """What a class is called: its name, or its number."""
        return self.labels[index] if 0 <= index < len(self.labels) else index


def _json(result: Detections) -> bytes:
    """Describe the boxes: `size`, and for each its label, score and box in pixels from the top left."""
    found = [
        {"label": result.label(index), "score": score, "box": box}
        for index, score, box in zip(result.classes.tolist(), result.scores, result.boxes, strict=True)
    ]
    return orjson.dumps({"size": result.size, "objects": found}, option=orjson.OPT_SERIALIZE_NUMPY)


def _overlay_png(result: Detections) -> bytes:
    """Draw the boxes on the picture, the best on top, each with its label and score on a plate of its colour."""
    if result.image is None:
        raise NotAcceptable("there is no picture to draw the overlay on: send an image instead of tensors")
    picture = Image.fromarray(result.image)
    draw = ImageDraw.Draw(picture)
    # Lines and letters that can be seen when a large picture is scaled to a screen.
    shorter = min(picture.size)
    line = max(1, round(shorter / 250))
    font = ImageFont.load_default(max(10, round(shorter / 36)))
    for index in range(len(result.boxes) - 1, -1, -1):
        red, green, blue = COLOURS[int(result.classes[index]) % len(COLOURS)].tolist()
        left, top, right, bottom = (round(side) for side in result.boxes[index].tolist())
        right, bottom = max(left, right - 1), max(top, bottom - 1)
        draw.rectangle((left, top, right, bottom), outline=(red, green, blue), width=line)
        words = f"{result.label(int(result.classes[index]))}  {result.scores[index]:.2f}"
        _plate(draw, picture.size, (left, top, bottom), words, font, (red, green, blue))
    return png(picture)


def _plate(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    at: tuple[int, int, int],
    words: str,
    font: Any,
    colour: tuple[int, int, int],
) -> None:
    left, top, bottom = at
    _, _, width, height = (round(side) for side in draw.textbbox((0, 0), words, font=font))
    pad = max(2, height // 4)
    # Above the box; below it when there is no room above; inside when there is none there either.
    full = height + 2 * pad
    y = top - full if top >= full else bottom + 1 if bottom + 1 + full <= size[1] else top
    x = max(0, min(left, size[0] - width - 2 * pad))
    draw.rectangle((x, y, x + width + 2 * pad - 1, y + full - 1), fill=colour)
    red, green, blue = colour
    ink = _DARK if 299 * red + 587 * green + 114 * blue > 110_000 else (255, 255, 255)
    draw.text((x + pad, y + pad - 1), words, fill=ink, font=font)


def _check(layout: str, activation: str, threshold: Any, iou: Any, limit: Any) -> None:
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (threshold, iou))
    if not numbers or not 0 <= iou <= 1 or not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(
            "detection.boxes takes a number as threshold, an iou of 0 to 1 and a limit from 1; "
            f"not {threshold!r}, {iou!r} and {limit!r}"
        )
    if layout not in _FORMATS or activation not in ("none", "sigmoid"):
        raise ConfigurationError(
            f"detection.boxes knows the formats {', '.join(_FORMATS)} and the activations none and sigmoid; "
            f"not {layout!r} and {activation!r}"
        )


def _no_bulk(
    signature: Signature,
    context_labels: tuple[str, ...],
    *,
    boxes: str = "",
    scores: str = "",
    classes: str = "",
    format: str = "xyxy",
    activation: str = "none",
    threshold: float = 0.5,
    iou: float = 0.5,
    limit: int = 100,
    **rest: Any,
) -> None:
    """Check what can be checked without an answer; pictures are finished one by one."""
    _check(format, activation, threshold, iou, limit)
    names = [spec.name for spec in signature.outputs]
    wanted = (("boxes", boxes), ("scores", scores), ("classes", classes)) if len(names) > 1 else ()
    for kind, name in wanted:
        if name not in names and (name or kind == "boxes"):
            raise ConfigurationError(f"`{kind}` is {name!r}; the model gives {', '.join(map(repr, names))}")


@has_bulk(_no_bulk)
@renders({JSON: _json, OVERLAY: _overlay_png})
def boxes(
    value: Any,
    context: dict[str, Any],
    *,
    boxes: str = "",
    scores: str = "",
    classes: str = "",
    format: str = "xyxy",
    normalized: bool = False,
    transposed: bool = False,
    activation: str = "none",
    threshold: float = 0.5,
    iou: float = 0.5,
    limit: int = 100,
    labels: Sequence[str] = (),
) -> Detections:
    """Find the things of one item: score threshold, one box per thing, back on the picture as it came.

    Args:
        value: arrays by output name, or one array [n, 4 + classes] of boxes with their scores behind them.
        context: `size`, `frame`, `window` and `image` of the image steps, `labels` of the manifest.
        boxes: output with the boxes, [n, 4].
        scores: output with a score for each box [n], or for each box and class [n, classes]; if not given, they stand
            behind the four numbers of each box.
        classes: output with the class of each box [n], where `scores` has one score for each; without it there is
            one class.
        format: `xyxy` (left, top, right, bottom), `yxyx`, `cxcywh` (centre and size) or `xywh`.
        normalized: whether boxes are fractions of the model's picture, not pixels of it.
        transposed: whether boxes lie along the last dimension, as in [4 + classes, n].
        activation: `sigmoid` when the scores are logits, `none` when they are probabilities.
        threshold: boxes with a lower score are left out.
        iou: of two boxes of one class that overlap by more (intersection over union), the better one stays; 1 keeps
            both, for models that have done this themselves.
        limit: how many boxes at most, the best.
        labels: names of the classes 0, 1, ...; those of the manifest when empty.

    Raises:
        ModelError: the outputs do not have such shapes, or a box that is kept is not finite.
        ConfigurationError: an unknown format, activation or output.
    """
    _check(format, activation, threshold, iou, limit)
    found, score, kind = _read(value, (boxes, scores, classes), transposed=transposed)
    if activation == "sigmoid":
        with np.errstate(over="ignore"):
            score = 1 / (1 + np.exp(-score))
    # NaN is not over any threshold.
    chosen = np.flatnonzero(score >= threshold)
    chosen = chosen[np.argsort(-score[chosen], kind="stable")][:_CANDIDATES]
    corners = _corners(found[chosen], format)
    if not np.isfinite(corners).all():
        raise ModelError("the model gave a box that is not finite for this picture")
    size = context.get("size")
    if size is not None:
        corners = _on_picture(corners, context, size, normalized=normalized)
    score, kind = score[chosen], kind[chosen]
    kept = suppress(corners, kind, iou, limit)
    names = tuple(labels) or tuple(context.get("labels", ()))
    rounded = np.round(corners[kept], 2) if size is not None else corners[kept]
    return Detections(rounded, score[kept], kind[kept], names, size, context.get("image"))


def suppress(boxes: Array, classes: Array, iou: float, limit: int) -> Array:
    """Indices of the boxes that stay: non-maximum suppression within each class.

    Args:
        boxes: float [N, 4], corners, best first.
        classes: int [N].
        iou: intersection over union, over which the worse of two boxes of one class goes.
        limit: how many stay at most.
    """
    left, top, right, bottom = boxes.astype(np.float64).T
    area = np.maximum(right - left, 0) * np.maximum(bottom - top, 0)
    waiting = np.arange(len(boxes))
    kept: list[int] = []
    while len(waiting) and len(kept) < limit:
        best, rest = int(waiting[0]), waiting[1:]
        kept.append(best)
        width = np.minimum(right[rest], right[best]) - np.maximum(left[rest], left[best])
        height = np.minimum(bottom[rest], bottom[best]) - np.maximum(top[rest], top[best])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        together = area[rest] + area[best] - shared
        waiting = rest[(shared <= iou * together) | (classes[rest] != classes[best])]
    return np.array(kept, np.int64)


def _read(value: Any, outputs: tuple[str, str, str], *, transposed: bool) -> tuple[Array, Array, Array]:
    """Boxes float [n, 4], scores [n] and classes [n] of one item."""
    arrays = [_output(value, name, kind) for name, kind in zip(outputs, ("boxes", "scores", "classes"), strict=True)]
    found, score, kind = (
        array.T if array is not None and transposed and array.ndim == 2 else array for array in arrays
    )
    assert found is not None
    if found.ndim != 2 or found.shape[1] < 4 or (score is None and found.shape[1] < 5):
        raise ModelError(
            f"a detector gives [boxes, 4], or [boxes, 4 + classes] without scores, not {list(found.shape)}: "
            "name its outputs in detection.boxes, and say whether they are transposed"
        )
    if score is None:
        found, score = found[:, :4], found[:, 4:]
    if score.ndim == 2 and score.shape[1] == 1:
        score = score[:, 0]
    if kind is not None:
        kind = kind.reshape(-1).astype(np.int64)
    elif score.ndim == 2:
        kind = score.argmax(axis=1)
        score = score.max(axis=1)
    else:
        kind = np.zeros(len(score), np.int64)
    if not found.shape == (len(score), 4) or score.ndim != 1 or len(kind) != len(score):
        raise ModelError(f"the model gave {len(found)} boxes, {len(score)} scores and {len(kind)} classes")
    return real(found), real(score), kind


def _output(value: Any, name: str, kind: str) -> Array | None:
    if not isinstance(value, Mapping):
        return np.asarray(value) if kind == "boxes" else None
    if not name and kind != "boxes":
        return None
    if name not in value:
        raise ConfigurationError(f"detection.boxes needs `{kind}`: one of {', '.join(map(repr, value))}")
    return np.asarray(value[name])


def _corners(found: Array, layout: str) -> Array:
    found = found[:, list(_FORMATS[layout])]
    if layout == "cxcywh":
        half = found[:, 2:] / 2
        return np.concatenate([found[:, :2] - half, found[:, :2] + half], axis=1)
    if layout == "xywh":
        return np.concatenate([found[:, :2], found[:, :2] + found[:, 2:]], axis=1)
    return found


def _on_picture(corners: Array, context: Mapping[str, Any], size: tuple[int, int], *, normalized: bool) -> Array:
    """From the model's picture to the one that came: undo frame, border and scale, and cut at the edges."""
    height, width = size
    frame_height, frame_width = (1, 1) if normalized else context.get("frame", size)
    top, left, inner_height, inner_width = context.get("window", (0.0, 0.0, 1.0, 1.0))
    across = (corners[:, 0::2] / frame_width - left) / inner_width * width
    down = (corners[:, 1::2] / frame_height - top) / inner_height * height
    result = np.empty_like(corners)
    result[:, 0::2] = np.clip(across, 0, width)
    result[:, 1::2] = np.clip(down, 0, height)
    return result

"""Tensors to answers: what a task makes of a model's output, and the media types it can be given in.

A head is the last output step of a bundle. It carries `renderers`: media type -> function from the
result of one item to bytes, best first. The first is what a caller gets who accepts anything.
"""

import io
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import orjson
from PIL import Image

from rung.domain.errors import ConfigurationError, ModelError, NotAcceptable
from rung.domain.tensors import Array
from rung.transforms.steps import renders

__all__ = [
    "COLOURS",
    "JSON",
    "OVERLAY",
    "PNG",
    "RAW",
    "Segmentation",
    "count_regions",
    "png",
    "run_lengths",
    "segmentation_mask",
]

JSON = "application/json"
PNG = "image/png"
OVERLAY = "image/vnd.rung.overlay+png"
RAW = "application/octet-stream"

COLOURS = np.array(
    [(0, 200, 255), (255, 176, 0), (220, 38, 127), (120, 94, 240), (254, 97, 0), (0, 158, 115), (240, 228, 66)],
    np.uint8,
)
"""RGB [7, 3] that people who see colour differently can tell apart, on dark and on light pictures; class 1 first."""
_TINT, _LINE = 62, 232
# Of 256.
_MAX_RUNS = 20_000
# Joining runs is a Python loop: more than this is noise, whose regions nobody wants counted.


class Segmentation(msgspec.Struct):
    """Which class each pixel of one picture belongs to."""

    mask: Array
    """uint8 [H, W] at the size of the original picture; 0 is background, k is class k."""
    labels: tuple[str, ...]
    """Names of the classes 1, 2, ..."""
    image: Array | None = None
    """uint8 [H, W, 3], the picture itself, where there was one."""

    @property
    def raw(self) -> Array:
        """The array behind `application/octet-stream`."""
        return self.mask

    @property
    def fraction(self) -> float:
        """Share of the pixels that are not background, 0 to 1."""
        return float(np.count_nonzero(self.mask)) / max(1, self.mask.size)


def _mask_png(result: Segmentation) -> bytes:
    """Write the mask: grey 0 or 255 for one class, else class indices with a palette of colours."""
    if len(result.labels) == 1:
        return png(Image.fromarray(result.mask * np.uint8(255)))
    image = Image.fromarray(result.mask, "P")
    image.putpalette(np.concatenate([np.zeros((1, 3), np.uint8), np.resize(COLOURS, (255, 3))]).tobytes())
    return png(image)


def _overlay_png(result: Segmentation) -> bytes:
    """Draw the mask on the picture: a light tint inside, a crisp line of the same colour at the border."""
    if result.image is None:
        raise NotAcceptable("there is no picture to draw the overlay on: send an image instead of tensors")
    picture, mask = result.image, result.mask
    line = np.zeros(mask.shape, np.bool_)
    # About one pixel of line for each 500 of the picture, so that it can be seen when scaled to a screen.
    for step in range(1, max(1, round(min(mask.shape) / 500)) + 1):
        across, down = mask[:, step:] != mask[:, :-step], mask[step:] != mask[:-step]
        line[:, step:] |= across
        line[:, :-step] |= across
        line[step:] |= down
        line[:-step] |= down
    drawn = picture.copy()
    inside = mask != 0
    classes = mask[inside]
    alpha = np.where(line[inside], np.uint16(_LINE), np.uint16(_TINT))[:, None]
    colours = np.resize(COLOURS, (256, 3))[classes - 1]
    drawn[inside] = (picture[inside] * (256 - alpha) + colours * alpha) >> 8
    return png(Image.fromarray(drawn))


def _json(result: Segmentation) -> bytes:
    """Describe the mask: `size`, `fraction`, and for each class its pixels, fraction, regions and run lengths.

    `rle.counts` are COCO's uncompressed run lengths: column by column, beginning with zeros.
    """
    height, width = result.mask.shape
    classes = []
    for index, label in enumerate(result.labels, 1):
        chosen = result.mask == index
        pixels = int(np.count_nonzero(chosen))
        classes.append(
            {
                "index": index,
                "label": label,
                "pixels": pixels,
                "fraction": pixels / max(1, chosen.size),
                "regions": count_regions(chosen),
                "rle": {"size": [height, width], "counts": run_lengths(chosen)},
            }
        )
    return orjson.dumps(
        {"size": [height, width], "fraction": result.fraction, "classes": classes},
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


def _raw(result: Segmentation) -> bytes:
    """Return the mask's bytes, row by row."""
    return result.raw.tobytes()


@renders({JSON: _json, PNG: _mask_png, OVERLAY: _overlay_png, RAW: _raw})
def segmentation_mask(
    value: Any,
    context: dict[str, Any],
    *,
    threshold: float = 0.5,
    activation: str = "sigmoid",
    labels: tuple[str, ...] | list[str] = (),
    output: str = "",
) -> Segmentation:
    """Turn the map [C, h, w] of one item into a mask at the size of its picture.

    One channel: foreground where the probability is at least `threshold`. Several channels: the class with the
    largest value, channel 0 being background. The maps are scaled to the picture's size before that decision,
    without the border that `image.resize` added; without a picture the mask has the size of the map.

    Args:
        value: float [C, h, w] or [h, w], or such arrays by output name.
        context: `size`, `window` and `image` of the image steps, `labels` of the manifest.
        threshold: probability, 0 to 1; for one channel only.
        activation: `sigmoid` when one channel holds logits, `none` when it holds probabilities.
        labels: names of the classes; for several channels the first names the background.
        output: which output to use where the model has several.

    Raises:
        ModelError: the map is not finite or has no such shape.
        ConfigurationError: an unknown activation, output or a wrong number of labels.
    """
    maps = _maps(value, output)
    if activation not in ("sigmoid", "none"):
        raise ConfigurationError(f"segmentation.mask knows the activations sigmoid and none, not {activation!r}")
    size = context.get("size") or maps.shape[1:]
    window = context.get("window", (0.0, 0.0, 1.0, 1.0))
    if len(maps) == 1:
        probability = maps[0]
        if activation == "sigmoid":
            with np.errstate(over="ignore"):
                probability = 1 / (1 + np.exp(-probability))
        mask = (_scale_back(probability, size, window) >= threshold).astype(np.uint8)
    else:
        mask = np.zeros(size, np.uint8)
        largest = _scale_back(maps[0], size, window)
        for index in range(1, len(maps)):
            # One class at a time: all of them at the size of a large picture would not fit into memory.
            scaled = _scale_back(maps[index], size, window)
            mask[scaled > largest] = index
            largest = np.maximum(largest, scaled)
    names = _names(tuple(labels) or tuple(context.get("labels", ())), len(maps))
    return Segmentation(mask, names, context.get("image"))


def run_lengths(mask: Array) -> Array:
    """Lengths of the runs of equal values in a boolean [H, W], column by column.

    The first run is of False and may be 0 long.
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    starts = [0] if flat.size and flat[0] else []
    return np.diff(np.concatenate([starts, [0], changes, [flat.size]]).astype(np.int64))


def count_regions(mask: Array) -> int | None:
    """Count the regions of True in [H, W] that hang together, corners included; None when it is mostly noise."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    edges = np.diff(padded, axis=1)
    rows, starts = np.nonzero(edges == 1)
    ends = np.nonzero(edges == -1)[1]
    runs = len(rows)
    if runs > _MAX_RUNS:
        return None
    # A run [start, end) touches those runs of the next row that begin at or before `end` and end at or after `start`.
    stride = width + 2
    first = np.searchsorted(rows * stride + ends, (rows + 1) * stride + starts, "left")
    last = np.searchsorted(rows * stride + starts, (rows + 1) * stride + ends, "right")
    parent = list(range(runs))
    regions = runs
    for run, (low, high) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        for other in range(low, high):
            one, two = _root(parent, run), _root(parent, other)
            if one != two:
                parent[one] = two
                regions -= 1
    return regions


def _root(parent: list[int], run: int) -> int:
    while parent[run] != run:
        parent[run] = parent[parent[run]]
        run = parent[run]
    return run


def _maps(value: Any, output: str) -> Array:
    if isinstance(value, Mapping):
        if output not in value:
            raise ConfigurationError(
                f"segmentation.mask needs `output`, one of {', '.join(map(repr, value))}; it is {output!r}"
            )
        value = value[output]
    maps: Array = np.asarray(value, np.float32)
    if maps.ndim == 2:
        maps = maps[None]
    if maps.ndim != 3 or not 1 <= len(maps) <= 256 or 0 in maps.shape:
        raise ModelError(
            f"a segmentation model gives [classes, height, width] for each picture, not {list(maps.shape)}"
        )
    if not np.isfinite(maps).all():
        raise ModelError("the model gave values that are not finite numbers for this picture")
    return maps


def _names(labels: tuple[str, ...], channels: int) -> tuple[str, ...]:
    classes = max(1, channels - 1)
    if not labels:
        return ("foreground",) if channels == 1 else tuple(f"class {index}" for index in range(1, channels))
    if len(labels) not in (classes, classes + 1):
        raise ConfigurationError(
            f"segmentation.mask has {len(labels)} labels for {classes} classes and the background: {', '.join(labels)}"
        )
    return labels[-classes:]


def _scale_back(plane: Array, size: tuple[int, int], window: tuple[float, float, float, float]) -> Array:
    rows, columns = plane.shape
    top, left, height, width = window
    box = (left * columns, top * rows, (left + width) * columns, (top + height) * rows)
    if box == (0, 0, columns, rows) and size == plane.shape:
        return plane
    scaled = Image.fromarray(plane).resize((size[1], size[0]), Image.Resampling.BILINEAR, box=box)
    return np.asarray(scaled)


def png(image: Image.Image) -> bytes:
    """Write a picture as PNG, quickly rather than small."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

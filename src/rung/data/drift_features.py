"""Pictures and texts as columns of numbers that can be compared."""

import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rung.domain.tensors import Array

if TYPE_CHECKING:
    import polars as pl

__all__ = ["PICTURE", "TEXT", "features_of", "free_text", "vocabulary"]

PICTURE = ("brightness", "contrast", "saturation", "sharpness", "dark", "hue")
"""What is told of a picture: mean and deviation of its luminance, mean saturation, deviation of the Laplacian, share
of pixels darker than a tenth, and mean hue in degrees, weighted by saturation; all but the last from 0 to 1."""
TEXT = ("length", "digits", "upper", "unknown")
"""What is told of a text: logarithm of 1 and its characters, shares of digits and capitals, share of unknown words."""

_SIDE = 192
"""Pixels of the longer side at which a picture is looked at."""
_DARK = 0.1
_GREY = 0.02
"""Mean saturation below which a picture has no hue."""
_WORD = re.compile(r"[^\W\d_]+")
_WORDS = 50_000
_FREE = 0.2
"""Share of different values above which a column of texts is free text and no category."""
_FEW = 60


def features_of(frame: "pl.DataFrame", known: Mapping[str, Collection[str]] | None = None) -> "pl.DataFrame":
    """The same rows with pictures and free texts as numbers; all other columns stay.

    Args:
        frame: pictures are columns of bytes. A cell that is no picture gives nulls.
        known: column of free text -> its vocabulary; columns that are not here stay as they are.
    """
    import polars as pl

    columns: list[pl.Series] = []
    for column in frame:
        if column.dtype == pl.Binary:
            columns += _table(column.name, PICTURE, [_picture(cell) for cell in column])
        elif known is not None and column.name in known:
            words = known[column.name]
            columns += _table(column.name, TEXT, [_text(cell, words) for cell in column])
        else:
            columns.append(column)
    return pl.DataFrame(columns)


def free_text(column: "pl.Series") -> bool:
    """Whether these are texts of their own rather than names of a few categories."""
    import polars as pl

    if column.dtype != pl.String or column.null_count() == column.len():
        return False
    return column.n_unique() > max(_FEW, _FREE * column.len())


def vocabulary(texts: Iterable[str | None]) -> frozenset[str]:
    """The most common words of some texts, in lower case."""
    from collections import Counter

    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall((text or "").lower()))
    return frozenset(word for word, _ in counts.most_common(_WORDS))


# --- one cell -------------------------------------------------------------------------------------


def _table(name: str, figures: Sequence[str], rows: list["tuple[float | None, ...] | None"]) -> "list[pl.Series]":
    import polars as pl

    return [
        pl.Series(f"{name} {figure}", [None if row is None else row[place] for row in rows], dtype=pl.Float64)
        for place, figure in enumerate(figures)
    ]


def _picture(cell: bytes | None) -> "tuple[float | None, ...] | None":
    return _decoded(cell) if cell else None


def _decoded(cell: bytes) -> "tuple[float | None, ...] | None":
    from PIL import Image

    try:
        with Image.open(io.BytesIO(cell)) as image:
            # Files that are compressed in blocks are read smaller at once.
            image.draft("RGB", (_SIDE, _SIDE))
            if image.mode.startswith(("I", "F")):
                grey: Array = np.asarray(image.resize(_fitted(image.size)), np.float64)
                top = 65_535.0 if grey.max() > 255 else 255.0
                pixels: Array = np.repeat((grey / top)[..., None], 3, axis=2)
            else:
                small = image.convert("RGB").resize(_fitted(image.size), Image.Resampling.BOX)
                pixels = np.asarray(small, np.float64) / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return _statistics(pixels)


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, _SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _statistics(pixels: Array) -> "tuple[float | None, ...]":
    """`PICTURE` of pixels of shape (height, width, 3), from 0 to 1."""
    light = pixels @ np.array([0.299, 0.587, 0.114])
    most, least = pixels.max(axis=2), pixels.min(axis=2)
    saturation = np.where(most > 0, (most - least) / np.maximum(most, 1e-9), 0.0) * (most > _DARK)
    inner = light[1:-1, 1:-1]
    sharp = 0.0
    if inner.size:
        edges = light[:-2, 1:-1] + light[2:, 1:-1] + light[1:-1, :-2] + light[1:-1, 2:] - 4 * inner
        sharp = float(edges.std())
    # The hue as an angle: 0 for red, 120 for green, 240 for blue.
    across = pixels[..., 0] - (pixels[..., 1] + pixels[..., 2]) / 2
    along = (pixels[..., 1] - pixels[..., 2]) * np.sqrt(3) / 2
    coloured = float(saturation.mean())
    hue = float(np.degrees(np.arctan2(along.sum(), across.sum())) % 360) if coloured >= _GREY else None
    return float(light.mean()), float(light.std()), coloured, sharp, float((light < _DARK).mean()), hue


def _text(cell: str | None, known: Collection[str]) -> "tuple[float | None, ...] | None":
    if cell is None:
        return None
    size = max(1, len(cell))
    words = _WORD.findall(cell.lower())
    unknown = sum(word not in known for word in words) / len(words) if words else None
    digits, upper = sum(map(str.isdigit, cell)) / size, sum(map(str.isupper, cell)) / size
    return float(np.log1p(len(cell))), digits, upper, unknown

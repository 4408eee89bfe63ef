"""Pictures and texts as columns of numbers that can be compared; and what was logged of requests as rows."""

import base64
import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from rung.domain.tensors import Array

if TYPE_CHECKING:
    import polars as pl

__all__ = ["PICTURE", "TEXT", "features_of", "free_text", "rows_of", "vocabulary"]

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
_KEPT = 10_000
"""Pictures whose statistics are remembered."""


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


def rows_of(body: bytes | None, media: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows that a logged request asked about.

    Args:
        body: as it came.
        media: its content type.
        names: of the model's columns, for rows that are lists.

    Raises:
        ValueError: the body is not there, or is of a kind that is not read here; the text says what to do.
    """
    if not body:
        raise ValueError('what was asked was not logged: set [models.NAME.serve.log] inputs = "body"')
    if media.startswith("image/") or body[:8] == b"\x89PNG\r\n\x1a\n" or body[:3] == b"\xff\xd8\xff":
        return [{"image": body}]
    if media.startswith("text/"):
        return [{"text": body.decode(errors="replace")}]
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise ValueError(f"a body of {media or 'no stated type'} is not read here: JSON, text or an image is") from None
    found = _items(asked)
    rows = [_row(item, names) for item in found]
    if not rows:
        raise ValueError("it asked about no row")
    return rows


def _items(asked: Any) -> list[Any]:
    if isinstance(asked, list):
        return asked
    if not isinstance(asked, dict):
        raise ValueError("a JSON body that is neither a list nor an object is no row")  # noqa: TRY004 - its text says why
    for key in ("rows", "instances", "inputs", "data", "dataframe_records"):
        if key in asked:
            inner = asked[key]
            if isinstance(inner, list) and inner and all(_tensor(one) for one in inner):
                return _columns({one["name"]: _unfolded(one) for one in inner})
            return _columns(inner) if isinstance(inner, dict) else _items(inner)
    if set(asked) == {"text"}:
        return [{"text": one} for one in (asked["text"] if isinstance(asked["text"], list) else [asked["text"]])]
    return _columns(asked)


def _columns(table: dict[str, Any]) -> list[Any]:
    """Rows of an object of columns; one row of an object of values."""
    lists = [value for value in table.values() if isinstance(value, list)]
    if len(lists) != len(table) or len({len(one) for one in lists}) != 1:
        return [table]
    return [dict(zip(table, row, strict=True)) for row in zip(*lists, strict=True)]


def _tensor(item: Any) -> bool:
    return isinstance(item, dict) and {"name", "shape", "data"} <= item.keys()


def _unfolded(tensor: dict[str, Any]) -> list[Any]:
    """The rows of a tensor of the Open Inference Protocol, whose data may be flat."""
    data, shape = tensor["data"], tensor["shape"]
    if len(shape) == 2 and data and not isinstance(data[0], list):
        return [data[at : at + shape[1]] for at in range(0, len(data), max(1, shape[1]))]
    return list(data)


def _row(item: Any, names: Sequence[str]) -> dict[str, Any]:
    if isinstance(item, dict) and set(item) == {"b64"} and isinstance(item["b64"], str):
        return {"image": base64.b64decode(item["b64"])}
    if isinstance(item, dict):
        inner = next(iter(item.values())) if len(item) == 1 else None
        if isinstance(inner, list) and len(inner) == len(names) > 1:
            return dict(zip(names, inner, strict=True))
        return item
    if isinstance(item, list) and len(item) == len(names):
        return dict(zip(names, item, strict=True))
    if isinstance(item, str):
        return {names[0] if len(names) == 1 else "text": item}
    if len(names) == 1 and not isinstance(item, list):
        return {names[0]: item}
    raise ValueError(f"a row of {len(item) if isinstance(item, list) else 1} values does not fit {len(names)} columns")


# --- one cell -------------------------------------------------------------------------------------


def _table(name: str, figures: Sequence[str], rows: list["tuple[float | None, ...] | None"]) -> "list[pl.Series]":
    import polars as pl

    return [
        pl.Series(f"{name} {figure}", [None if row is None else row[place] for row in rows], dtype=pl.Float64)
        for place, figure in enumerate(figures)
    ]


class _Seen:
    """Statistics of pictures by their bytes: windows overlap from one measurement to the next."""

    def __init__(self) -> None:
        self._found: dict[bytes, tuple[float | None, ...] | None] = {}
        self._lock = Lock()

    def get(self, cell: bytes) -> "tuple[float | None, ...] | None":
        key = blake2b(cell, digest_size=16).digest()
        with self._lock:
            if key in self._found:
                return self._found[key]
        made = _decoded(cell)
        with self._lock:
            while len(self._found) >= _KEPT:
                del self._found[next(iter(self._found))]
            self._found[key] = made
        return made


_seen = _Seen()


def _picture(cell: bytes | None) -> "tuple[float | None, ...] | None":
    return _seen.get(cell) if cell else None


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

"""Answers as columns of a table, by what the version's last output step makes."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import orjson

from rung.domain.models import Manifest, Step
from rung.domain.tensors import Array, Tensors, widened
from rung.plugins import TRANSFORMS, resolve
from rung.transforms.pipeline import Columns

if TYPE_CHECKING:
    import polars as pl

__all__ = ["CONTENT", "PREFIX", "Answers", "files_of", "first_only", "series", "shape_of"]

CONTENT = "content"
"""Column of the bytes of files, for a sink that makes files of them."""
PREFIX = "predicted_"
"""What an answer's column is called besides, where the source has one of its name."""
_JSON = "application/json"
_SUFFIXES = {"image/png": ".png"}


class Answers(msgspec.Struct):
    """How the answers of a version become columns, or files."""

    columns: Callable[[list[Any], int], "list[pl.Series]"]
    """(results of the pipeline, rows) -> columns, a value for each row."""
    value: str = ""
    """Column of numbers that can be averaged; empty: there is none."""
    label: str = ""
    """Column of classes that can be counted; empty: there is none."""
    renderers: Mapping[str, Callable[[Any], bytes]] = {}
    """Media type -> how one result becomes a file, best first."""


def first_only(manifest: Manifest) -> Manifest:
    """The manifest with a classifier that names the likeliest class alone: one row, one answer."""
    output = manifest.transforms.output
    if not output or output[-1].name != "classification.top_k":
        return manifest
    step = Step(output[-1].name, {**output[-1].params, "k": 1})
    transforms = msgspec.structs.replace(manifest.transforms, output=(*output[:-1], step))
    return msgspec.structs.replace(manifest, transforms=transforms)


def shape_of(manifest: Manifest) -> Answers:
    """How answers of this version become columns."""
    output = manifest.transforms.output
    if not output:
        one = len(manifest.signature.outputs) == 1
        single = manifest.signature.outputs[0].name if one and _scalar(manifest, 0) else ""
        return Answers(lambda results, rows: _tensors(results[0], rows, manifest), value=single)
    name = output[-1].name
    if name == "classification.top_k":
        return Answers(_classes, value="score", label="label")
    if name == "regression.value":
        return Answers(_numbers, value="prediction")
    renderers = getattr(resolve(TRANSFORMS, name, "transform"), "renderers", {})
    render = renderers.get(_JSON, _json)
    return Answers(lambda results, rows: _texts(results, render), renderers=renderers)


def files_of(answers: Answers) -> tuple[Answers, str] | None:
    """The answers as files, and their suffix; None where they make none."""
    import polars as pl

    media = next((one for one in answers.renderers if one in _SUFFIXES), "")
    if not media:
        return None
    render = answers.renderers[media]

    def columns(results: list[Any], rows: int) -> list[pl.Series]:
        return [pl.Series(CONTENT, [render(one) for one in results], pl.Binary)]

    return Answers(columns, renderers=answers.renderers), _SUFFIXES[media]


def series(found: Columns) -> "list[pl.Series]":
    """What an output step says in arrays, with nothing where it is not known."""
    import polars as pl

    made = []
    for name, (values, known) in found.items():
        text = values.dtype == object
        column = pl.Series(name, values.tolist() if text else values, pl.String if text else None)
        made.append(column if known.all() else column.set(pl.Series(~known), None))
    return made


def _scalar(manifest: Manifest, place: int) -> bool:
    spec = manifest.signature.outputs[place]
    sizes = spec.shape[1:] if manifest.signature.batched else spec.shape
    return spec.datatype not in ("BYTES", "BF16") and all(size == 1 for size in sizes)


def _tensors(outputs: Tensors, rows: int, manifest: Manifest) -> "list[pl.Series]":
    import polars as pl

    made = []
    for spec in manifest.signature.outputs:
        array = outputs[spec.name]
        if spec.datatype == "BF16":
            array = widened(array)
        array = array if manifest.signature.batched else array[None]
        if array.dtype.kind == "O":
            values = [[_text(one) for one in np.ravel(row)] for row in array]
            flat = all(len(one) == 1 for one in values)
            made.append(pl.Series(spec.name, [one[0] for one in values] if flat else values))
        elif array.size == rows:
            made.append(pl.Series(spec.name, np.ascontiguousarray(array.reshape(rows))))
        else:
            inner = _inner(array.dtype)
            made.append(pl.Series(spec.name, array.reshape(rows, -1).tolist(), pl.List(inner)))
    return made


def _inner(dtype: "np.dtype[Any]") -> Any:
    import polars as pl

    return pl.Series(np.empty(0, np.float32 if dtype == np.float16 else dtype)).dtype


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _numbers(results: list[Any], rows: int) -> "list[pl.Series]":
    plain = [one["value"] if isinstance(one, dict) else one for one in results]
    return [_series("prediction", plain)]


def _classes(results: list[Any], rows: int) -> "list[pl.Series]":
    import polars as pl

    best: Sequence[dict[str, Any] | None] = [one[0] if one else None for one in results]
    labels = [None if one is None else str(one["label"]) for one in best]
    return [
        pl.Series("label", labels, pl.String),
        _series("score", [None if one is None else one["score"] for one in best]),
    ]


def _series(name: str, values: list[Any]) -> "pl.Series":
    """Numbers, None where there is none; of the type that they have, so that they keep their few digits."""
    import polars as pl

    some = next((one for one in values if one is not None), None)
    dtype = pl.Float32 if isinstance(some, np.float32) else pl.Float64
    if some is not None and None not in values:
        found: Array = np.array(values)
        return pl.Series(name, found).cast(dtype)
    return pl.Series(name, [None if one is None else float(one) for one in values], pl.Float64).cast(dtype)


def _texts(results: list[Any], render: Callable[[Any], bytes]) -> "list[pl.Series]":
    import polars as pl

    return [pl.Series("answer", [render(one).decode() for one in results], pl.String)]


def _json(result: Any) -> bytes:
    return orjson.dumps(result, default=_default, option=orjson.OPT_SERIALIZE_NUMPY)


def _default(value: Any) -> Any:
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value, enc_hook=_default)
    raise TypeError(f"{type(value).__name__} has no JSON form")

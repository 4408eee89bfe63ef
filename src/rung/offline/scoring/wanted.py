"""Which columns of a source a version takes, and how their values become what it takes.

What a file of text gives is text: here it is read as what the version takes, so that nothing has to be known of rows
that have not come yet. All else passes as it came.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from rung.domain.datasets import Quarantined
from rung.domain.errors import InvalidData
from rung.domain.models import Manifest
from rung.domain.tensors import DATATYPES
from rung.transforms.pipeline import Pipeline

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Chosen", "Wanted", "choose", "typed", "wanted_of"]

Reading = Literal["number", "integer", "boolean", "text"]
_SHOWN = 200


class Wanted(msgspec.Struct, frozen=True):
    """What a version takes of a row."""

    kind: Literal["image", "text", "rows", "matrix"]
    """`rows`: columns by name; `matrix`: one row of numbers without names."""
    columns: tuple[str, ...] = ()
    """In the version's order; empty: it does not say, and the table has to."""
    readings: dict[str, Reading] = {}
    """How text is read, by column."""
    arrays: frozenset[str] = frozenset()
    """Columns that may be handed over as arrays of numbers."""
    optional: frozenset[str] = frozenset()
    """Columns that may be absent."""
    width: int = -1
    """Numbers of a row of a matrix; -1: any."""
    flat: bool = False
    """Whether a row of it is one value, not a list of one."""
    reading: Reading = "number"
    """Of all columns, where these have no names."""


def wanted_of(manifest: Manifest, pipeline: Pipeline) -> Wanted:
    """What a version takes, by its manifest."""
    if "image" in pipeline.accepts:
        return Wanted("image")
    if "text" in pipeline.accepts:
        return Wanted("text")
    steps, inputs = manifest.transforms.input, manifest.signature.inputs
    if steps and steps[0].name == "tabular.columns":
        columns = steps[0].params["columns"]
        readings = {one["name"]: _reading(one) for one in columns}
        plain = frozenset(one["name"] for one in columns if one.get("type", "number") in ("number", "integer"))
        optional = frozenset(one["name"] for one in columns if one.get("default") is not None)
        return Wanted("rows", tuple(readings), readings, plain, optional)
    readings = {spec.name: _of_datatype(spec.datatype) for spec in inputs}
    if steps or len(inputs) > 1:
        return Wanted("rows", tuple(readings) if not steps else (), readings)
    spec = inputs[0]
    reading = _of_datatype(spec.datatype)
    width = spec.shape[-1] if len(spec.shape) > 1 else 1
    flat = len(spec.shape) == (1 if manifest.signature.batched else 0)
    return Wanted("matrix", spec.columns, dict.fromkeys(spec.columns, reading), width=width, flat=flat, reading=reading)


def _reading(column: dict[str, Any]) -> Reading:
    kind = column.get("type", "number")
    if kind == "category":
        return "integer" if all(isinstance(one, int) for one in column.get("categories", [""])) else "text"
    return kind if kind in ("number", "integer", "boolean") else "text"


def _of_datatype(datatype: str) -> Reading:
    if datatype == "BYTES":
        return "text"
    if datatype == "BOOL":
        return "boolean"
    return "integer" if DATATYPES[datatype].kind in "iu" and datatype != "BF16" else "number"


class Chosen(msgspec.Struct, frozen=True):
    """Columns of one source that a version is given."""

    columns: tuple[str, ...]
    readings: dict[str, Reading]


def choose(wanted: Wanted, table: "pl.DataFrame", features: Sequence[str], others: Sequence[str], what: str) -> Chosen:
    """Find them in the first rows of a source.

    Args:
        wanted: what the version takes.
        table: rows.
        features: columns that the project says the model sees; empty: it does not say.
        others: columns that something else is said of, such as the key.
        what: model and version, for messages.

    Raises:
        InvalidData: one is missing, or it is not clear which.
    """
    import polars as pl

    there = [name for name in table.columns if name not in others]
    seen = [name for name in features if name in table.columns] or there
    if wanted.kind in ("image", "text"):
        dtype, kind = (pl.Binary, "bytes") if wanted.kind == "image" else (pl.String, "text")
        names = [name for name in seen if table.schema[name] == dtype]
        named = [name for name in names if name == wanted.kind]
        if len(names) != 1 and len(named) != 1:
            found = f"{', '.join(names)} hold {kind}" if names else f"none of {', '.join(table.columns)} holds {kind}"
            raise InvalidData(f"{what} takes one {wanted.kind} a row, and {found}: name its column in data.features")
        return Chosen(tuple(named if len(named) == 1 else names), {})
    columns = wanted.columns
    missing = [name for name in columns if name not in table.columns and name not in wanted.optional]
    if missing:
        raise InvalidData(f"{what} takes the column {missing[0]!r}, and the data has {', '.join(table.columns)}")
    if columns:
        names = [name for name in columns if name in table.columns]
        return Chosen(tuple(names), {name: wanted.readings[name] for name in names})
    if wanted.kind == "matrix" and wanted.width not in (-1, len(seen)):
        raise InvalidData(
            f"{what} takes {wanted.width} numbers a row, and the data has {len(seen)}: {', '.join(seen)}; "
            "name those that it sees in data.features, or those that it does not in --key and data.ignore"
        )
    readings = dict.fromkeys(seen, wanted.reading) if wanted.kind == "matrix" else {}
    return Chosen(tuple(seen), readings)


def typed(
    table: "pl.DataFrame", chosen: Chosen, where: str, numbers: Sequence[int]
) -> tuple["pl.DataFrame", "pl.Series", list[Quarantined]]:
    """The table with text columns read as the version takes them; which rows could be read; and the others, refused.

    `numbers` says where each row stood in `where`.
    """
    import polars as pl

    good = pl.Series("good", [True], pl.Boolean).new_from_index(0, table.height)
    reasons: dict[int, str] = {}
    made = {}
    for name, reading in chosen.readings.items():
        column = table[name]
        if column.dtype != pl.String or reading == "text":
            continue
        made[name] = read = _read(column, reading)
        failed = column.is_not_null() & read.is_null()
        if failed.any():
            good &= ~failed
            for row in failed.arg_true():
                reasons.setdefault(row, f"column {name}: {column[row]!r:.60} is no {reading}")
    refused = [
        Quarantined(where, numbers[row], reason, repr(table.row(row, named=True))[:_SHOWN])
        for row, reason in sorted(reasons.items())
    ]
    return table.with_columns(**made) if made else table, good, refused


def _read(column: "pl.Series", reading: Reading) -> "pl.Series":
    import polars as pl

    if reading == "boolean":
        low = column.str.strip_chars().str.to_lowercase()
        return low.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    for dtype in (pl.Int64, pl.Float64) if reading == "integer" else (pl.Float64,):
        # Few files have spaces around their numbers, and taking them off costs more than reading these.
        for text in (column, None):
            found = (column.str.strip_chars() if text is None else text).cast(dtype, strict=False)
            if found.null_count() == column.null_count():
                return found
    return found

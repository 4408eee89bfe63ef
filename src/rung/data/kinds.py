"""What the values of a column are, told from all of them; those that do not fit are refused with their row."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rung.domain.datasets import Kind, Quarantined

if TYPE_CHECKING:
    import polars as pl

__all__ = ["cast", "kind_of", "tell"]

_FITS = 0.95
"""Share of the values that have to read as a number, for the others to be slips and not the column to be text."""
_SHOWN = 200


def kind_of(dtype: "pl.DataType") -> Kind:
    """The kind of a column that has a type already."""
    import polars as pl

    if dtype.is_integer():
        return "integer"
    if dtype.is_numeric():
        return "number"
    if dtype == pl.Boolean:
        return "boolean"
    if dtype.is_temporal():
        return "time"
    if dtype == pl.Binary:
        return "bytes"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    return "other"


def tell(frames: Sequence["pl.DataFrame"]) -> dict[str, Kind]:
    """Kinds of text columns, from all rows of all frames: integer, number, boolean, else text."""
    kinds: dict[str, Kind] = {}
    for name in frames[0].columns if frames else ():
        columns = [frame[name] for frame in frames if name in frame.columns]
        kinds[name] = _tell(columns)
    return kinds


def _tell(columns: Sequence["pl.Series"]) -> Kind:
    import polars as pl

    values = sum(column.len() - column.null_count() for column in columns)
    if not values:
        return "text"
    for kind, dtype in (("integer", pl.Int64), ("number", pl.Float64)):
        fit = 0
        for column in columns:
            read = column.str.strip_chars().cast(dtype, strict=False)
            fit += read.len() - read.null_count()
        # Numbers with leading zeros are codes: as a number 007 would be 7.
        if fit >= _FITS * values and not any(_coded(column) for column in columns):
            if kind == "integer" and fit < values and _more_as_numbers(columns, fit):
                continue
            return kind  # type: ignore[return-value]
    words = {word for column in columns for word in column.str.to_lowercase().unique().drop_nulls()}
    return "boolean" if words <= {"true", "false"} else "text"


def _coded(column: "pl.Series") -> bool:
    return bool(column.str.contains(r"^-?0\d").any())


def _more_as_numbers(columns: Sequence["pl.Series"], fit: int) -> bool:
    import polars as pl

    numbers = 0
    for column in columns:
        read = column.str.strip_chars().cast(pl.Float64, strict=False)
        numbers += read.len() - read.null_count()
    return numbers > fit


def cast(
    frame: "pl.DataFrame", kinds: Mapping[str, Kind], where: str, numbers: Sequence[int]
) -> tuple["pl.DataFrame", list[Quarantined]]:
    """Text columns as their kinds, others as they are; rows with a value that is none are left out and named.

    `numbers` says where each row stood in `where`.
    """
    import polars as pl

    kept, bad = {}, pl.Series([False] * frame.height, dtype=pl.Boolean)
    reasons: dict[int, tuple[str, str]] = {}
    for column in frame:
        name, kind = column.name, kinds.get(column.name)
        kept[name] = read = column if kind is None else _read(column, kind)
        failed = column.is_not_null() & read.is_null()
        if failed.any():
            bad |= failed
            for row in failed.arg_true():
                reasons.setdefault(row, (f"column {name}: {column[row]!r:.60} is no {kind}", ""))
    made = pl.DataFrame(list(kept.values()))
    if not reasons:
        return made, []
    refused = [
        Quarantined(where, numbers[row], reason, repr(frame.row(row, named=True))[:_SHOWN])
        for row, (reason, _) in sorted(reasons.items())
    ]
    return made.filter(~bad), refused


def _read(column: "pl.Series", kind: Kind) -> "pl.Series":
    import polars as pl

    if column.dtype != pl.String:
        plain = column.dtype.is_numeric() or column.dtype == pl.Boolean
        return column.cast(pl.String) if kind == "text" and plain else column
    if kind == "integer":
        return column.str.strip_chars().cast(pl.Int64, strict=False)
    if kind == "number":
        return column.str.strip_chars().cast(pl.Float64, strict=False)
    if kind == "boolean":
        return column.str.to_lowercase() == "true"
    return column

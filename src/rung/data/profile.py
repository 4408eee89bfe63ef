"""Profiles of tables: what `rung.domain.profiles` says, found in rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rung.data.fingerprints import fingerprints
from rung.data.kinds import kind_of
from rung.domain.profiles import QUANTILES, ColumnProfile, Profile

if TYPE_CHECKING:
    import polars as pl

__all__ = ["make", "told_apart_by"]

_TOP = 256
_SKETCH = 1024
MOST_CODES = 64
"""Different whole numbers up to which they are counted one by one."""


def make(frame: "pl.DataFrame", *, label: str = "", time: str = "", key: Sequence[str] = ()) -> Profile:
    """The profile of all rows of a table."""
    seen = np.unique(fingerprints(frame, told_apart_by(frame, key)))
    return Profile(
        rows=frame.height,
        columns={column.name: _column(column) for column in frame},
        label=label,
        time=time,
        newest=str(frame[time].max()) if time in frame.columns and frame.height else "",
        sketch=tuple(int(one) for one in seen[:_SKETCH]),
        whole=len(seen) <= _SKETCH,
    )


def told_apart_by(frame: "pl.DataFrame", key: Sequence[str]) -> list[str]:
    """Columns by which rows are told apart: the key, or all where there is none."""
    return [name for name in key if name in frame.columns] or frame.columns


def _column(column: "pl.Series") -> ColumnProfile:
    import polars as pl

    kind, known = kind_of(column.dtype), column.drop_nulls()
    if column.dtype.is_float():
        known = known.drop_nans()
    nulls = column.len() - known.len()
    if kind in ("number", "integer"):
        values = known.cast(pl.Float64).to_numpy()
        # JSON has no infinity, and a mean of it says nothing.
        values = values[np.isfinite(values)]
        if not values.size:
            return ColumnProfile(kind, nulls)
        distinct = known.n_unique()
        return ColumnProfile(
            kind,
            nulls,
            distinct=distinct,
            # Few whole numbers are codes as often as amounts.
            top=_counts(known.cast(pl.String)) if kind == "integer" and distinct <= MOST_CODES else (),
            mean=float(values.mean()),
            deviation=float(values.std(ddof=1)) if values.size > 1 else 0.0,
            quantiles=tuple(float(value) for value in np.quantile(values, QUANTILES)),
        )
    if kind == "bytes":
        sizes = known.bin.size()
        return ColumnProfile(kind, nulls, size=_mean(sizes))
    if kind in ("text", "category", "boolean"):
        texts = known.cast(pl.String)
        size = _mean(texts.str.len_chars()) if kind == "text" else None
        return ColumnProfile(kind, nulls, distinct=texts.n_unique(), top=_counts(texts), size=size)
    return ColumnProfile(kind, nulls, distinct=known.n_unique() if kind == "time" else 0)


def _counts(texts: "pl.Series") -> tuple[tuple[str, int], ...]:
    counts = texts.value_counts().sort(["count", texts.name], descending=[True, False]).head(_TOP)
    return tuple((str(value), int(count)) for value, count in counts.iter_rows())


def _mean(values: "pl.Series") -> float | None:
    mean = values.mean()
    return float(mean) if isinstance(mean, int | float) else None

"""Profiles of tables: what `rung.domain.profiles` says, found in rows."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from rung.data.kinds import kind_of
from rung.domain.profiles import QUANTILES, ColumnProfile, Profile

if TYPE_CHECKING:
    import polars as pl

__all__ = ["hashes", "make"]

_TOP = 256
_SKETCH = 1024
MOST_CODES = 64
"""Different whole numbers up to which they are counted one by one."""


def make(frame: "pl.DataFrame", *, label: str = "", time: str = "", key: Sequence[str] = ()) -> Profile:
    """The profile of all rows of a table."""
    seen = np.unique(hashes(frame, key)) if frame.height else np.zeros(0, np.uint64)
    return Profile(
        rows=frame.height,
        columns={column.name: _column(column) for column in frame},
        label=label,
        time=time,
        newest=str(frame[time].max()) if time in frame.columns and frame.height else "",
        sketch=tuple(int(one) for one in seen[:_SKETCH]),
        whole=len(seen) <= _SKETCH,
    )


def hashes(frame: "pl.DataFrame", key: Sequence[str] = ()) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    """A hash of each row, or of its key; equal rows have equal ones on every machine."""
    import polars as pl

    names = [name for name in key if name in frame.columns] or frame.columns
    parts = [_as_text(frame[name]).fill_null("\N{EMPTY SET}") for name in names]
    rows = pl.DataFrame([part.alias(str(number)) for number, part in enumerate(parts)])
    texts = rows.select(pl.concat_str(pl.all(), separator="\x1f")).to_series()
    found = (blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(found), ">u8").astype(np.uint64)


def _as_text(column: "pl.Series") -> "pl.Series":
    import polars as pl

    if column.dtype == pl.Binary:
        texts = [None if one is None else blake2b(one, digest_size=16).hexdigest() for one in column]
        return pl.Series(column.name, texts, pl.String)
    if column.dtype.is_nested() or column.dtype == pl.Object:
        return pl.Series(column.name, [None if one is None else repr(one) for one in column], pl.String)
    return column.cast(pl.String)


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

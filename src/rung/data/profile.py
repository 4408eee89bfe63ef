"""Profiles of tables: what `rung.domain.profiles` says, found in rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from rung.data.kinds import kind_of
from rung.domain.profiles import QUANTILES, ColumnProfile, Profile

if TYPE_CHECKING:
    import polars as pl

__all__ = ["hashes", "make"]

_TOP = 256
_SKETCH = 1024


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
    """A hash of each row, or of its key; the same on every machine and with every version of the libraries."""
    import hashlib

    names = [name for name in key if name in frame.columns] or frame.columns
    made = np.empty(frame.height, np.uint64)
    for number, row in enumerate(frame.select(names).iter_rows()):
        digest = hashlib.blake2b(digest_size=8)
        for value in row:
            digest.update(value if isinstance(value, bytes) else repr(value).encode())
            digest.update(b"\0")
        made[number] = int.from_bytes(digest.digest())
    return made


def _column(column: "pl.Series") -> ColumnProfile:
    import polars as pl

    kind, known = kind_of(column.dtype), column.drop_nulls()
    if column.dtype.is_float():
        known = known.drop_nans()
    nulls = column.len() - known.len()
    if kind in ("number", "integer"):
        values = known.cast(pl.Float64).to_numpy()
        if not values.size:
            return ColumnProfile(kind, nulls)
        return ColumnProfile(
            kind,
            nulls,
            distinct=known.n_unique(),
            mean=float(values.mean()),
            deviation=float(values.std(ddof=1)) if values.size > 1 else 0.0,
            quantiles=tuple(float(value) for value in np.quantile(values, QUANTILES)),
        )
    if kind == "bytes":
        sizes = known.bin.size()
        return ColumnProfile(kind, nulls, size=_mean(sizes))
    if kind in ("text", "category", "boolean"):
        texts = known.cast(pl.String)
        counts = texts.value_counts().sort(["count", texts.name], descending=[True, False])
        top = tuple((str(value), int(count)) for value, count in counts.head(_TOP).iter_rows())
        size = _mean(texts.str.len_chars()) if kind == "text" else None
        return ColumnProfile(kind, nulls, distinct=counts.height, top=top, size=size)
    return ColumnProfile(kind, nulls, distinct=known.n_unique() if kind == "time" else 0)


def _mean(values: "pl.Series") -> float | None:
    mean = values.mean()
    return float(mean) if isinstance(mean, int | float) else None

"""A number for each row that only its values decide, the same on every machine and for every order of the rows.

Which split a row belongs to, and whether a row was there before, is told by it. Not polars' own hash, which may change
with its version: then rows would move from one split to another.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl

__all__ = ["fingerprints"]


def fingerprints(frame: "pl.DataFrame", names: Sequence[str]) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    """Of each row by these columns, UINT64 [rows]."""
    import polars as pl

    if not frame.height:
        return np.zeros(0, np.uint64)
    # Numbered, since a column may have any name; nulls are told from the text that stands for them.
    parts = [
        (_as_text(frame[name]).str.replace_all("\0", "\0\0", literal=True).fill_null("\0")).alias(str(number))
        for number, name in enumerate(names)
    ]
    texts = pl.DataFrame(parts).select(pl.concat_str(pl.all(), separator="\0\1")).to_series()
    found = b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(found, ">u8").astype(np.uint64)


def _as_text(column: "pl.Series") -> "pl.Series":
    import polars as pl

    if column.dtype == pl.String:
        return column
    if column.dtype.is_integer() or column.dtype == pl.Boolean:
        return column.cast(pl.String)
    if column.dtype == pl.Binary:
        texts = [None if one is None else blake2b(one, digest_size=16).hexdigest() for one in column]
    else:
        # How Python writes a value is fixed; how polars does is not.
        texts = [None if one is None else repr(one) for one in column.to_list()]
    return pl.Series(column.name, texts, pl.String)

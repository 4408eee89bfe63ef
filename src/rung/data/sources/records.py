"""Rows that come as dicts, made into columns."""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import orjson

from rung.domain.datasets import Piece, Quarantined
from rung.domain.errors import InvalidData

if TYPE_CHECKING:
    import polars as pl

__all__ = ["piece_of"]


def piece_of(
    rows: Sequence[dict[str, Any]],
    numbers: Sequence[int],
    where: str,
    refused: Sequence[Quarantined] = (),
    cursor: str = "",
) -> Piece:
    """Rows as columns, each with what its dicts have; `numbers` says where they stood in `where`.

    A column whose values are of several kinds (a number here, a word there) becomes text and is loose: which of
    them it is gets told from all rows of the source, and the few that are something else are refused.

    Raises:
        InvalidData: values do not go together at all, as a list and a number do not.
    """
    import polars as pl

    names = dict.fromkeys(name for row in rows for name in row)
    loose: list[str] = []
    columns = [_column(name, [row.get(name) for row in rows], where, loose) for name in names]
    return Piece(pl.DataFrame(columns), refused, cursor, numbers=numbers, where=where, loose=loose)


def _column(name: str, values: list[Any], where: str, loose: list[str]) -> "pl.Series":
    import polars as pl

    kinds = Counter(type(value) for value in values if value is not None)
    try:
        if set(kinds) == {int, float}:
            return pl.Series(name, values, dtype=pl.Float64, strict=False)
        if len(kinds) > 1 and all(issubclass(kind, str | int | float) for kind in kinds):
            loose.append(name)
            return pl.Series(name, [_text(value) for value in values], dtype=pl.String)
        return pl.Series(name, values, strict=True)
    except (TypeError, OverflowError, pl.exceptions.PolarsError):
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        what = "values of several kinds" if len(kinds) > 1 else "values that no column can hold"
        raise InvalidData(f"{where} gives {what} in column {name!r}: {found}") from None


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()

"""Pieces of a source on their way to parts: on disk until the source has been read whole, so that types are known.

A column may be a number for a million rows and hold a word in the next, or be absent from the first thousand. So
nothing is typed, and nothing written to the store, before the last row has been seen. Memory holds one piece.
"""

import tempfile
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rung.data.kinds import cast, kind_of, tell
from rung.domain.datasets import Kind, Piece, Quarantined
from rung.domain.errors import InvalidData

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Spool", "column_kinds"]


class Spool:
    """Holds pieces as files; a context manager that removes them.

    Args:
        where: what rows are said to come from, where a piece does not say.
        known: kinds of columns that earlier parts of the data have; later rows have to fit them, and have no others.
    """

    def __init__(self, where: str, *, known: Mapping[str, Kind]) -> None:
        self._where, self._known = where, known
        self._folder = tempfile.TemporaryDirectory(prefix="rung-rows-")
        self._files: list[tuple[Path, str, array[int]]] = []
        self._types: dict[str, set[pl.DataType]] = {}
        self._loose: set[str] = set()
        self._counts: dict[str, int] = {}
        self.refused: list[Quarantined] = []
        self.cursor = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._folder.cleanup()

    def add(self, piece: Piece) -> None:
        """Keep a piece until `frames`."""
        self.refused += piece.refused
        self.cursor = piece.cursor or self.cursor
        frame: pl.DataFrame = piece.frame
        if not frame.height:
            return
        where = piece.where or self._where
        first = self._counts.get(where, 0) + 1
        self._counts[where] = first + frame.height - 1
        numbers = array("q", piece.numbers or range(first, first + frame.height))
        path = Path(self._folder.name, f"{len(self._files)}.arrow")
        frame.write_ipc(path)
        self._files.append((path, where, numbers))
        self._loose.update(piece.loose)
        for column in frame:
            self._types.setdefault(column.name, set()).add(column.dtype)

    def frames(self) -> Iterator["pl.DataFrame"]:
        """All rows, under one set of columns and types; those that do not fit are refused.

        Raises:
            InvalidData: values of a column do not go together, as a list and a number do not.
        """
        import polars as pl

        kinds, types = self._kinds()
        for path, where, numbers in self._files:
            rows = pl.read_ipc(path)
            columns = [self._column(rows, name, types.get(name)) for name in (self._known or self._types)]
            rows, refused = cast(pl.DataFrame(columns), kinds, where, numbers)
            self.refused += refused
            if rows.height:
                yield rows

    def _column(self, rows: "pl.DataFrame", name: str, dtype: "pl.DataType | None") -> "pl.Series":
        import polars as pl

        if name not in rows.columns:
            return pl.Series(name, [None] * rows.height, dtype=dtype)
        return rows[name] if dtype is None else rows[name].cast(dtype)

    def _kinds(self) -> tuple[dict[str, Kind], dict[str, "pl.DataType"]]:
        """What text columns are to be read as, and the type that each column has until then."""
        import polars as pl

        types = {name: self._together(name, found) for name, found in self._types.items()}
        if self._known:
            return dict(self._known), {name: types[name] for name in types if name in self._known}
        kinds: dict[str, Kind] = {}
        for name in self._loose:
            if types[name] == pl.String:
                columns = (pl.read_ipc(path) for path, _, _ in self._files)
                kinds |= tell([rows.select(pl.col(name).cast(pl.String)) for rows in columns if name in rows.columns])
        return kinds, types

    def _together(self, name: str, found: set["pl.DataType"]) -> "pl.DataType":
        import polars as pl

        if pl.String in found and all(one in (pl.String, pl.Null, pl.Boolean) or one.is_numeric() for one in found):
            self._loose.update([name] if len(found - {pl.Null, pl.String}) else [])
            return pl.String()
        try:
            empty = [pl.DataFrame([pl.Series(name, [], dtype=one)]) for one in found]
            return pl.concat(empty, how="vertical_relaxed")[name].dtype
        except pl.exceptions.PolarsError:
            raise InvalidData(
                f"{self._where} gives values of several kinds in column {name!r}: {', '.join(sorted(map(str, found)))}"
            ) from None


def column_kinds(frame: "pl.DataFrame", known: Mapping[str, Kind]) -> dict[str, Kind]:
    """Kinds of all columns, in their order."""
    return {column.name: known.get(column.name, kind_of(column.dtype)) for column in frame}

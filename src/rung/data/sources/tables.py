"""Columnar files: Parquet and Arrow, read a group of rows at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rung.data.sources import Address
from rung.domain.errors import InvalidData
from rung.ports import Piece

if TYPE_CHECKING:
    import polars as pl

__all__ = ["open_arrow", "open_parquet"]

_ROWS = 100_000


class _Tables:
    incremental = False
    typed = True

    def __init__(self, address: Address) -> None:
        address.allow()
        self._address = address

    def read(self, cursor: str) -> Iterator[Piece]:
        """Every file, in the order of names."""
        import polars as pl

        for path in self._address.files():
            try:
                table = self._open(path)
                count = table.select(pl.len()).collect().item()
                for start in range(0, count, _ROWS):
                    yield Piece(table.slice(start, _ROWS).collect())
            except (OSError, pl.exceptions.PolarsError) as error:
                raise InvalidData(f"{path} cannot be read: {error}") from None

    def keep(self, cursor: str) -> None:
        """Nothing to keep."""

    def _open(self, path: Path) -> "pl.LazyFrame":
        import polars as pl

        return pl.scan_parquet(path) if self._address.scheme == "parquet" else pl.scan_ipc(path)


def open_parquet(address: Address) -> _Tables:
    """`parquet:PATH`."""
    return _Tables(address)


def open_arrow(address: Address) -> _Tables:
    """`arrow:PATH`: the IPC file format."""
    return _Tables(address)

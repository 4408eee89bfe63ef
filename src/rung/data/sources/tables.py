"""Columnar files: Parquet and Arrow, read a group of rows at a time."""

from collections.abc import Iterator
from pathlib import Path

from rung.data.sources import Address
from rung.data.sources.files import Files
from rung.domain.datasets import Piece
from rung.domain.errors import InvalidData

__all__ = ["open_arrow", "open_parquet", "read_table"]

_ROWS = 100_000


def open_parquet(address: Address) -> Files:
    """`parquet:PATH`."""
    address.allow()
    return Files(address, lambda path: read_table(path, str(path)))


def open_arrow(address: Address) -> Files:
    """`arrow:PATH`: the IPC file format."""
    address.allow()
    return Files(address, lambda path: read_table(path, str(path), arrow=True))


def read_table(path: Path, where: str, *, arrow: bool = False) -> Iterator[Piece]:
    """The rows of a Parquet or Arrow file.

    Raises:
        InvalidData: it is none, or damaged.
    """
    import polars as pl

    try:
        table: pl.LazyFrame = pl.scan_ipc(path) if arrow else pl.scan_parquet(path)
        count = table.select(pl.len()).collect().item()
        for start in range(0, count, _ROWS):
            yield Piece(table.slice(start, _ROWS).collect())
    except pl.exceptions.PolarsError as error:
        raise InvalidData(f"{where} cannot be read: {error}") from None

"""Rows out of a source, in blocks of known places, ready for the model."""

import hashlib
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rung.data.sources import Address, open_source, without_password
from rung.data.sources.files import Files
from rung.domain.datasets import Piece, Quarantined
from rung.domain.errors import ConfigurationError, InvalidData
from rung.offline.scoring.journal import Commit
from rung.offline.scoring.order import Order
from rung.offline.scoring.wanted import Chosen, Wanted, choose, typed

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ROW", "Block", "Reader"]

ROW = "row"
"""Column of the result that says which row of the source it is, from 1."""
_SHOWN = 200
_FILES = frozenset({"csv", "tsv", "parquet", "arrow", "jsonl", "files"})
"""Kinds of sources that give the same rows in the same order as long as their files are the same."""


class Block(msgspec.Struct):
    """Some rows, to be committed together."""

    frame: "pl.DataFrame"
    """Those to be answered, with `row`."""
    read: int
    """Rows that the source gave for it."""
    left_out: int
    damaged: int
    """Rows that the source itself refused."""
    refused: list[Quarantined]
    """These, and those of `read` with a value that is no such thing."""
    cursor: str
    """Where the source goes on after it; empty within a piece and where there is none."""
    where: str = ""
    """File or URL of its rows."""
    first: int = 0
    """`row` of the first that the source gave."""
    numbers: Sequence[int] = ()
    """Where each that it gave stood in `where`, as an editor counts."""

    def refusal(self, row: int, reason: str) -> Quarantined:
        """A row of it that the model would not answer."""
        import polars as pl

        found = self.frame.filter(pl.col(ROW) == row).drop(ROW).select(pl.exclude(pl.Binary))
        shown = repr(found.row(0, named=True))[:_SHOWN] if found.width else ""
        return Quarantined(self.where, self.numbers[row - self.first], reason, shown)


class Reader:
    """The source of an order.

    Attributes:
        resumable: whether a run can go on in the middle.
        fingerprint: changes when the source's files do.
        chunk: rows of a block at most; may be changed between two blocks.
    """

    def __init__(self, order: Order, folder: Path, wanted: Wanted, chunk: int, what: str) -> None:
        self._order, self._wanted, self._what = order, wanted, what
        self.chunk = chunk
        self._address = Address(order.source, folder)
        # The model decodes pictures itself, and refuses what is none: once is enough.
        unchecked = self._address.scheme == "files" and not self._address.options
        self._source = open_source(f"{order.source}?check=no" if unchecked else order.source, folder)
        self._where = without_password(order.source)
        self._chosen: Chosen | None = None
        self._condition: pl.Expr | None = None
        self.resumable = self._source.incremental or self._address.scheme in _FILES
        self.fingerprint = self._fingerprint()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the model is given; known once a block has come."""
        return self._chosen.columns if self._chosen else ()

    def keep(self, cursor: str) -> None:
        """What was read up to `cursor` has been scored for good."""
        self._source.keep(cursor)

    def blocks(self, after: Commit) -> Generator[Block, None, None]:
        """All rows beyond a commit.

        Raises:
            InvalidData: the source cannot be read or broke off, or lacks a column.
            ConfigurationError: the condition makes no sense.
        """
        skip, damaged = after.since, after.damaged_since
        place = after.read - skip
        for piece in self._source.read(after.cursor):
            height = piece.frame.height
            refused = list(piece.refused)
            dropped = min(damaged, len(refused))
            refused, damaged = refused[dropped:], damaged - dropped
            start = min(skip, height)
            skip -= start
            place += start
            for block in self._cut(piece, start, place, refused):
                place += block.read
                yield block
        if skip:
            raise InvalidData(f"{self._where} has fewer rows than when this run began: start it anew, without --resume")

    def _cut(self, piece: Piece, start: int, place: int, refused: list[Quarantined]) -> Iterator[Block]:
        frame: pl.DataFrame = piece.frame
        if start == frame.height:
            if refused or piece.cursor:
                yield Block(frame.clear(), 0, 0, len(refused), refused, piece.cursor)
            return
        begin = start
        while begin < frame.height:
            part = frame[begin : begin + self.chunk]
            numbers = piece.numbers[begin : begin + part.height] or range(place + 1, place + 1 + part.height)
            begin += part.height
            cursor = piece.cursor if begin == frame.height else ""
            yield self._block(part, place, numbers, piece.where or self._where, refused, cursor)
            place += part.height
            refused = []

    def _block(
        self,
        part: "pl.DataFrame",
        place: int,
        numbers: Sequence[int],
        where: str,
        refused: list[Quarantined],
        cursor: str,
    ) -> Block:
        import polars as pl

        if self._chosen is None:
            self._settle(part)
        assert self._chosen is not None
        rows, good, bad = typed(part, self._chosen, where, numbers)
        rows = rows.with_columns(pl.int_range(place + 1, place + 1 + rows.height, dtype=pl.Int64).alias(ROW))
        meets = self._meets(rows)
        kept = rows.filter(good if meets is None else good & meets)
        # A row that cannot be read is refused whether or not the condition would have left it out: nobody knows.
        left_out = part.height - len(bad) - kept.height
        return Block(kept, part.height, left_out, len(refused), [*refused, *bad], cursor, where, place + 1, numbers)

    def _settle(self, table: "pl.DataFrame") -> None:
        order = self._order
        for name in (*order.key, *order.group, *(order.keep or ())):
            if name not in table.columns:
                raise InvalidData(f"there is no column {name!r} in {self._where}; there are {', '.join(table.columns)}")
        if ROW in table.columns:
            raise InvalidData(f"{self._where} has a column {ROW!r}, which is what the result calls its own: rename it")
        others = (*order.key, *order.group, *order.ignore)
        self._chosen = choose(self._wanted, table, order.features, others, self._what)
        if isinstance(self._source, Files):
            self._source.numeric.update(name for name, how in self._chosen.readings.items() if how == "number")

    def _meets(self, rows: "pl.DataFrame") -> "pl.Series | None":
        import polars as pl

        if not self._order.where:
            return None
        try:
            if self._condition is None:
                self._condition = pl.sql_expr(self._order.where)
            found = rows.select(self._condition.alias("meets"))["meets"]
            if found.dtype != pl.Boolean:
                raise ConfigurationError(f"the condition {self._order.where!r} is no question of yes or no")
            return found.fill_null(value=False)
        except pl.exceptions.PolarsError as error:
            reason = str(error).partition("\n")[0]
            raise ConfigurationError(
                f"the condition {self._order.where!r} cannot be asked of {self._where}: {reason}. Columns of text "
                "files that the model does not take are text: compare with '1', or write CAST(name AS DOUBLE)"
            ) from None

    def expected(self) -> int | None:
        """About how many rows there are; None where that takes reading them."""
        import polars as pl

        scheme, files = self._address.scheme, self._files()
        if scheme == "files":
            return len(files)
        if scheme in ("parquet", "arrow"):
            scan = pl.scan_parquet if scheme == "parquet" else pl.scan_ipc
            return int(scan(files).select(pl.len()).collect().item())
        if scheme in _FILES:
            lines = sum(_lines(path) for path in files)
            return lines - len(files) if scheme in ("csv", "tsv") and "columns" not in self._address.options else lines
        return None

    def _files(self) -> list[Path]:
        if self._address.scheme not in _FILES:
            return []
        if self._address.scheme != "files":
            return self._address.files()
        root = self._address.folder / self._address.rest
        base = root / "images" if (root / "images").is_dir() and (root / "masks").is_dir() else root
        return sorted(one for one in base.rglob("*") if one.is_file() and not one.name.startswith("."))

    def _fingerprint(self) -> str:
        files = self._files()
        if not files:
            return ""
        found = hashlib.sha256()
        for path in files:
            status = path.stat()
            found.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        return found.hexdigest()


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(part.count(b"\n") for part in iter(lambda: file.read(1 << 20), b""))

"""Delimited text without quotation marks, many rows at a time: what most files are, ten times as fast.

A block of lines is taken whole where every line has as many separators as the header, and nothing in it means anything
but itself; any other block goes through `csv`, row by row, and from the first quotation mark on so does the rest.
"""

import csv
import io
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rung.domain.datasets import Piece

if TYPE_CHECKING:
    import polars as pl

__all__ = ["read_plain"]

_BYTES = 4 << 20
_LONGEST = 100_000
"""Bytes of a line; `csv` has a limit of its own for a field."""
_MARK = b"\xef\xbb\xbf"

Slow = Callable[[Any, "list[str] | None", int], Iterator[Piece]]
"""(lines of text, names of the columns, lines before them) -> pieces."""


def read_plain(
    path: Path,
    separator: str,
    columns: list[str] | None,
    quote: str,
    slow: Slow,
    most: int,
    numeric: Collection[str] = (),
) -> Iterator[Piece]:
    """The rows of a file as pieces of text columns of `most` rows; an empty field is null.

    Args:
        path: of the file.
        separator: one character.
        columns: their names where the file has no header.
        quote: the quotation mark; empty: there is none.
        slow: reads what is not plain, and says what is wrong with it.
        most: rows of a piece.
        numeric: columns that come as FP64 where all their values in a piece are numbers; looked at for each anew.

    Raises:
        UnicodeDecodeError: it is not UTF-8; `start` counts from the beginning of the file.
    """
    with path.open("rb") as file:
        if file.read(len(_MARK)) != _MARK:
            file.seek(0)
        start, line = file.tell(), 0
        names = columns
        if not names:
            head = file.readline()
            names = _names(head, separator, quote)
            start, line = file.tell(), 1
        if names is None or len(separator.encode()) > 1:
            with path.open(newline="", encoding="utf-8-sig") as text:
                yield from slow(text, columns, 0)
            return
        for block in _blocks(file):
            if quote and quote.encode() in block:
                with path.open("rb") as again, io.TextIOWrapper(again, "utf-8", newline="") as text:
                    again.seek(start)
                    yield from slow(text, names, line)
                return
            _check_text(block, start)
            frame = _frame(block, separator, names, numeric)
            if frame is None:
                yield from slow(io.StringIO(block.decode(), newline=""), names, line)
                line += _lines(block)
            else:
                loose = [name for name, dtype in frame.schema.items() if name not in numeric or not dtype.is_numeric()]
                for first in range(0, frame.height, most):
                    part = frame[first : first + most]
                    numbers = range(line + first + 1, line + first + 1 + part.height)
                    yield Piece(part, numbers=numbers, where=str(path), loose=loose)
                line += frame.height
            start += len(block)


def _names(head: bytes, separator: str, quote: str) -> list[str] | None:
    """Names in the first line; None where it is for `slow` to tell."""
    if b"\r" in head.rstrip(b"\r\n") or (quote and head.count(quote.encode()) % 2):
        return None
    text = [head.decode()]
    if quote:
        reader = csv.reader(text, delimiter=separator, quotechar=quote)
    else:
        reader = csv.reader(text, delimiter=separator, quotechar=None, quoting=csv.QUOTE_NONE)
    names = [name.strip() for name in next(reader, [])]
    return names if names and len(set(names)) == len(names) and len(names) > 1 else None


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of a file, each block whole lines."""
    rest = b""
    while read := file.read(_BYTES):
        cut = read.rfind(b"\n") + 1
        if not cut:
            rest += read
            continue
        yield rest + read[:cut]
        rest = read[cut:]
    if rest:
        yield rest


def _check_text(block: bytes, start: int) -> None:
    if block.isascii():
        return
    try:
        block.decode()
    except UnicodeDecodeError as error:
        raise UnicodeDecodeError("utf-8", b"", error.start + start, error.end + start, error.reason) from None


def _lines(block: bytes) -> int:
    """As `csv` counts them: a line ends with either sign, or with both."""
    ends = block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")
    return ends + (not block.endswith((b"\n", b"\r")))


def _frame(block: bytes, separator: str, names: list[str], numeric: Collection[str]) -> "pl.DataFrame | None":
    """The block as columns; None where a line of it is not as the header says."""
    import polars as pl

    if b"\r" in block:
        block = block.replace(b"\r\n", b"\n")
    if b"\r" in block or b"\0" in block:
        return None
    if not block.endswith(b"\n"):
        block += b"\n"
    lines, fields = block.count(b"\n"), block.count(separator.encode())
    # As many fields as there should be in all, and none with more, which polars refuses: so none has fewer.
    if fields != lines * (len(names) - 1) or not _short_lines(block):
        return None
    read = partial(
        pl.read_csv,
        block,
        has_header=False,
        new_columns=names,
        separator=separator,
        quote_char=None,
        infer_schema=False,
    )
    numbers = {name: pl.Float64 for name in names if name in numeric}
    # Twice as fast as text that is then read as numbers. A blank field is no number, which only the text shows.
    if numbers and not _padded(block, separator.encode()):
        with suppress(pl.exceptions.PolarsError):  # one is none: as text, and whoever takes it says which
            return read(schema_overrides=numbers)
    with suppress(pl.exceptions.PolarsError):
        return read()
    return None


def _short_lines(block: bytes) -> bool:
    """Whether no line is longer than is allowed: so it is where each half of that has an end of a line."""
    half = _LONGEST // 2
    return all(block.find(b"\n", at, at + half) >= 0 for at in range(0, len(block) - half, half))


def _padded(block: bytes, separator: bytes) -> bool:
    """Whether a field begins with a blank."""
    blanks = [blank for blank in (b" ", b"\t") if blank != separator and blank in block]
    return any(block.startswith(one) or b"\n" + one in block or separator + one in block for one in blanks)

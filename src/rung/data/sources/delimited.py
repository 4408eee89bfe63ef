"""Comma-separated values and their kin. Every value comes as text; types are told from all of a column at once."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rung.data.sources import Address
from rung.data.sources.files import Files
from rung.data.sources.plain import read_plain
from rung.domain.datasets import Piece, Quarantined
from rung.domain.errors import ConfigurationError, InvalidData

__all__ = ["open_csv", "open_tsv", "read_rows"]

_ROWS = 50_000
_SHOWN = 200


def read_rows(
    lines: "Iterator[str] | object",
    where: str,
    separator: str = ",",
    columns: list[str] | None = None,
    quote: str = '"',
    before: int = 0,
) -> Iterator[Piece]:
    """Rows of delimited text as pieces of text columns; an empty field is null. `before` lines stand above these.

    Raises:
        InvalidData: no header, or a column named twice.
    """
    # Without a quote character a quotation mark is a letter like any other.
    how = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=separator, quotechar=quote or None, quoting=how)  # type: ignore[arg-type]
    names = columns or next(reader, [])
    if not names:
        raise InvalidData(f"{where} is empty: a first line with the names of the columns is expected")
    names = [name.strip() for name in names]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidData(f"{where} names the column {twice[0]!r} twice")
    rows: list[list[str]] = []
    numbers: list[int] = []
    refused: list[Quarantined] = []
    number = before if columns else before + 1
    while True:
        number = max(number + 1, before + reader.line_num + 1)
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            refused.append(Quarantined(where, number, str(error), ""))
            continue
        if not row:
            continue
        if len(row) != len(names):
            reason = f"{len(row)} fields where the header has {len(names)}"
            refused.append(Quarantined(where, number, reason, separator.join(row)[:_SHOWN]))
            continue
        rows.append(row)
        numbers.append(number)
        if len(rows) >= _ROWS:
            yield Piece(_frame(rows, names), refused, numbers=numbers, where=where, loose=names)
            rows, refused, numbers = [], [], []
    yield Piece(_frame(rows, names), refused, numbers=numbers, where=where, loose=names)


def _frame(rows: list[list[str]], names: list[str]) -> object:
    from polars import DataFrame, Series, String

    columns = zip(*rows, strict=True) if rows else [[] for _ in names]
    return DataFrame(
        [Series(name, [value or None for value in column], String) for name, column in zip(names, columns, strict=True)]
    )


def open_csv(address: Address) -> Files:
    """`csv:PATH?separator=;&columns=a,b&quote=`; with `columns` the files have no header."""
    return _open(address, ",")


def open_tsv(address: Address) -> Files:
    """`tsv:PATH`."""
    return _open(address, "\t")


def _open(address: Address, usual: str) -> Files:
    address.allow("separator", "columns", "quote")
    separator = address.options.get("separator", usual).replace("\\t", "\t").replace("tab", "\t")
    if len(separator) != 1:
        raise ConfigurationError(f"separator of {address.url!r} must be one character, or tab")
    columns = [name for name in address.options.get("columns", "").split(",") if name]
    quote = address.options.get("quote", '"')

    numeric: set[str] = set()

    def read(path: Path) -> Iterator[Piece]:
        def slow(lines: Any, names: list[str] | None, before: int) -> Iterator[Piece]:
            return read_rows(lines, str(path), separator, names, quote, before)

        yield from read_plain(path, separator, columns, quote, slow, _ROWS, numeric)

    return Files(address, read, numeric)

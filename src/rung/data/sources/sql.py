"""Rows of a database: a table or a query, read in one snapshot; what is new since the last time by a growing column."""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import quote

from rung.data.sources import Address, without_password
from rung.domain.datasets import Piece
from rung.domain.errors import ConfigurationError, InvalidData, MissingDependency

__all__ = ["open_postgresql", "open_sqlite"]

_ROWS = 50_000
_NAME = re.compile(r"[A-Za-z_][\w.]*\Z")


class _Query:
    """One SELECT. With `cursor=COLUMN` only rows above the last value come, in the order of that column.

    The column must grow from row to row and never be given twice, as an identity does: a row that appears later with
    a value below the last one is not seen.
    """

    def __init__(self, address: Address, mark: str) -> None:
        address.allow("table", "query", "cursor")
        table, query, self._column = (address.options.get(name, "") for name in ("table", "query", "cursor"))
        for name in filter(None, (table, self._column)):
            if not _NAME.match(name):
                raise ConfigurationError(f"{name!r} in the source {without_password(address.url)!r} is no plain name")
        if bool(table) == bool(query):
            raise ConfigurationError(
                f"the source {without_password(address.url)!r} needs a table or a query, one of both"
            )
        self._query = query or f"SELECT * FROM {table}"  # noqa: S608 - a plain name, checked above
        self._mark, self.address = mark, address
        self.incremental = bool(self._column)

    def select(self, cursor: str) -> tuple[str, list[str]]:
        """The statement and its values."""
        if not self._column:
            return self._query, []
        inner = f"SELECT * FROM ({self._query}) AS rows_"  # noqa: S608 - the user's own query, on the user's database
        if not cursor:
            return f"{inner} ORDER BY {self._column}", []
        # The cursor is kept as text; the database compares it as what the column is.
        return f"{inner} WHERE {self._column} > {self._mark} ORDER BY {self._column}", [cursor]

    def piece(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Piece:
        """Rows as a table, with the last value of the cursor's column."""
        import polars as pl

        columns = list(zip(*rows, strict=True))
        made = []
        for name, values in zip(names, columns, strict=True):
            try:
                made.append(pl.Series(name, list(values), strict=True))
            except (TypeError, pl.exceptions.PolarsError):
                # SQLite lets every row have its own kind; text holds all of them.
                made.append(pl.Series(name, [None if one is None else str(one) for one in values], pl.String))
        frame = pl.DataFrame(made)
        if not self._column:
            return Piece(frame)
        if self._column not in names:
            raise InvalidData(f"the query gives no column {self._column!r} (cursor); there are {', '.join(names)}")
        return Piece(frame, cursor=str(rows[-1][names.index(self._column)]))


class _Sqlite(_Query):
    def read(self, cursor: str) -> Iterator[Piece]:
        """All rows, or those above the cursor."""
        from pysqlite3 import dbapi2

        path = (self.address.folder / self.address.rest).resolve()
        if not path.is_file():
            raise ConfigurationError(f"there is no database {path}")
        try:
            with closing(dbapi2.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=30)) as database:
                statement, values = self.select(cursor)
                # A number compares with a number, or every text would be above it.
                numbers = [float(value) if _number(value) else value for value in values]
                answer = database.execute(statement, numbers)
                names = [column[0] for column in answer.description]
                while rows := answer.fetchmany(_ROWS):
                    yield self.piece(names, rows)
        except dbapi2.Error as error:
            raise InvalidData(f"{path}: {error}") from None

    def keep(self, cursor: str) -> None:
        """Nothing to keep."""


class _Postgresql(_Query):
    def read(self, cursor: str) -> Iterator[Piece]:
        """All rows, or those above the cursor; a cursor of the server's own keeps few of them here."""
        try:
            import psycopg
        except ModuleNotFoundError:
            raise MissingDependency("postgresql: sources need psycopg: pip install 'rung[postgres]'") from None
        url = f"postgresql:{self.address.rest}"
        try:
            with self._connect(psycopg, url) as connection, connection.cursor("rung_rows") as answer:
                answer.itersize = _ROWS
                answer.execute(*self.select(cursor))
                while rows := answer.fetchmany(_ROWS):
                    yield self.piece([column.name for column in answer.description], rows)
        except psycopg.Error as error:
            # Its messages may repeat what it was given, a password included.
            reason = str(error).partition("\n")[0].replace(url, without_password(url))
            raise InvalidData(f"{without_password(url)}: {reason}") from None

    @contextmanager
    def _connect(self, psycopg: Any, url: str) -> Iterator[Any]:
        with psycopg.connect(url, connect_timeout=10) as connection:
            connection.read_only = True
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            yield connection

    def keep(self, cursor: str) -> None:
        """Nothing to keep."""


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def open_sqlite(address: Address) -> _Sqlite:
    """`sqlite:PATH?table=NAME&cursor=COLUMN` or `?query=SELECT...`; spaces of a query are written `+`."""
    return _Sqlite(address, "?")


def open_postgresql(address: Address) -> _Postgresql:
    """`postgresql://user@host/database?table=NAME&cursor=COLUMN`."""
    return _Postgresql(address, "%s")

"""Tables of a database as the place of results: each row under its key, the version and the day, once.

A row that is written again is replaced, so that a run which was cut off, or is run anew, leaves each row once.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
from sqlalchemy import Connection, Engine, create_engine, event, exc, inspect, make_url, text
from sqlalchemy.engine import URL

from rung.domain.errors import ConfigurationError, InvalidData, MissingDependency, NotReady

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Identity", "Table", "open_table"]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_ROWS = 5_000
"""Rows of one statement's execution."""


class Identity(msgspec.Struct, frozen=True):
    """What all rows of a run have in common."""

    model: str
    version: int
    as_of: str


class Table:
    """A table of the user's own: made where it is not there, with a column for each of the result's.

    Rows are found by the columns of `same`, which have one value in all of them, and those of `key`.
    """

    def __init__(self, engine: Engine, name: str, same: Mapping[str, Any], key: Sequence[str], shown: str) -> None:
        self._engine, self._name, self._same, self._shown = engine, name, dict(same), shown
        self._key = tuple(key)
        self._ready = False

    def begin(self, mark: Any) -> None:
        """What was not committed is written again, over itself."""

    def write(self, number: int, rows: "pl.DataFrame") -> Any:
        """Write the rows in one transaction."""
        import polars as pl

        lists = [column.name for column in rows if isinstance(column.dtype, pl.List | pl.Array)]
        nulls = [name for name in self._key if rows[name].null_count()]
        if nulls:
            raise InvalidData(f"the key {nulls[0]!r} is empty in some rows: no row of a table can be found by it")
        table = rows.with_columns(
            *(pl.Series(name, [msgspec.json.encode(one).decode() for one in rows[name].to_list()]) for name in lists),
            *(pl.lit(value).alias(name) for name, value in self._same.items()),
        )
        with _errors(self._shown), self._engine.begin() as connection:
            statement = self._statement(connection, table)
            names = table.columns
            for part in table.iter_slices(_ROWS):
                values = [dict(zip(_marks(names), row, strict=True)) for row in part.iter_rows()]
                connection.execute(text(statement), values)
        return number

    def finish(self) -> None:
        """The rows are there."""

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _statement(self, connection: Connection, table: "pl.DataFrame") -> str:
        if not self._ready:
            self._make(connection, table)
            self._ready = True
        names = table.columns
        same = [*self._same, *self._key]
        others = [name for name in names if name not in same]
        columns, marks = ", ".join(map(_quoted, names)), ", ".join(f":{mark}" for mark in _marks(names))
        changes = ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in others)
        then = f"UPDATE SET {changes}" if changes else "NOTHING"
        # Names are quoted and values are parameters.
        return (
            f"INSERT INTO {self._name} ({columns}) VALUES ({marks}) "  # noqa: S608
            f"ON CONFLICT ({', '.join(map(_quoted, same))}) DO {then}"
        )

    def _make(self, connection: Connection, table: "pl.DataFrame") -> None:
        found = inspect(connection)
        if not found.has_table(self._name):
            same = [*self._same, *self._key]
            columns = [f"{_quoted(name)} {_type(table.schema[name])}" for name in table.columns]
            primary = f"PRIMARY KEY ({', '.join(map(_quoted, same))})"
            connection.execute(text(f"CREATE TABLE {self._name} ({', '.join([*columns, primary])})"))
            return
        there = {column["name"] for column in found.get_columns(self._name)}
        missing = [name for name in table.columns if name not in there]
        if missing:
            raise ConfigurationError(
                f"the table {self._name} of {self._shown} has no column {missing[0]!r}: drop it, or name another table"
            )
        wanted = {*self._same, *self._key}
        keys: list[list[str | None]] = [[*found.get_pk_constraint(self._name)["constrained_columns"]]]
        keys += [[*one["column_names"]] for one in found.get_unique_constraints(self._name)]
        keys += [one["column_names"] for one in found.get_indexes(self._name) if one["unique"]]
        if not any(set(one) == wanted for one in keys):
            raise ConfigurationError(
                f"the table {self._name} of {self._shown} has no key of {', '.join(sorted(wanted))}, without which "
                "rows cannot be written once: let rung make the table, or add a unique index"
            )


def open_table(url: str, same: Mapping[str, Any], key: Sequence[str], folder: Path = Path()) -> Table:
    """The table at `sqlite:PATH?table=NAME` or `postgresql://user@host/database?table=NAME`.

    Raises:
        ConfigurationError: the URL names no table.
        MissingDependency: an extra has to be installed.
    """
    place, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    name = options.pop("table", "")
    if not _NAME.match(name) or options:
        raise ConfigurationError(f"{place!r} needs ?table=NAME, a plain name, and nothing else: where do the rows go?")
    if url.startswith("sqlite:"):
        path = place.removeprefix("sqlite:").removeprefix("///")
        return Table(_sqlite(folder / path), name, same, key, place)
    try:
        import psycopg  # noqa: F401 - asks whether it is there
    except ImportError:
        raise MissingDependency("postgresql: tables need psycopg: pip install 'rung[postgres]'") from None
    parsed = make_url(place).set(drivername="postgresql+psycopg")
    shown = parsed.set(drivername="postgresql").render_as_string()
    return Table(create_engine(parsed, connect_args={"connect_timeout": 10}), name, same, key, shown)


def _sqlite(path: Path) -> Engine:
    from pysqlite3 import dbapi2

    if not path.parent.is_dir():
        raise ConfigurationError(f"there is no folder {path.parent} for the database {path.name}")
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        module=dbapi2,
        connect_args={"timeout": 30, "isolation_level": None, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = FULL")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _type(dtype: "pl.DataType") -> str:
    import polars as pl

    if dtype.is_integer():
        return "BIGINT"
    if dtype.is_numeric():
        return "DOUBLE PRECISION"
    if dtype == pl.Boolean:
        return "BOOLEAN"
    return "TEXT"


def _quoted(name: str) -> str:
    escaped = name.replace('"', '""')
    # A colon would begin a parameter.
    return '"' + escaped.replace(":", "\\:") + '"'


def _marks(names: Sequence[str]) -> list[str]:
    return [f"p{place}" for place in range(len(names))]


@contextmanager
def _errors(shown: str) -> Iterator[None]:
    try:
        yield
    except exc.OperationalError as error:
        reason = str(error.orig).partition("\n")[0]
        raise NotReady(f"{shown} cannot be written: {reason}; go on with --resume") from None
    except exc.SQLAlchemyError as error:
        reason = str(getattr(error, "orig", error)).partition("\n")[0]
        raise ConfigurationError(f"{shown} refused the rows: {reason}") from None

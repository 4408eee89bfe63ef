"""Rows in a table of the user's own, on SQLite and PostgreSQL."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import create_engine, text

from rung.domain.errors import ConfigurationError, InvalidData
from rung.offline.scoring.tables import open_table

SAME = {"model": "flats", "version": 1, "as_of": "2026-01-31"}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'out.db'}?table=answers"
    found = str(request.getfixturevalue("postgres"))
    engine = create_engine(found.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS answers"))
    engine.dispose()
    return f"{found}?table=answers"


def rows_in(url: str) -> list[tuple[Any, ...]]:
    place = url.partition("?")[0]
    name = place.replace("sqlite:", "sqlite:///", 1).replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(name)
    with engine.connect() as connection:
        found = connection.execute(text('SELECT as_of, id, prediction, "a:b" FROM answers ORDER BY as_of, id')).all()
    engine.dispose()
    return [tuple(one) for one in found]


def test_a_row_is_there_once_for_each_version_and_day(url: str) -> None:
    first = pl.DataFrame({"row": [1, 2], "id": ["a", "b"], "prediction": [1.0, None], "a:b": [[1, 2], None]})
    for _ in range(2):
        table = open_table(url, SAME, ("id",))
        table.begin(None)
        assert table.write(1, first) == 1
        table.write(2, pl.DataFrame({"row": [3], "id": ["b"], "prediction": [2.5], "a:b": [[3]]}))
        table.finish()
        table.close()
    other = open_table(url, {**SAME, "as_of": "2026-02-01"}, ("id",))
    other.write(1, first[:1])
    other.finish()
    other.close()

    assert rows_in(url) == [
        ("2026-01-31", "a", 1.0, "[1,2]"),
        ("2026-01-31", "b", 2.5, "[3]"),
        ("2026-02-01", "a", 1.0, "[1,2]"),
    ]


def test_a_table_that_cannot_take_rows_once_is_refused(url: str) -> None:
    table = open_table(url, SAME, ("id",))
    table.write(1, pl.DataFrame({"row": [1], "id": ["a"], "prediction": [1.0]}))
    table.finish()
    table.close()
    more = open_table(url, SAME, ("id",))
    with pytest.raises(ConfigurationError, match="no column 'extra'"):
        more.write(1, pl.DataFrame({"row": [1], "id": ["a"], "extra": [1]}))
    more.finish()
    more.close()
    otherwise = open_table(url, SAME, ("id", "row"))
    with pytest.raises(ConfigurationError, match="no key of as_of, id, model, row, version"):
        otherwise.write(1, pl.DataFrame({"row": [1], "id": ["a"], "prediction": [1.0]}))
    otherwise.finish()
    otherwise.close()
    empty = open_table(url, SAME, ("id",))
    with pytest.raises(InvalidData, match="'id' is empty"):
        empty.write(1, pl.DataFrame({"row": [1], "id": pl.Series([None], dtype=pl.String), "prediction": [1.0]}))
    empty.finish()
    empty.close()


@pytest.mark.parametrize("url", ["sqlite:out.db", "sqlite:out.db?table=a b", "sqlite:out.db?table=a&x=1"], ids=str)
def test_a_url_without_a_table_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs \\?table=NAME"):
        open_table(url, SAME, ("id",), tmp_path)
    with pytest.raises(ConfigurationError, match="there is no folder"):
        open_table("sqlite:nowhere/out.db?table=a", SAME, ("id",), tmp_path)

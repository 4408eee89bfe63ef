"""What was read waits until all of it is there: types are told from every row, and what breaks off leaves nothing."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.data import datasets
from rung.domain.datasets import Piece
from rung.domain.errors import InvalidData
from rung.settings.project import DataSection
from rung.store.blobs import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "store"))


def take(store, folder, text, name="rows.csv"):
    (folder / name).write_text(text)
    return datasets.ingest(store, "rows", DataSection(source=name), folder)


def keys(store):
    return [blob.key for blob in store.list("datasets")]


def test_refused_rows_keep_the_numbers_of_their_lines(store, tmp_path):
    good = "".join(f"{number},{number}.5\n" for number in range(100))
    version = take(store, tmp_path, f"id,size\n{good}7\nx,1\n{good}")
    refused = datasets.quarantined(store, "rows", version.digest)
    assert [(one.row, one.reason) for one in refused] == [
        (102, "1 fields where the header has 2"),
        (103, "column id: 'x' is no integer"),
    ]


def test_a_word_among_numbers_of_json_is_refused(store, tmp_path):
    lines = [f'{{"a": {number}}}' for number in range(100)]
    lines[7] = '{"a": "seven"}'
    version = take(store, tmp_path, "\n".join(lines), "rows.jsonl")
    assert version.columns == {"a": "integer"}
    (one,) = datasets.quarantined(store, "rows", version.digest)
    assert (one.row, one.reason) == (8, "column a: 'seven' is no integer")


def test_types_are_told_from_all_rows_and_columns_may_come_late(store, tmp_path):
    lines = ['{"a": null}'] * 20_005 + ['{"a": 1, "b": 2}', '{"a": 1.5}', "no json"]
    version = take(store, tmp_path, "\n".join(lines), "rows.jsonl")
    assert version.columns == {"a": "number", "b": "integer"}
    assert datasets.frame(store, version)["b"].drop_nulls().to_list() == [2]
    assert [one.row for one in datasets.quarantined(store, "rows", version.digest)] == [20_008]
    assert sum(part.height for part in datasets.scan(store, version, rows=999)) == version.rows


class _Breaks:
    """Gives two rows, then its server is gone."""

    incremental = True

    def read(self, cursor):
        yield Piece(pl.DataFrame({"id": [3, 4]}), cursor="4")
        raise InvalidData("the server went away")

    def keep(self, cursor):
        raise AssertionError("nothing was kept")


def test_a_source_that_breaks_off_leaves_nothing_behind(store, tmp_path, monkeypatch):
    before = take(store, tmp_path, "id\n1\n2\n")
    there = keys(store)
    monkeypatch.setattr(datasets, "open_source", lambda *_: _Breaks())
    with pytest.raises(InvalidData, match="went away"):
        datasets.ingest(store, "rows", DataSection(source="rows.csv"), tmp_path)
    assert keys(store) == there
    assert datasets.latest(store, "rows") == before


def test_no_password_is_kept_or_said():
    from rung.data.sources import without_password

    for url in ("postgresql://me:hush@host/db?table=t", "https://host/a.csv?token=hush&x=1", "nats://me:hush@host/s"):
        assert "hush" not in without_password(url)
        assert "host" in without_password(url)


class _Growing:
    """A table of numbered rows, read from a cursor on, in pieces of any size."""

    incremental = True

    def __init__(self, rows, size):
        self._rows, self._size = rows, size

    def read(self, cursor):
        rows = [row for row in self._rows if row > int(cursor or 0)]
        for start in range(0, len(rows), self._size):
            part = rows[start : start + self._size]
            yield Piece(pl.DataFrame({"id": part}), cursor=str(part[-1]))

    def keep(self, cursor):
        pass


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 7), st.sets(st.integers(0, 5)))
@settings(max_examples=10, deadline=None)
def test_a_cursor_never_loses_or_doubles_a_row(tmp_path_factory, growth, size, broken):
    """Whatever comes between reads, and whichever of them are stopped half-way."""
    store = open_store(str(tmp_path_factory.mktemp("store")))
    rows = [1]
    with pytest.MonkeyPatch.context() as patch:
        for turn, more in enumerate([*growth, 0]):
            rows = [*rows, *range(len(rows) + 1, len(rows) + more + 1)]
            patch.setattr(datasets, "open_source", lambda *_, given=tuple(rows): _Growing(given, size))
            goes = (lambda: False) if turn in broken and turn < len(growth) else (lambda: True)
            try:
                datasets.ingest(
                    store, "rows", DataSection(source="any"), tmp_path_factory.getbasetemp(), keep_going=goes
                )
            except InvalidData as error:
                assert "stopped" in str(error)  # noqa: PT017 - a stopped read is one of the cases
    version = datasets.latest(store, "rows")
    assert datasets.frame(store, version)["id"].to_list() == rows

"""What every source of rows has to do, whatever it reads: inherit `RowSourceConformance` and fill in three methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rung.data import datasets
from rung.domain.errors import InvalidData
from rung.settings.project import DataSection
from rung.store.blobs import open_store

__all__ = ["ROWS", "RowSourceConformance"]

ROWS: tuple[dict[str, Any], ...] = tuple(
    {"id": number, "city": ("bonn", "köln", "ulm")[number % 3], "size": number / 4 if number % 5 else None}
    for number in range(1, 8)
)


class RowSourceConformance:
    """Rows with an integer, a text and a number that may be absent."""

    def put(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows to what the source reads, after those that are there."""
        raise NotImplementedError

    def url(self) -> str:
        """The URL of the source."""
        raise NotImplementedError

    def vanish(self) -> None:
        """Take away what the source reads."""
        raise NotImplementedError

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Where the project and the store lie."""
        return tmp_path

    def take(self, folder: Path) -> Any:
        """Take in what is new."""
        return datasets.ingest(open_store(str(folder / "store")), "cities", DataSection(source=self.url()), folder)

    def table(self, folder: Path) -> list[dict[str, Any]]:
        """All rows of the newest version, the three columns of them."""
        store = open_store(str(folder / "store"))
        version = datasets.latest(store, "cities")
        assert version is not None
        frame = datasets.frame(store, version).select("id", "city", "size")
        return frame.with_columns(pl.col("size").cast(pl.Float64)).to_dicts()

    def test_rows_come_as_they_are_with_their_types(self, folder: Path) -> None:
        """Every row, once, in order."""
        self.put(ROWS)
        version = self.take(folder)
        assert version.rows == len(ROWS)
        assert self.table(folder) == list(ROWS)
        assert version.columns["id"] == "integer"
        assert version.columns["city"] == "text"
        assert version.columns["size"] == "number"

    def test_reading_again_is_the_same_version(self, folder: Path) -> None:
        """Nothing new is no new version."""
        self.put(ROWS)
        first = self.take(folder)
        assert self.take(folder) == first
        assert len(datasets.versions(open_store(str(folder / "store")), "cities")) == 1

    def test_what_is_added_comes_once(self, folder: Path) -> None:
        """The second read has all rows, none twice."""
        self.put(ROWS[:4])
        first = self.take(folder)
        self.put(ROWS[4:])
        second = self.take(folder)
        assert self.table(folder) == list(ROWS)
        assert second.parent == first.digest

    def test_a_source_that_is_gone_leaves_the_versions_as_they_were(self, folder: Path) -> None:
        """An error, and the old rows."""
        self.put(ROWS)
        before = self.take(folder)
        self.vanish()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - which one differs; that it is ours does not
            self.take(folder)
        assert isinstance(caught.value, InvalidData) or "there is no" in str(caught.value)
        assert datasets.latest(open_store(str(folder / "store")), "cities") == before

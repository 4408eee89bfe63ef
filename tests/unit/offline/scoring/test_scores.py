"""Answers by key, on both databases: the newest, the group's where there is none, and what is told of them."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sqlalchemy import text

from rung.domain.errors import ConfigurationError, InvalidData, NotFound
from rung.offline.scoring import scores
from rung.offline.scoring.results import Answers
from rung.offline.scoring.scores import Scores, ScoreStore
from rung.offline.scoring.tables import Identity
from rung.store.database import Database, open_database

NUMBERS = Answers(lambda results, rows: [], value="prediction")
CLASSES = Answers(lambda results, rows: [], value="score", label="label")


class Clock:
    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(scores, "time", clock)
    return clock


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:{tmp_path / 'rung.db'}"
    found = str(request.getfixturevalue("postgres"))
    with open_database(found) as database:
        for table in ("rung_scores", "rung_score_groups"):
            database.write(lambda connection, table=table: connection.execute(text(f"DELETE FROM {table}")))
    return found


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    with open_database(url) as database:
        yield database


def write(url: str, day: str, rows: dict[str, Any], answers: Answers = NUMBERS, **changes: Any) -> None:
    settings = {"key": ("id",), "group": ("town",), "days": 0, **changes}
    sink = Scores(url, Identity("flats", 1, day), settings["key"], settings["group"], answers, days=settings["days"])
    count = len(next(iter(rows.values())))
    with closing(sink):
        sink.begin(None)
        sink.write(1, pl.DataFrame({"row": range(1, count + 1), **rows}))
        sink.finish()


def test_a_key_has_its_newest_answer_and_a_day_can_be_asked_for(url: str, database: Database, clock: Clock) -> None:
    write(url, "2026-01-30", {"id": ["a", "b"], "town": ["x", "y"], "prediction": [1.0, 2.0]})
    clock.now = 2000.0
    write(url, "2026-01-31", {"id": ["a"], "town": ["x"], "prediction": [1.5]})
    clock.now = 2060.0
    store = ScoreStore(database, clock.time)

    newest = store.find("flats", ["a"])
    assert (newest.answer, newest.as_of, newest.age_seconds) == ({"prediction": 1.5}, "2026-01-31", 60.0)
    assert (newest.fallback, newest.stale, newest.rows, newest.group) == (False, False, 1, ("x",))
    assert store.find("flats", ["a"], as_of="2026-01-30").answer == {"prediction": 1.0}
    assert store.find("flats", ["b"]).as_of == "2026-01-30"
    assert [(run.as_of, run.rows) for run in store.runs("flats")] == [("2026-01-31", 1), ("2026-01-30", 2)]


def test_a_missing_key_has_the_answer_of_its_group_marked_and_counted(
    url: str, database: Database, clock: Clock
) -> None:
    write(url, "2026-01-31", {"id": ["a", "b", "c"], "town": ["x", "x", "y"], "prediction": [1.0, 2.0, 9.0]})
    clock.now = 1500.0
    store = ScoreStore(database, clock.time)

    found = store.find("flats", ["new"], group=["x"])

    assert (found.answer, found.rows, found.fallback, found.age_seconds) == ({"prediction": 1.5}, 2, True, 500.0)
    with pytest.raises(NotFound, match="nor of the group z"):
        store.find("flats", ["new"], group=["z"])
    with pytest.raises(NotFound, match="nothing is known of 'new'"):
        store.find("flats", ["new"])
    with pytest.raises(NotFound):
        store.find("other", ["a"])
    store.find("flats", ["a"])
    assert store.counts("flats") == {"own": 1, "stale": 0, "group": 1, "missing": 2}


def test_an_old_answer_gives_way_to_a_young_one_of_the_group(url: str, database: Database, clock: Clock) -> None:
    write(url, "2026-01-30", {"id": ["a", "b"], "town": ["x", "y"], "prediction": [1.0, 2.0]})
    clock.now = 5000.0
    write(url, "2026-01-31", {"id": ["c"], "town": ["x"], "prediction": [4.0]})
    store = ScoreStore(database, clock.time)

    fresh = store.find("flats", ["a"], max_age=100)
    assert (fresh.answer, fresh.fallback, fresh.stale) == ({"prediction": 4.0}, True, False)
    old = store.find("flats", ["b"], max_age=100)
    assert (old.answer, old.fallback, old.stale) == ({"prediction": 2.0}, False, True)
    clock.now = 9000.0
    group = store.find("flats", ["new"], group=["y"], max_age=100)
    assert (group.answer, group.fallback, group.stale) == ({"prediction": 2.0}, True, True)


def test_the_most_frequent_class_stands_for_a_group(url: str, database: Database) -> None:
    rows = {"id": list("abcd"), "town": ["x"] * 4, "label": ["cat", "dog", "cat", None], "score": [0.9, 0.6, 0.7, None]}
    write(url, "2026-01-31", rows, CLASSES)

    found = ScoreStore(database).find("flats", ["new"], group=["x"])

    assert found.answer == {"label": "cat", "score": pytest.approx(0.8), "share": 0.5}
    assert found.rows == 4


def test_keys_and_groups_of_several_columns(url: str, database: Database) -> None:
    rows = {"id": ["1", "1"], "part": ["a,b", '["a"]'], "town": ["x", "x"], "age": ["7", "8"], "prediction": [1.0, 2.0]}
    write(url, "2026-01-31", rows, key=("id", "part"), group=("town", "age"))
    store = ScoreStore(database)

    assert store.find("flats", ["1", "a,b"]).answer == {"prediction": 1.0}
    assert store.find("flats", ["1", '["a"]']).group == ("x", "8")
    assert store.find("flats", ["2", "z"], group=["x", "7"]).answer == {"prediction": 1.0}


def test_writing_again_leaves_each_row_once_and_old_days_are_forgotten(url: str, database: Database) -> None:
    for _ in range(2):
        write(url, "2026-01-01", {"id": ["a", "b", "a"], "town": ["x"] * 3, "prediction": [1.0, 2.0, 3.0]})
    store = ScoreStore(database)
    assert store.runs("flats")[0].rows == 2
    assert store.find("flats", ["a"]).answer == {"prediction": 3.0}
    write(url, "2026-01-31", {"id": ["c"], "town": ["y"], "prediction": [1.0]}, days=10)

    assert [run.as_of for run in store.runs("flats")] == ["2026-01-31"]
    with pytest.raises(NotFound):
        store.find("flats", ["a"], group=["x"])


def test_what_cannot_be_found_again_is_not_written(url: str) -> None:
    with pytest.raises(InvalidData, match="'id' is empty"):
        write(url, "2026-01-31", {"id": ["a", None], "town": ["x", "x"], "prediction": [1.0, 2.0]})
    with pytest.raises(ConfigurationError, match="no mean"):
        write(url, "2026-01-31", {"id": ["a"], "town": ["x"], "answer": ["{}"]}, Answers(lambda results, rows: []))

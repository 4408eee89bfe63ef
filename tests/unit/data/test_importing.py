import sqlite3
from datetime import UTC, datetime

import polars as pl
import pytest

from rung.data.feedback import labelled, versions
from rung.data.importing import import_feedback, rows_of
from rung.domain.errors import ConfigurationError, InvalidInput
from rung.store.segment_writer import SegmentWriter

from .conftest import KEYRING, NOON, prediction


def run(project, rows, models=("m",)):
    writer = SegmentWriter(project.log, replica="import")
    writer.open()
    try:
        return import_feedback(rows, KEYRING, models, writer, project.log, project.store)
    finally:
        writer.close()


@pytest.fixture
def made(project):
    found = [prediction(number, NOON + number) for number in range(6)]
    project.write(*found)
    return found


def test_good_rows_are_taken_and_bad_ones_told_with_their_number(project, made, tmp_path):
    path = tmp_path / "labels.csv"
    forged = made[2].id[:-2] + ("AA" if made[2].id[-2:] != "AA" else "BB")
    path.write_text(
        "prediction,diagnosis,seen\n"
        f"{made[0].id},benign,2023-11-15T13:00:00Z\n"
        f"{made[1].id},,2023-11-15T13:00:00Z\n"
        f"{forged},benign,2023-11-15T13:00:00Z\n"
        f"{made[3].id},malign,yesterday\n"
        f"{made[4].id},malign,2023-11-15T14:00:00Z\n"
    )
    columns = {"id": "prediction", "label": "diagnosis", "time": "seen"}
    done = run(project, rows_of(str(path), columns, source_name="lab"))
    assert (done.read, done.taken, done.known) == (5, 2, 0)
    assert [number for number, _ in done.refused] == [2, 3, 4]
    assert done.reasons == {"InvalidInput": 2, "NotFound": 1}
    rows = labelled(project.store, project.log, "m").to_dicts()
    assert [(row["id"], row["value"], row["source"]) for row in rows] == [
        (made[0].id, '"benign"', "lab"),
        (made[4].id, '"malign"', "lab"),
    ]
    again = run(project, rows_of(str(path), columns, source_name="lab"))
    assert (again.taken, again.known) == (0, 2)
    assert versions(project.store, project.log).height == 2


def test_a_corrected_label_is_a_further_version(project, made):
    first = [{"id": made[0].id, "label": 0, "time": NOON + 10}]
    run(project, first)
    done = run(project, [*first, {"id": made[0].id, "label": 1, "time": NOON + 20}])
    assert (done.taken, done.known) == (1, 1)
    assert labelled(project.store, project.log, "m").select("value", "of", "conflicts").rows() == [("1", 2, True)]


def test_parquet_keeps_numbers_times_and_names(project, made, tmp_path):
    path = tmp_path / "labels.parquet"
    when = datetime(2023, 11, 15, 13, tzinfo=UTC)
    pl.DataFrame({"id": [made[0].id], "y": [0.75], "at": [when], "row": [41]}).write_parquet(path)
    run(project, rows_of(str(path), {"id": "id", "score": "y", "time": "at", "event": "row"}))
    (row,) = versions(project.store, project.log).to_dicts()
    assert (row["value"], row["time"], row["event"], row["kind"]) == ("0.75", when.timestamp(), "41", "score")


def test_a_query_of_a_database(project, made, tmp_path):
    with sqlite3.connect(tmp_path / "labels.db") as database:
        database.execute("create table labels (id text, label integer, done integer)")
        database.executemany("insert into labels values (?, ?, 1)", [(one.id, n % 2) for n, one in enumerate(made)])
    database.close()
    rows = rows_of(
        f"sqlite:{tmp_path / 'labels.db'}", {"id": "id", "label": "label"}, query="select * from labels where done = 1"
    )
    assert run(project, rows).taken == 6
    assert labelled(project.store, project.log, "m")["value"].to_list() == ["0", "1"] * 3


def test_sources_that_cannot_be_read_and_columns_that_are_not_there(tmp_path):
    with pytest.raises(ConfigurationError, match="there is no file"):
        list(rows_of(str(tmp_path / "none.csv"), {"id": "id"}))
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        list(rows_of(str(tmp_path / "bad.parquet"), {"id": "id"}))
    (tmp_path / "a.csv").write_text("id,y\n1,2\n")
    with pytest.raises(InvalidInput, match="no column 'label'; there are id, y"):
        list(rows_of(str(tmp_path / "a.csv"), {"id": "id", "label": "label"}))
    with pytest.raises(ConfigurationError, match="query could not be run"):
        list(rows_of(f"sqlite:{tmp_path / 'x.db'}", {"id": "id"}, query="select * from nothing"))


def test_ids_that_are_numbers_are_refused_one_by_one(project):
    done = run(project, [{"id": 7, "label": 1}, {"label": 1}])
    assert (done.read, done.taken, done.reasons) == (2, 0, {"InvalidInput": 2})

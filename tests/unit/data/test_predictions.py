from contextlib import suppress
from types import SimpleNamespace

import msgspec
import numpy as np
import polars as pl
import pytest

from rung.data import parts, predictions
from rung.data.predictions import compact, convert, maintain, retain, scan, trim
from rung.domain.errors import Conflict, NotFound
from rung.domain.packing import pack, unpack
from rung.domain.records import ShedRecord
from rung.store.segments import exclusive, segment_files

from .conftest import DAY, NOON, Project, feedback, prediction, shadow


def ids(rows):
    return rows["id"].to_list()


def test_what_was_logged_is_read_once_before_and_after_it_is_converted(project):
    made = [prediction(number, NOON + number) for number in range(20)]
    project.write(*made[:8])
    assert ids(scan(project.store, project.log, "m")) == [one.id for one in made[:8]]
    done = convert(project.log, project.store)
    assert (done.records, done.damaged) == (10, 0)
    project.write(*made[8:], replica="r1")
    assert ids(scan(project.store, project.log, "m")) == [one.id for one in made]
    assert ids(scan(project.store, None, "m")) == [one.id for one in made[:8]]
    convert(project.log, project.store)
    assert ids(scan(project.store, project.log, "m")) == [one.id for one in made]
    assert convert(project.log, project.store).records == 0


def test_every_field_comes_back(project):
    x = np.arange(6, dtype=np.float32).reshape(1, 6)
    record = prediction(
        1,
        rows=2,
        queued=0.1,
        computed=0.2,
        total=0.4,
        propensity=0.05,
        flags=3,
        output_digest=b"d",
        output_summary={"y": (1.0, -1.0, 3.0), "z": (0.0, 0.0, 0.0)},
        input_digest=b"i",
        inputs=pack({"x": x}),
        body=b"\x00body",
        media="image/png",
        digest="abc",
    )
    failed = prediction(2, error="ModelError", blame="server")
    project.write(record, failed)
    convert(project.log, project.store)
    row, other = scan(project.store, None, "m").sort("error").to_dicts()
    for field in ("id", "time", "model", "version", "arm", "epoch", "unit", "rows", "queued", "computed", "total"):
        assert row[field] == getattr(record, field)
    for field in ("propensity", "flags", "output_digest", "input_digest", "body", "media", "digest"):
        assert row[field] == getattr(record, field)
    assert row["output_summary"][0] == {"name": "y", "mean": 1.0, "least": -1.0, "greatest": 3.0}
    assert np.array_equal(unpack(msgspec.msgpack.decode(row["inputs"]))["x"], x)
    assert (other["error"], other["blame"], other["inputs"], other["output_summary"]) == (
        "ModelError", "server", None, [],
    )  # fmt: skip


def test_files_lie_by_model_and_day(project):
    project.write(prediction(1, NOON), prediction(2, NOON + DAY), prediction(3, NOON, model="n"))
    convert(project.log, project.store)
    folders = [key.rpartition("/")[0] for key in project.keys_of()]
    assert folders == [
        "predictions/m/date=2023-11-15",
        "predictions/m/date=2023-11-16",
        "predictions/n/date=2023-11-15",
    ]
    assert ids(scan(project.store, project.log, "n")) == [prediction(3, NOON, model="n").id]
    assert scan(project.store, project.log).height == 3
    assert pl.read_parquet(project.store.root / project.keys_of()[0]).height == 1


def test_a_time_range_and_columns(project):
    project.write(*[prediction(number, NOON + number * DAY) for number in range(5)])
    convert(project.log, project.store)
    found = scan(project.store, project.log, "m", since=NOON + DAY, until=NOON + 3 * DAY, columns=["unit"])
    assert found.columns == ["id", "time", "unit"]
    assert found["time"].to_list() == [NOON + DAY, NOON + 2 * DAY]


def test_a_record_that_was_written_twice_counts_once(project):
    one = prediction(1)
    project.write(one)
    convert(project.log, project.store)
    project.write(one, one, replica="r1")
    assert ids(scan(project.store, project.log, "m")) == [one.id]
    convert(project.log, project.store)
    assert ids(scan(project.store, None, "m")) == [one.id]


def test_other_records_have_tables_of_their_own(project):
    live = prediction(1)
    project.write(live, shadow(live, equal=True), feedback(live, "cat"), ShedRecord(NOON, "m", 7, "buffer full"))
    for log in (project.log, None):
        if log is None:
            convert(project.log, project.store)
        assert scan(project.store, log, "m", table="shadows")["equal"].to_list() == [True]
        assert scan(project.store, log, "m", table="feedback")["value"].to_list() == ['"cat"']
        gaps = scan(project.store, log, table="gaps")
        assert set(gaps["kind"]) == {"open", "shed", "close"}
        shed = gaps.filter(pl.col("kind") == "shed").select("model", "count", "reason")
        assert shed.rows() == [("m", 7, "buffer full")]
    with pytest.raises(NotFound, match="no table"):
        scan(project.store, None, table="nonsense")


def test_damage_is_told_in_the_table_of_gaps(project):
    project.write(*[prediction(number) for number in range(5)])
    path = segment_files(project.log)[0].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert convert(project.log, project.store).damaged == 1
    gaps = scan(project.store, None, table="gaps").filter(pl.col("kind") == "corrupt")
    assert gaps["reason"].to_list() == [path.name]
    assert scan(project.store, project.log, "m").height == 4
    assert convert(project.log, project.store).damaged == 0


class Killed(BaseException):
    pass


def test_killed_anywhere_a_conversion_is_finished_by_the_next(tmp_path, monkeypatch):
    """Dies at the first, second, ... write to the store, and is run again."""
    made = [prediction(number, NOON + number % 3 * DAY) for number in range(30)]
    step = 1
    while True:
        project = Project(tmp_path / str(step))
        project.write(*made)
        put, calls = project.store.put, 0

        def dying(key, data, *, create=False, put=put, step=step):
            nonlocal calls
            calls += 1
            if calls == step:
                raise Killed
            put(key, data, create=create)

        monkeypatch.setattr(project.store, "put", dying)
        with suppress(Killed):
            convert(project.log, project.store, rows=10)
        monkeypatch.undo()
        assert scan(project.store, project.log, "m").height == 30
        convert(project.log, project.store, rows=10)
        compact(project.log, project.store)
        found = scan(project.store, None, "m")
        assert sorted(ids(found)) == sorted(one.id for one in made)
        named = {part.key for part in parts.current(project.store).parts}
        assert {key for table in ("predictions", "gaps") for key in project.keys_of(table)} == named
        if calls < step:
            break
        step += 1
    assert step > 8


def test_small_files_are_joined_and_readers_notice_nothing(project):
    made = [prediction(number, NOON + number) for number in range(40)]
    for start in range(0, 40, 10):
        project.write(*made[start : start + 10])
        convert(project.log, project.store)
    before = scan(project.store, project.log, "m")
    assert len(project.keys_of()) == 4
    assert compact(project.log, project.store) == 3 + 3  # the gaps too
    assert len(project.keys_of()) == 1
    assert scan(project.store, project.log, "m").equals(before)
    assert compact(project.log, project.store) == 0


def test_a_reader_whose_file_was_replaced_meanwhile_looks_again(project, monkeypatch):
    made = [prediction(number, NOON + number) for number in range(4)]
    for one in made:
        project.write(one)
        convert(project.log, project.store)
    read, done = predictions.read_part, []

    def overtaken(store, part, columns=None):
        if not done:
            done.append(True)
            assert compact(project.log, project.store) == 6
        return read(store, part, columns)

    monkeypatch.setattr(predictions, "read_part", overtaken)
    assert ids(scan(project.store, None, "m")) == [one.id for one in made]


def test_parts_over_the_limit_are_left_as_they_are(project):
    for start in range(0, 30, 10):
        project.write(*[prediction(number) for number in range(start, start + 10)])
        convert(project.log, project.store)
    compact(project.log, project.store, rows=20)
    assert sorted(part.rows for part in parts.current(project.store).parts if part.table == "predictions") == [10, 20]


def test_old_rows_expire_by_whole_days_and_by_model(project):
    made = [prediction(number, NOON - number * DAY) for number in range(6)]
    project.write(*made, prediction(9, NOON - 5 * DAY, model="n"))
    convert(project.log, project.store)
    assert retain(project.log, project.store, 2, model="m", now=NOON) == 3
    assert scan(project.store, project.log, "m").height == 3
    assert scan(project.store, project.log, "n").height == 1
    assert retain(project.log, project.store, 2, model="m", now=NOON) == 0


def test_segments_go_when_they_are_converted_and_old_but_the_last_stays(project):
    project.write(*[prediction(number) for number in range(5)], segment_bytes=100, flush_seconds=0.001)
    writer = project.write(prediction(6), close=False)
    project.write(prediction(7), close=True, replica="r1")
    files = segment_files(project.log)
    assert trim(project.log, project.store, keep_seconds=0.0, now=NOON * 2) == 0  # none is converted
    convert(project.log, project.store)
    assert trim(project.log, project.store, keep_seconds=3600.0) == 0  # none is old
    assert trim(project.log, project.store, keep_seconds=0.0, now=NOON * 2) == len(files) - 2
    writer.append(prediction(8))
    writer.close()
    project.write(prediction(9))
    assert scan(project.store, project.log, "m").height == 9
    convert(project.log, project.store)
    assert scan(project.store, None, "m").height == 9


def test_two_do_not_convert_at_once(project):
    project.write(prediction(1))
    with exclusive(project.log), pytest.raises(Conflict):
        convert(project.log, project.store)
    # On another machine the lock does not help: the state does.
    before = parts.current(project.store)
    convert(project.log, project.store)
    with pytest.raises(Conflict):
        parts.commit(project.store, before)


def test_the_states_do_not_pile_up(project):
    for number in range(25):
        project.write(prediction(number))
        convert(project.log, project.store)
    assert len(project.keys_of("log-state")) == 16
    assert scan(project.store, project.log, "m").height == 25


def test_what_an_older_rung_did_not_write_is_null(project):
    project.write(prediction(1))
    convert(project.log, project.store)
    path = project.store.root / project.keys_of()[0]
    pl.read_parquet(path).drop("digest", "flags").with_columns(extra=pl.lit(1)).write_parquet(path)
    (row,) = scan(project.store, None, "m").to_dicts()
    assert (row["digest"], row["flags"]) == (None, None)
    assert "extra" not in row


def test_the_job_does_all_of_it(project):
    project.write(*[prediction(number, NOON - number * DAY) for number in range(3)])
    arguments = {"log": str(project.log), "store": str(project.store.root), "days": {"m": 10}, "keep_seconds": 0}
    context = SimpleNamespace(arguments=arguments, should_stop=lambda: False)
    assert maintain(context)["records"] == 5
    assert maintain(context)["rows_expired"] == 0  # of 2023: they went at once
    assert scan(project.store, None, "m").height == 0
    assert project.keys_of("log-state")

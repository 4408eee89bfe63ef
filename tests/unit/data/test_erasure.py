from contextlib import suppress

import pytest

from rung.data import erasure
from rung.data.erasure import erase
from rung.data.parts import current
from rung.data.predictions import compact, convert, scan
from rung.domain.errors import InvalidInput, RungError
from rung.store.segments import SegmentReader

from .conftest import NOON, Project, feedback, prediction, shadow


def fill(project):
    """Twelve predictions of two units; the first eight are converted, in two steps."""
    made = []
    for start in (0, 4, 8):
        records = []
        for number in range(start, start + 4):
            unit = ("alice", "bob")[number % 2]
            one = prediction(number, NOON + number, unit=unit, body=b"from " + unit.encode())
            made.append(one)
            records += [one, shadow(one), feedback(one, f"about {unit}")]
        project.write(*records)
        if start < 8:
            convert(project.log, project.store)
    return made


def test_nothing_of_the_unit_is_left_in_any_byte(project):
    made = fill(project)
    done = erase(project.log, project.store, "alice")
    assert (done.rows, done.records) == (4 * 3, 6 * 3)
    everything = project.bytes_of_everything()
    assert b"alice" not in everything
    for one in made:
        assert (one.id.encode() in everything) == (one.unit == "bob")
    found = scan(project.store, project.log, "m")
    assert found["unit"].to_list() == ["bob"] * 6
    assert scan(project.store, project.log, "m", table="feedback").height == 6
    assert scan(project.store, project.log, "m", table="shadows").height == 6
    reader = SegmentReader(project.log)
    list(reader)
    assert reader.damage == []


def test_the_log_goes_on_after_an_erasure(project):
    fill(project)
    writer = project.write(prediction(20, unit="alice"), close=False)
    erase(project.log, project.store, "alice")
    writer.append(prediction(21, unit="bob"))
    writer.close()
    convert(project.log, project.store)
    compact(project.log, project.store)
    assert scan(project.store, None, "m")["unit"].to_list() == ["bob"] * 7
    assert erase(project.log, project.store, "alice").rows == 0
    assert erase(project.log, project.store, "nobody").records == 0


class Killed(BaseException):
    pass


@pytest.mark.parametrize("method", ["put", "delete"])
def test_killed_anywhere_an_erasure_is_finished_by_the_next(tmp_path, monkeypatch, method):
    step = 1
    while True:
        project = Project(tmp_path / f"{step}")
        fill(project)
        call, calls = getattr(project.store, method), 0

        def dying(*arguments, call=call, step=step, **options):
            nonlocal calls
            calls += 1
            if calls == step:
                raise Killed
            return call(*arguments, **options)

        monkeypatch.setattr(project.store, method, dying)
        with suppress(Killed):
            erase(project.log, project.store, "alice")
        monkeypatch.undo()
        erase(project.log, project.store, "alice")
        assert b"alice" not in project.bytes_of_everything()
        assert scan(project.store, project.log, "m")["unit"].to_list() == ["bob"] * 6
        if calls < step:
            break
        step += 1
    assert step > 4


def test_a_file_that_a_killed_conversion_left_goes_too(project):
    fill(project)
    stray = project.store.root / "predictions/m/date=2023-11-15/part-stray.parquet"
    stray.write_bytes((project.store.root / project.keys_of()[0]).read_bytes())
    erase(project.log, project.store, "alice")
    assert not stray.exists()


def test_what_is_still_there_afterwards_is_an_error(project, monkeypatch):
    fill(project)
    monkeypatch.setattr(erasure, "blank_out", lambda log, unwanted: 0)
    with pytest.raises(RungError, match="still there"):
        erase(project.log, project.store, "alice")


def test_requests_without_a_unit_are_nobody(project):
    with pytest.raises(InvalidInput, match="which unit"):
        erase(project.log, project.store, "")
    assert current(project.store).parts == ()

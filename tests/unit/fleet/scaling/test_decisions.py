import msgspec

from rung.domain.scaling import Decision, Opinion
from rung.fleet.scaling.decisions import FOLDER, append, read_last


def test_the_newest_are_read_back_in_order(tmp_path):
    assert read_last(tmp_path, 3) == []
    made = [Decision(n, f"to {n}", before=n - 1, at=float(n), opinions=(Opinion("wait", n, "why"),)) for n in range(5)]
    for one in made:
        append(tmp_path, one)
    assert read_last(tmp_path, 3) == made[2:]
    assert read_last(tmp_path, 0) == []


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    append(tmp_path, Decision(1, "one"))
    path = tmp_path / FOLDER / "decisions.jsonl"
    path.write_bytes(path.read_bytes() + b'{"replicas": 2, "wh')
    assert [one.replicas for one in read_last(tmp_path, 9)] == [1]


def test_the_file_does_not_grow_for_ever(tmp_path):
    path = tmp_path / FOLDER / "decisions.jsonl"
    append(tmp_path, Decision(1, "first"))
    line = msgspec.json.encode(Decision(2, "x" * 1000)) + b"\n"
    path.write_bytes(line * 300)
    append(tmp_path, Decision(3, "last"))
    assert path.stat().st_size < 140_000
    found = read_last(tmp_path, 1000)
    assert found[-1].replicas == 3
    assert all(one.replicas in (2, 3) for one in found)


def test_a_disk_that_takes_nothing_stops_nothing(tmp_path):
    (tmp_path / ".rung").write_text("a file where the folder should be")
    append(tmp_path, Decision(1, "why"))
    assert read_last(tmp_path, 1) == []

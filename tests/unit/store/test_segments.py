import pytest

from rung.domain.errors import Conflict, InvalidInput
from rung.domain.records import FeedbackRecord, MarkRecord, PredictionRecord
from rung.store.frames import frames
from rung.store.segment_writer import SegmentWriter
from rung.store.segments import (
    SegmentReader,
    blank_out,
    exclusive,
    places_of,
    position_of,
    read,
    segment_files,
)


def prediction(number: int, unit: str = "u", body: bytes | None = None) -> PredictionRecord:
    return PredictionRecord(f"id-{number}", 1.7e9 + number, "m", 1, unit=unit, body=body)


def write(folder, numbers, replica="r0", **options):
    writer = SegmentWriter(folder, replica=replica, **options)
    writer.open()
    for number in numbers:
        writer.append(prediction(number))
        if options:
            writer.commit([]).result(10)
    writer.close()
    return writer


def ids(records):
    return [record.id for _, record in records if isinstance(record, PredictionRecord)]


def test_reads_all_replicas_over_rotations_and_goes_on_from_any_position(tmp_path):
    write(tmp_path, range(10), segment_bytes=60)
    write(tmp_path, range(10, 15), replica="r1")
    assert len(segment_files(tmp_path, "r0")) > 4
    everything = list(read(tmp_path))
    assert ids(everything) == [f"id-{number}" for number in range(15)]
    for index, (position, _) in enumerate(everything):
        assert list(read(tmp_path, position)) == everything[index + 1 :]
    write(tmp_path, [15])
    assert ids(read(tmp_path, everything[-1][0])) == ["id-15"]


def test_a_position_is_text_that_reads_back(tmp_path):
    write(tmp_path, range(3))
    position = list(read(tmp_path))[-1][0]
    assert position_of(places_of(position)) == position
    assert places_of(None) == {}
    with pytest.raises(InvalidInput, match="no position"):
        places_of("../r0=1:2")


def test_no_log_is_no_record(tmp_path):
    assert list(read(tmp_path / "nowhere")) == []


def last_file(folder):
    return segment_files(folder)[-1].path


def test_every_cut_of_the_last_two_frames_keeps_what_was_written_before(tmp_path):
    """Each byte at which a crash can cut the file: whole frames are read, the rest waits, nothing is invented."""
    write(tmp_path, range(6))
    path = last_file(tmp_path)
    whole = path.read_bytes()
    everything = list(read(tmp_path))
    ends = [places_of(position)["r0"][1] for position, _ in everything]
    for cut in range(ends[-3], len(whole)):
        path.write_bytes(whole[:cut])
        fit = sum(end <= cut for end in ends)
        reader = SegmentReader(tmp_path)
        assert list(reader) == everything[:fit]
        assert reader.pending == cut - ends[fit - 1]
        assert reader.damage == []
        # The rest comes: the same reader's position finds it.
        path.write_bytes(whole)
        assert list(read(tmp_path, reader.position)) == everything[fit:]


def test_a_torn_end_is_passed_over_by_the_next_run_which_says_that_it_did_not_close(tmp_path):
    write(tmp_path, range(4))
    path = last_file(tmp_path)
    whole = path.read_bytes()
    ends = [places_of(position)["r0"][1] for position, _ in read(tmp_path)]
    for index, cut in enumerate(range(ends[-3], ends[-1])):
        folder = tmp_path / f"cut{index}"
        torn = folder / "r0" / path.name
        torn.parent.mkdir(parents=True)
        torn.write_bytes(whole[:cut])
        writer = write(folder, [99])
        assert writer.unclean is not None
        assert writer.unclean.lost == 1.0
        reader = SegmentReader(folder)
        found = list(reader)
        assert ids(found) == [f"id-{n}" for n in range(4) if ends[n + 1] <= cut] + ["id-99"]
        marks = [r for _, r in found if isinstance(r, MarkRecord) and r.kind == "open"]
        assert [mark.clean for mark in marks] == [True, False]
        torn_bytes = cut - max(end for end in ends if end <= cut)
        assert [one.kind for one in reader.damage] == (["torn"] if torn_bytes else [])


def test_every_flipped_byte_in_the_middle_is_told_and_costs_one_record(tmp_path):
    write(tmp_path, range(4))
    path = last_file(tmp_path)
    whole = path.read_bytes()
    everything = list(read(tmp_path))
    ends = [0, *(places_of(position)["r0"][1] for position, _ in everything)]
    hit = 2
    for place in range(ends[hit], ends[hit + 1]):
        damaged = bytearray(whole)
        damaged[place] ^= 0x40
        path.write_bytes(damaged)
        reader = SegmentReader(tmp_path)
        assert [record for _, record in reader] == [r for i, (_, r) in enumerate(everything) if i != hit]
        assert [(one.start, one.end, one.kind) for one in reader.damage] == [(ends[hit], ends[hit + 1], "corrupt")]


def test_what_a_newer_rung_wrote_is_counted_and_passed_over(tmp_path):
    write(tmp_path, range(2))
    file = segment_files(tmp_path)[-1]
    with file.path.open("ab") as opened:
        opened.write(b"".join(frames([b"\x92\xcd\x27\x0f\x01", b"\xc1"], file.salt)))
    reader = SegmentReader(tmp_path)
    assert len(ids(reader)) == 2
    assert [one.kind for one in reader.damage] == ["unknown", "unknown"]


def test_other_files_are_left_alone(tmp_path):
    write(tmp_path, range(2))
    (tmp_path / "r0" / "notes.txt").write_text("mine")
    (tmp_path / "loose").write_text("mine")
    assert len(ids(read(tmp_path))) == 2


def test_files_that_are_deleted_meanwhile_are_passed_over(tmp_path):
    write(tmp_path, range(6), segment_bytes=60)
    stream = read(tmp_path)
    next(stream)
    for file in segment_files(tmp_path)[1:3]:
        file.path.unlink()
    assert "id-5" in ids(stream)


def test_a_blanked_record_is_gone_from_the_bytes_and_positions_stay_right(tmp_path):
    writer = SegmentWriter(tmp_path, replica="r0")
    writer.open()
    for number in range(6):
        writer.append(prediction(number, unit="alice" if number % 2 else "bob", body=b"said by %d" % number))
    writer.commit([FeedbackRecord("e", "id-1", 1.0, 1.0, "label", "yes")]).result(10)
    before = list(read(tmp_path))
    with exclusive(tmp_path):
        assert blank_out(tmp_path, lambda record: getattr(record, "unit", "") == "alice") == 3
    # The writer goes on meanwhile, in the same file.
    writer.append(prediction(6, unit="bob"))
    writer.close()
    reader = SegmentReader(tmp_path)
    assert ids(reader) == ["id-0", "id-2", "id-4", "id-6"]
    assert reader.erased == 3
    assert reader.damage == []
    data = segment_files(tmp_path)[0].path.read_bytes()
    assert b"alice" not in data
    assert b"said by 1" not in data
    assert ids(read(tmp_path, before[4][0])) == ["id-4", "id-6"]


def test_an_erasure_that_was_killed_is_finished_by_the_next(tmp_path):
    write(tmp_path, range(3))
    file = segment_files(tmp_path)[0]
    places = [places_of(position)["r0"][1] for position, _ in read(tmp_path)]
    start, end = places[1], places[2]
    length = end - start - 12
    # As killed half-way through the overwriting of record 1: its place is noted, its bytes are half gone.
    (tmp_path / "erasure.json").write_text(f'[["r0/{file.path.name}", {file.salt}, {start}, {length}]]')
    data = bytearray(file.path.read_bytes())
    data[start + 20 : start + 30] = bytes(10)
    file.path.write_bytes(data)
    with exclusive(tmp_path):
        assert blank_out(tmp_path, lambda record: False) == 0
    reader = SegmentReader(tmp_path)
    assert ids(reader) == ["id-0", "id-2"]
    assert (reader.damage, reader.erased) == ([], 1)
    assert not (tmp_path / "erasure.json").exists()


def test_one_maintains_a_folder_at_a_time(tmp_path):
    with exclusive(tmp_path), pytest.raises(Conflict, match="another process"), exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass

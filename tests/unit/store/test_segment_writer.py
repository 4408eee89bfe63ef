import errno
import os
import threading
from concurrent.futures import wait
from pathlib import Path

import pytest

from rung.domain.errors import InvalidInput, NotReady
from rung.domain.records import FeedbackRecord, MarkRecord, PredictionRecord, ShedRecord, encode
from rung.store import segment_files as module
from rung.store import segment_writer
from rung.store.segment_writer import SegmentWriter
from rung.store.segments import SegmentReader, read


def prediction(number: int) -> PredictionRecord:
    return PredictionRecord(f"id-{number}", 1.7e9, "m", 1)


def event(number: int) -> FeedbackRecord:
    return FeedbackRecord(f"e-{number}", f"id-{number}", 1.0, 1.0, "label", number)


@pytest.fixture
def start():
    opened = []

    def begin(folder, **options):
        writer = SegmentWriter(folder, replica="r0", **options)
        writer.open()
        opened.append(writer)
        return writer

    yield begin
    for writer in opened:
        writer.close()


def ids(folder):
    return [record.id for _, record in read(folder) if isinstance(record, PredictionRecord)]


class Disk:
    """The calls that write, which can be told to fail."""

    def __init__(self, monkeypatch):
        self.calls = 0
        self.failing: dict[str, int] = {}
        """Call -> errno while it fails."""
        self.fail_at = 0
        """Number of the one call that fails, counting all."""
        self.code = errno.EIO
        for name in ("write", "fdatasync", "fsync", "open"):
            monkeypatch.setattr(module.os, name, self._wrap(name, getattr(os, name)))

    def _wrap(self, name, call):
        def wrapped(*arguments, **options):
            # Only the writer's thread: pytest and the readers use the same functions.
            if threading.current_thread().name.startswith("rung-log"):
                self.calls += 1
                code = self.failing.get(name, 0) or (self.code if self.calls == self.fail_at else 0)
                if code:
                    raise OSError(code, os.strerror(code))
            return call(*arguments, **options)

        return wrapped


def test_what_was_appended_is_read_back_in_order(tmp_path, start):
    writer = start(tmp_path)
    for number in range(1000):
        assert writer.append(prediction(number))
    writer.commit([event(1)]).result(10)
    assert ids(tmp_path) == [f"id-{number}" for number in range(1000)]
    assert writer.written == 1002  # with the mark of its beginning
    assert (writer.buffered, writer.lag, writer.shed.total(), writer.error) == (0, 0.0, 0, "")


def test_a_run_marks_its_beginning_and_its_end(tmp_path):
    for _ in range(2):
        writer = SegmentWriter(tmp_path, replica="r0")
        writer.open()
        writer.append(prediction(1))
        writer.close()
        writer.close()
    marks = [record for _, record in read(tmp_path) if isinstance(record, MarkRecord)]
    assert [(mark.kind, mark.clean) for mark in marks] == [("open", True), ("close", True)] * 2


def test_events_of_one_moment_share_a_sync(tmp_path, start, monkeypatch):
    writer = start(tmp_path)
    writer.commit([]).result(10)
    syncs = 0
    fdatasync = os.fdatasync
    entered, go = threading.Event(), threading.Event()

    def slow(descriptor):
        nonlocal syncs
        syncs += 1
        entered.set()
        go.wait(10)
        fdatasync(descriptor)

    monkeypatch.setattr(module.os, "fdatasync", slow)
    first = writer.commit([event(0)])
    assert entered.wait(10)
    others = [writer.commit([event(number)]) for number in range(1, 50)]
    assert not first.done()
    go.set()
    wait([first, *others], 10)
    assert all(promise.result(0) is None for promise in [first, *others])
    assert syncs == 2


def test_a_full_buffer_sheds_and_counts_and_tells_later(tmp_path, monkeypatch):
    writer = SegmentWriter(tmp_path, replica="r0", buffer_bytes=1000)
    # Not open: nobody takes anything out.
    taken = [writer.append(prediction(number), 300) for number in range(5)]
    assert taken == [True, True, True, False, False]
    assert writer.shed == {("m", "buffer full"): 2}
    with pytest.raises(NotReady, match="its buffer is full"):
        writer.commit([event(1)], 300).result(0)
    writer.open()
    writer.close()
    told = [record for _, record in read(tmp_path) if isinstance(record, ShedRecord)]
    assert [(one.model, one.count, one.reason) for one in told] == [("m", 2, "buffer full")]
    assert told[0].since > 0
    assert ids(tmp_path) == ["id-0", "id-1", "id-2"]


def test_a_full_disk_sheds_predictions_refuses_feedback_and_is_told_when_there_is_room(tmp_path, start, monkeypatch):
    disk = Disk(monkeypatch)
    writer = start(tmp_path, buffer_bytes=2000, flush_seconds=0.05)
    writer.append(prediction(0), 300)
    writer.commit([]).result(10)
    disk.failing = {"write": errno.ENOSPC}
    with pytest.raises(NotReady, match="No space left"):
        writer.commit([event(1)], 300).result(10)
    assert writer.error == "disk: No space left on device"
    shed = [number for number in range(1, 30) if not writer.append(prediction(number), 300)]
    assert shed
    assert writer.shed == {("m", "disk: No space left on device"): len(shed)}
    disk.failing = {}
    writer.commit([event(2)], 0).result(10)
    assert writer.error == ""
    writer.close()
    found = [record for _, record in read(tmp_path)]
    assert ids(tmp_path) == [f"id-{number}" for number in range(30) if number not in shed]
    assert [(r.count, r.reason) for r in found if isinstance(r, ShedRecord)] == [
        (len(shed), "disk: No space left on device")
    ]
    assert {r.event for r in found if isinstance(r, FeedbackRecord)} >= {"e-2"}


def test_after_a_failed_sync_nothing_is_acknowledged_on_that_file_and_all_is_written_again(
    tmp_path, start, monkeypatch
):
    disk = Disk(monkeypatch)
    writer = start(tmp_path, flush_seconds=30.0)
    writer.commit([event(0)]).result(10)
    synced: list[str] = []
    fdatasync = module.os.fdatasync

    def named(descriptor):
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fdatasync(descriptor)

    monkeypatch.setattr(module.os, "fdatasync", named)
    disk.failing = {"fdatasync": errno.EIO}
    writer.append(prediction(1))
    with pytest.raises(NotReady, match="Input/output error"):
        writer.commit([event(1)]).result(10)
    doubtful = synced[-1]
    assert synced.count(doubtful) == 1
    disk.failing = {}
    writer.commit([event(2)]).result(10)
    assert synced.count(doubtful) == 1
    assert synced[-1] != doubtful
    writer.close()
    # The first file may or may not have it; the second has it for sure.
    assert set(ids(tmp_path)) == {"id-1"}
    fresh = [p for p, r in read(tmp_path) if isinstance(r, FeedbackRecord) and r.event == "e-2"]
    assert fresh


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.ENOMEM])
def test_whichever_call_fails_no_acknowledgement_is_false_and_nothing_is_corrupt(tmp_path, monkeypatch, code):
    """Fails the first, second, ... call that writes, until a run has fewer calls than that."""
    disk = Disk(monkeypatch)
    disk.code = code
    number = 1
    while True:
        folder = tmp_path / f"{number}"
        disk.calls, disk.fail_at = 0, number
        writer = SegmentWriter(folder, replica="r0", flush_seconds=0.01, segment_bytes=300)
        writer.open()
        acknowledged = []
        for step in range(6):
            promise = writer.commit([prediction(step)])
            if promise.exception(10) is None:
                acknowledged.append(f"id-{step}")
        writer.close()
        calls = disk.calls
        reader = SegmentReader(folder)
        found = [record.id for _, record in reader if isinstance(record, PredictionRecord)]
        assert set(acknowledged) <= set(found)
        assert len(acknowledged) >= 5
        assert not [one for one in reader.damage if one.kind != "torn"]
        if calls < number:
            break
        number += 1
    assert number > 12


def test_a_record_that_cannot_be_encoded_takes_no_other_along(tmp_path, start):
    writer = start(tmp_path)
    for number in range(3):
        writer.append(prediction(number))
    writer.append(PredictionRecord("bad", 1.0, "m", 1, inputs={"x": object()}))
    writer.append(prediction(3))
    with pytest.raises(InvalidInput, match="cannot be written"):
        writer.commit([FeedbackRecord("e", "i", 1.0, 1.0, "label", object())]).result(10)
    writer.commit([]).result(10)
    assert ids(tmp_path) == [f"id-{number}" for number in range(4)]
    assert writer.shed[("m", "encoding")] == 1


def test_a_record_beyond_the_longest_is_shed(tmp_path, start, monkeypatch):
    monkeypatch.setattr(segment_writer, "MAX_PAYLOAD", 100)
    writer = start(tmp_path)
    writer.append(prediction(0))
    writer.append(PredictionRecord("long", 1.0, "m", 1, body=b"x" * 200))
    writer.commit([]).result(10)
    assert ids(tmp_path) == ["id-0"]
    assert writer.shed == {("m", "too large"): 1}


def test_an_idle_writer_sleeps_and_wakes(tmp_path, start):
    writer = start(tmp_path, flush_seconds=0.01)
    for number in range(20):
        writer.append(prediction(number))
        writer.commit([]).result(10)
        while not writer._asleep:
            threading.Event().wait(0.001)
    assert ids(tmp_path) == [f"id-{number}" for number in range(20)]


def test_what_is_never_written_is_counted_at_the_end(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    writer = SegmentWriter(tmp_path, replica="r0")
    writer.open()
    writer.commit([]).result(10)
    disk.failing = {"write": errno.EIO}
    writer.append(prediction(1))
    writer.close()
    assert writer.shed.total() >= 1
    assert not writer.append(prediction(2))


def test_encoded_size_stays_small():
    assert len(encode(prediction(1))) < 100

import errno
import os

import pytest

from rung.domain.errors import ConfigurationError
from rung.store import segment_files as module
from rung.store.frames import Frame, scan
from rung.store.segment_files import SegmentFiles
from rung.store.segments import segment_files


@pytest.fixture
def files(tmp_path):
    made = SegmentFiles(tmp_path / "r0", segment_bytes=1000, segment_seconds=60.0)
    made.lock()
    yield made
    made.leave()
    made.unlock()


def payloads(path):
    file = next(file for file in segment_files(path.parent.parent) if file.path == path)
    return [piece.payload for piece in scan(path.read_bytes(), file.salt) if isinstance(piece, Frame)]


def test_a_disk_that_takes_a_part_has_the_whole_frames_of_it(files, monkeypatch, tmp_path):
    write = os.write
    room = 40

    def short(descriptor, data):
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = write(descriptor, data[: min(room, 7)])
        room -= taken
        return taken

    monkeypatch.setattr(module.os, "write", short)
    whole, refusal = files.write([b"a" * 4, b"b" * 4, b"c" * 4])
    assert whole == 2  # of 16 bytes each, and 8 of the third
    assert refusal is not None
    assert refusal.errno == errno.ENOSPC
    files.sync()
    path = segment_files(tmp_path)[0].path
    assert payloads(path) == [b"aaaa", b"bbbb"]
    assert path.stat().st_size == 40


def test_a_file_that_took_nothing_is_removed(files, monkeypatch, tmp_path):
    def refuse(descriptor, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "write", refuse)
    assert files.write([b"a"])[0] == 0
    files.leave()
    assert segment_files(tmp_path) == []


def test_numbers_rise_also_after_the_folder_was_emptied(files, tmp_path):
    files.write([b"a"])
    first = segment_files(tmp_path)[0]
    files.leave()
    first.path.unlink()
    again = SegmentFiles(tmp_path / "r0", segment_bytes=1000, segment_seconds=60.0)
    assert again.find_end() is None
    files.write([b"b"])
    assert segment_files(tmp_path)[0].number > first.number


def test_a_new_file_is_due_by_size_and_by_age(files, monkeypatch):
    assert files.due
    files.write([b"a" * 100])
    assert not files.due
    files.write([b"a" * 1000])
    assert files.due
    files.leave()
    files.write([b"a"])
    monkeypatch.setattr(module, "monotonic", lambda: files._born + 61.0)
    assert files.due


def test_two_writers_do_not_share_a_folder(files, tmp_path):
    other = SegmentFiles(tmp_path / "r0", segment_bytes=1000, segment_seconds=60.0)
    with pytest.raises(ConfigurationError, match="a name of its own"):
        other.lock()


def test_a_folder_that_cannot_be_made_is_a_wrong_setting(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        SegmentFiles(tmp_path / "file" / "r0", segment_bytes=1, segment_seconds=1.0).lock()

"""The journal of a run: whatever becomes of its last bytes, what was committed stays, and one run has it at a time."""

from pathlib import Path

import pytest

from rung.domain.errors import Conflict, StorageFull
from rung.offline.scoring import journal as module
from rung.offline.scoring.journal import Commit, Head, Journal

HEAD = Head(order="o", digest="d", source="s", version=1, as_of="2026-01-31", batch=8, chunk=100)


def commit(number: int) -> Commit:
    return Commit(number=number, read=10 * number, rows=9 * number, refused=number, mark={"bytes": number})


def test_cut_at_any_byte_it_has_the_commits_that_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.os, "fsync", lambda descriptor: None)  # a thousand of them, for nothing
    with Journal(tmp_path) as journal:
        journal.begin(HEAD)
        ends = [(tmp_path / "journal").stat().st_size]
        for number in (1, 2, 3):
            journal.commit(commit(number))
            ends.append((tmp_path / "journal").stat().st_size)
    whole = (tmp_path / "journal").read_bytes()

    for cut in range(len(whole) + 1):
        for tail in ((b"",), (b"\0" * 5,), (whole[cut + 1 :],))[cut % 3]:
            (tmp_path / "journal").write_bytes(whole[:cut] + tail)
            known = sum(end <= cut for end in ends)
            with Journal(tmp_path) as journal:
                assert (journal.head is not None) == (known > 0)
                assert journal.last == (commit(known - 1) if known > 1 else Commit())
                if not known:
                    continue
                journal.begin(HEAD)
                journal.commit(commit(known))
            with Journal(tmp_path) as journal:
                assert journal.last == commit(known)


def test_two_runs_do_not_write_one_result(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(Conflict, match="another run"), Journal(tmp_path):
        pass
    with Journal(tmp_path):
        pass


def test_a_full_disk_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with Journal(tmp_path) as journal:
        journal.begin(HEAD)
        monkeypatch.setattr(module.os, "fsync", full)
        with pytest.raises(StorageFull, match="free some space and resume"):
            journal.commit(commit(1))
        assert journal.last == Commit()

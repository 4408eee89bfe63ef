"""What a run has committed: one file of checked lines, written after the data that they speak of.

    .RESULT.scoring/journal     a line for the run's head, then one for each commit
    .RESULT.scoring/...         what the sink keeps until the run is finished

A commit counts when its whole line is on the disk; a torn one at the end is cut off, and whatever a sink wrote beyond
the last commit is taken back. So a run that was killed anywhere goes on without a gap and without a row twice.
"""

import fcntl
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from rung.domain.errors import Conflict, StorageFull
from rung.store.folders import sync_folder

__all__ = ["Commit", "Head", "Journal"]


class Head(msgspec.Struct, frozen=True):
    """What must be the same for a run to go on."""

    order: str
    """sha256 of the order."""
    digest: str
    """Of the version."""
    source: str
    """What the source looked like: sizes and times of its files; empty where it cannot be told."""
    version: int
    as_of: str
    batch: int
    """Rows in one call: kept, so that a resumed run computes as one that was not cut off."""
    chunk: int
    """Rows that are committed together, at most."""


class Commit(msgspec.Struct, frozen=True):
    """Rows that are written for good: all figures are totals since the beginning."""

    number: int = 0
    """How many commits there are, this one included."""
    read: int = 0
    """Readable rows that the source gave."""
    damaged: int = 0
    """Rows that the source itself refused."""
    rows: int = 0
    refused: int = 0
    left_out: int = 0
    cursor: str = ""
    """Where an incremental source goes on."""
    since: int = 0
    """Rows read beyond `cursor`."""
    damaged_since: int = 0
    mark: Any = None
    """What the sink needs to know of its state after it."""
    refusals: int = 0
    """Bytes of the file of refused rows."""
    whole: bool = False
    """Whether the source had been read to its end."""


class Journal:
    """The journal of one result; a context manager that keeps other runs away from it.

    Attributes:
        folder: where it lies, and the sink's unfinished files with it.
        head: of the run to go on with; None where there is none.
        last: its last commit.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.head: Head | None = None
        self.last = Commit()
        self._path = folder / "journal"
        self._file: BinaryIO | None = None
        self._lock = -1

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        # A lock of the kernel's: it ends with its process, however that ends.
        self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise Conflict(f"another run writes this result already ({self.folder}): wait for it, or end it") from None
        self._read()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        os.close(self._lock)

    def begin(self, head: Head) -> None:
        """Start a new run, or go on with the one whose head is this."""
        if self.head is None:
            self.last = Commit()
            self._file = self._path.open("wb")
            self._append(head)
            sync_folder(self.folder)
            self.head = head
        else:
            assert self.head == head
            self._file = self._path.open("r+b")
            self._file.truncate(self._end)
            self._file.seek(self._end)

    def commit(self, commit: Commit) -> None:
        """Make it count; what it speaks of is on the disk already."""
        self._append(commit)
        self.last = commit

    def forget(self) -> None:
        """Nothing is to go on with: the next `begin` starts anew."""
        self.head, self.last = None, Commit()

    def _append(self, line: msgspec.Struct) -> None:
        assert self._file is not None
        body = msgspec.json.encode(line)
        try:
            self._file.write(b"%08x %s\n" % (zlib.crc32(body), body))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise StorageFull(f"{self._path} cannot be written: {error.strerror}; free some space and resume") from None

    def _read(self) -> None:
        self._end = 0
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        for line in data.splitlines(keepends=True):
            body = line[9:-1]
            if not line.endswith(b"\n") or line[:8] != b"%08x" % zlib.crc32(body):
                break
            if self.head is None:
                self.head = msgspec.json.decode(body, type=Head)
            else:
                self.last = msgspec.json.decode(body, type=Commit)
            self._end += len(line)

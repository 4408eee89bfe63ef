"""Files of one replica's segments as their one writer sees them: the next number, the current file, its end."""

import fcntl
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, time

import msgspec

from rung.domain.errors import ConfigurationError
from rung.domain.records import MarkRecord, decode
from rung.store.folders import sync_folder
from rung.store.frames import Frame, frames, scan
from rung.store.segments import SegmentFile, segment_files

__all__ = ["SegmentFiles"]

_TAIL = 256 << 10
"""Bytes at the end of the last file that are looked at for its end mark."""


class SegmentFiles:
    """Appends frames, and goes on to a next file by size, by age and after an error.

    Guarantees:
        1. A frame that `sync` covered is on the disk.
        2. After a failed sync or write nothing more is written to that file.
        3. A file is complete before the next has a name.
    """

    def __init__(self, home: Path, *, segment_bytes: int, segment_seconds: float) -> None:
        self.home = home
        self.dirty = False
        """Whether something was written since the last sync."""
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._lock = -1
        self._file = -1
        self._path = home
        self._number = 0
        self._salt = 0
        self._size = 0
        self._born = 0.0

    def lock(self) -> None:
        """Take the folder for this process.

        Raises:
            ConfigurationError: another process writes there, or the folder cannot be made.
        """
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.unlock()
            raise ConfigurationError(
                f"another process writes the log {self.home}: give each replica a name of its own"
            ) from None
        except OSError as error:
            raise ConfigurationError(f"the log {self.home} cannot be written: {error.strerror}") from None

    def unlock(self) -> None:
        """Let go of the folder."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def find_end(self) -> tuple[float, bool] | None:
        """When the run before last wrote, and whether it marked its end; None if there was none. Raises `OSError`."""
        files = segment_files(self.home.parent, self.home.name)
        if not files:
            return None
        self._number = files[-1].number
        return _ending(files[-1])

    @property
    def due(self) -> bool:
        """Whether the next write goes to a new file."""
        full = self._size >= self._segment_bytes or monotonic() - self._born >= self._segment_seconds
        return self._file < 0 or full

    def write(self, payloads: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Append payloads; return how many are in the file whole, and what kept the others out."""
        if self._file < 0:
            try:
                self._create()
            except OSError as error:
                return 0, error
        framed = frames(payloads, self._salt)
        data = memoryview(b"".join(framed))
        done, refusal = 0, None
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError as error:
            refusal = error
        self._size += done
        self.dirty = self.dirty or done > 0
        whole = 0
        for frame in framed:
            done -= len(frame)
            if done < 0:
                break
            whole += 1
        return whole, refusal

    def sync(self) -> None:
        """Bring what was written to the disk. Raises `OSError`; the file has to be left then."""
        if self.dirty:
            os.fdatasync(self._file)
            self.dirty = False

    def leave(self) -> None:
        """Close the current file. An empty one is removed: a full disk must not fill up with names."""
        file, self._file = self._file, -1
        self.dirty = False
        if file < 0:
            return
        with suppress(OSError):  # what matters was synced before; what was not is written again
            os.close(file)
        if not self._size:
            self._path.unlink(missing_ok=True)

    def _create(self) -> None:
        salt = int.from_bytes(secrets.token_bytes(4), "little")
        # By the clock: numbers go on rising, and readers with them, also after somebody emptied the folder.
        number = max(self._number + 1, int(time()))
        self._path = self.home / f"{number:012d}-{salt:08x}.seg"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._number = number
        self._salt, self._size, self._born = salt, 0, monotonic()
        sync_folder(self.home)


def _ending(file: SegmentFile) -> tuple[float, bool]:
    size = file.path.stat().st_size
    with file.path.open("rb") as opened:
        opened.seek(max(0, size - _TAIL))
        data = opened.read()
    clean = False
    for piece in scan(data, file.salt):
        if isinstance(piece, Frame) and piece.erased:
            continue
        clean = False
        if isinstance(piece, Frame):
            with suppress(msgspec.DecodeError):
                record = decode(piece.payload)
                clean = isinstance(record, MarkRecord) and record.kind == "close"
    return file.path.stat().st_mtime, clean

"""Segments: append-only files of framed records, one folder of them per replica.

    log/REPLICA/000000000007-9f3a2c11.seg      (number, salt)

This is the reading side: it follows all replicas across rotation, from a position that the caller keeps. The writing
side is `segment_writer`. A frame that is not whole is never taken for a record:

- at the end of a replica's last file it may still be being written: the reader stops there, and looks again next time;
- at the end of an earlier file it was torn by a crash: skipped and counted;
- before the end of a file it is damage: skipped to the next whole frame, counted and told.
"""

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NewType

import msgspec

from rung.domain.errors import Conflict, InvalidInput
from rung.domain.records import Record, decode
from rung.store.frames import Frame, Gap, erased, scan

__all__ = [
    "Damage",
    "Position",
    "SegmentFile",
    "SegmentReader",
    "blank_out",
    "exclusive",
    "places_of",
    "position_of",
    "read",
    "segment_files",
]

Position = NewType("Position", str)
"""Where a reader stands in every replica's files: `REPLICA=NUMBER:OFFSET,...`. Opaque to whoever keeps it."""

_FILE = re.compile(r"(\d{12})-([0-9a-f]{8})\.seg", re.ASCII)
_PLACE = re.compile(r"([a-z0-9][a-z0-9._-]{0,62})=(\d+):(\d+)", re.ASCII)
_JOURNAL = "erasure.json"


class SegmentFile(msgspec.Struct, frozen=True, order=True):
    """One file of one replica."""

    replica: str
    number: int
    salt: int
    path: Path


class Damage(msgspec.Struct, frozen=True):
    """Bytes that hold no record that can be read."""

    path: Path
    start: int
    end: int
    kind: Literal["torn", "corrupt", "unknown"]
    """torn: cut off by a crash. corrupt: its checksum does not fit. unknown: whole, but no record of this version."""


def segment_files(folder: Path, replica: str | None = None) -> list[SegmentFile]:
    """Every segment, by replica and number. What is named otherwise is not ours and left alone."""
    found = []
    replicas = [folder / replica] if replica else sorted(_subfolders(folder))
    for home in replicas:
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in os.scandir(home):
                match = _FILE.fullmatch(entry.name)
                if match:
                    found.append(SegmentFile(home.name, int(match[1]), int(match[2], 16), home / entry.name))
    return sorted(found)


def _subfolders(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir()]
    except FileNotFoundError:
        return []


def places_of(position: Position | None) -> dict[str, tuple[int, int]]:
    """Replica -> number of its file and offset in it.

    Raises:
        InvalidInput: it is no position.
    """
    places = {}
    for part in (position or "").split(","):
        if part:
            match = _PLACE.fullmatch(part)
            if match is None:
                raise InvalidInput(f"{position!r:.200} is no position in a log", field="position")
            places[match[1]] = (int(match[2]), int(match[3]))
    return places


def position_of(places: dict[str, tuple[int, int]]) -> Position:
    """The position that stands there; the reverse of `places_of`."""
    return Position(",".join(f"{name}={number}:{offset}" for name, (number, offset) in sorted(places.items())))


class SegmentReader:
    """Iterates once over the records after a position, and knows what it could not read.

    Guarantees:
        1. A record that a writer acknowledged comes exactly once, unless its bytes were damaged later.
        2. What comes was written whole by a writer: its checksum fits.
        3. Records of one replica come in the order in which they were written.
        4. Files that are deleted meanwhile are passed over.
    """

    def __init__(self, folder: Path, after: Position | None = None) -> None:
        self.folder = folder
        self.damage: list[Damage] = []
        self.erased = 0
        """Frames that an erasure has blanked out."""
        self.pending = 0
        """Bytes at the ends of last files that are no whole frame yet."""
        self._places = places_of(after)

    @property
    def position(self) -> Position:
        """After the last record that was handed out, and all that was skipped before the next."""
        return position_of(self._places)

    def __iter__(self) -> Iterator[tuple[Position, Record]]:
        files = segment_files(self.folder)
        for index, file in enumerate(files):
            number, offset = self._places.get(file.replica, (0, 0))
            if file.number < number:
                continue
            last = index + 1 == len(files) or files[index + 1].replica != file.replica
            yield from self._file(file, offset if file.number == number else 0, last)

    def _file(self, file: SegmentFile, offset: int, last: bool) -> Iterator[tuple[Position, Record]]:
        try:
            with file.path.open("rb") as opened:
                opened.seek(offset)
                data = opened.read()
        except FileNotFoundError:
            return
        before = position_of({name: place for name, place in self._places.items() if name != file.replica})
        stem = f"{before}{',' if before else ''}{file.replica}={file.number}:"
        place = offset
        for piece in scan(data, file.salt, offset):
            if isinstance(piece, Gap):
                if piece.end == offset + len(data):
                    if last:
                        self.pending += piece.end - piece.start
                        break
                    self.damage.append(Damage(file.path, piece.start, piece.end, "torn"))
                else:
                    self.damage.append(Damage(file.path, piece.start, piece.end, "corrupt"))
                continue
            place = piece.end
            record = self._record(file, piece)
            if record is not None:
                self._places[file.replica] = (file.number, place)
                yield Position(f"{stem}{place}"), record
        self._places[file.replica] = (file.number, place)

    def _record(self, file: SegmentFile, frame: Frame) -> Record | None:
        if frame.erased:
            self.erased += 1
            return None
        try:
            return decode(frame.payload)
        except msgspec.DecodeError:
            self.damage.append(Damage(file.path, frame.start, frame.end, "unknown"))
            return None


def read(folder: Path, after: Position | None = None) -> Iterator[tuple[Position, Record]]:
    """The records after a position, each with the position after it; ends where the log ends now."""
    return iter(SegmentReader(folder, after))


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Be the only one who converts, erases or deletes segments of this folder. Writers and readers go on.

    Raises:
        Conflict: somebody else is at it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "maintenance.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"another process converts or erases records in {folder}: try again when it is done"
            ) from None
        yield
    finally:
        os.close(descriptor)


def blank_out(folder: Path, unwanted: Callable[[Record], bool]) -> int:
    """Overwrite in place every record that is `unwanted`; return how many. Call inside `exclusive`.

    Frames keep their length, so positions stay right and a writer may append meanwhile. What is to be blanked is
    noted first: a run that was killed in between is finished by the next.
    """
    journal = folder / _JOURNAL
    if journal.exists():
        with suppress(ValueError):  # killed while it was noted: nothing was overwritten yet
            _overwrite(folder, json.loads(journal.read_text()))
    spots: list[list[str | int]] = []
    for file in segment_files(folder):
        with suppress(FileNotFoundError):
            spots.extend(
                [str(file.path.relative_to(folder)), file.salt, piece.start, len(piece.payload)]
                for piece in scan(file.path.read_bytes(), file.salt)
                if isinstance(piece, Frame) and not piece.erased and _matches(piece, unwanted)
            )
    if spots:
        with journal.open("w") as note:
            note.write(json.dumps(spots))
            note.flush()
            os.fsync(note.fileno())
        _overwrite(folder, spots)
    journal.unlink(missing_ok=True)
    return len(spots)


def _matches(frame: Frame, unwanted: Callable[[Record], bool]) -> bool:
    try:
        return unwanted(decode(frame.payload))
    except msgspec.DecodeError:
        return False


def _overwrite(folder: Path, spots: list[list[str | int]]) -> None:
    by_file: dict[str, list[list[str | int]]] = {}
    for spot in spots:
        by_file.setdefault(str(spot[0]), []).append(spot)
    for name, inside in by_file.items():
        with suppress(FileNotFoundError), (folder / name).open("r+b") as file:
            for _, salt, start, length in inside:
                os.pwrite(file.fileno(), erased(int(length), int(salt)), int(start))
            os.fsync(file.fileno())

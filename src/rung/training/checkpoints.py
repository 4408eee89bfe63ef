"""Where a run stood, on disk: written whole or not at all, checked before it is believed.

A checkpoint is a folder `step-000000123` with one file for each thing, and `checkpoint.json` with their sha256,
written last. The two newest are kept, so that one is whole whatever happens to the other.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from rung.domain.errors import StorageFull
from rung.store.folders import sync_folder

__all__ = ["Checkpoint", "Checkpoints"]

_INDEX = "checkpoint.json"
_KEPT = 2


class Checkpoint(msgspec.Struct, frozen=True):
    """What was read back."""

    step: int
    state: dict[str, Any]
    """Plain values."""
    files: dict[str, bytes]


class _Index(msgspec.Struct):
    step: int
    state: dict[str, Any]
    digests: dict[str, str]


class Checkpoints:
    """The checkpoints of one run, in a folder of theirs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, step: int, state: Mapping[str, Any], files: Mapping[str, bytes], name: str = "") -> None:
        """Write one; `name` keeps it apart from those that are thrown away as newer ones come.

        Raises:
            StorageFull: there is no room; the earlier ones are as they were.
            OSError: it cannot be written for another reason.
        """
        place = self._folder / (name or f"step-{step:09}")
        draft = self._folder / f".{place.name}.{os.getpid()}"
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            for file, content in files.items():
                _write(draft / file, content)
            digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
            _write(draft / _INDEX, msgspec.json.encode(_Index(step, dict(state), digests)))
            self._swap(draft, place)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise StorageFull(f"no room for the checkpoint of step {step} in {self._folder}") from None
            raise
        if not name:
            for old in self._steps()[:-_KEPT]:
                shutil.rmtree(old, ignore_errors=True)

    def load(self, name: str = "") -> Checkpoint | None:
        """The newest that is whole, or the one of that name; None where there is none."""
        for place in [self._folder / name] if name else reversed(self._steps()):
            found = _read(place)
            if found is not None:
                return found
        return None

    def clear(self) -> None:
        """Remove them all."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _steps(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"))

    def _swap(self, draft: Path, place: Path) -> None:
        if place.exists():
            # A folder cannot be replaced in one move. In between there is none of this name, which `load` bears.
            gone = self._folder / f".{place.name}.{os.getpid()}.old"
            place.rename(gone)
            draft.rename(place)
            shutil.rmtree(gone, ignore_errors=True)
        else:
            draft.rename(place)
        sync_folder(self._folder)


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read(place: Path) -> Checkpoint | None:
    try:
        index = msgspec.json.decode((place / _INDEX).read_bytes(), type=_Index)
        files = {name: (place / name).read_bytes() for name in index.digests}
    except (OSError, msgspec.MsgspecError):
        return None
    if any(hashlib.sha256(files[name]).hexdigest() != digest for name, digest in index.digests.items()):
        return None
    return Checkpoint(index.step, index.state, files)

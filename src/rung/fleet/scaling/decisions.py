"""The decisions on the number of replicas, as lines of JSON in the project's folder: the newest few hundred.

Whoever shows them needs no control plane for it.
"""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from rung.domain.scaling import Decision

__all__ = ["FOLDER", "append", "read_last"]

FOLDER = Path(".rung", "scaling")
_FILE = "decisions.jsonl"
_LARGEST = 256 << 10
"""Bytes at which the older half is let go."""


def append(folder: Path, decision: Decision) -> None:
    """Add a decision to those of the project in `folder`. A disk that takes nothing must not stop the scaling."""
    path = folder / FOLDER / _FILE
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > _LARGEST:
            kept = path.read_bytes()[-_LARGEST // 2 :].partition(b"\n")[2]
            temporary = path.with_suffix(".tmp")
            temporary.write_bytes(kept)
            temporary.replace(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, msgspec.json.encode(decision) + b"\n")
        finally:
            os.close(descriptor)


def read_last(folder: Path, count: int) -> list[Decision]:
    """The newest decisions, oldest of them first; a line that was cut off is left out."""
    try:
        lines = (folder / FOLDER / _FILE).read_bytes().splitlines()
    except OSError:
        return []
    found: list[Decision] = []
    for line in lines[-count:] if count else []:
        with suppress(msgspec.MsgspecError):
            found.append(msgspec.json.decode(line, type=Decision))
    return found

"""What a run appends to while it goes on, and how far that has got into MLflow's store.

A line of `events.jsonl` is written at once and whole, so that a killed process leaves behind all that it recorded.
"""

import math
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

__all__ = ["JOURNAL", "STORE", "Entry", "State", "alive", "entries", "mend", "numbers", "read_state", "write_state"]

STORE = ".rung/mlflow.db"
"""MLflow's own SQLite file, in the project."""
JOURNAL, _STATE = "events.jsonl", "state.json"


class Entry(msgspec.Struct, omit_defaults=True):
    """A line of the journal."""

    kind: Literal["params", "tags", "metrics", "artifact", "again", "finish"]
    at: float
    """Seconds since the epoch."""
    values: dict[str, Any] = {}
    step: int = 0


class State(msgspec.Struct):
    """How far the journal has been sent, and who writes it."""

    model: str
    id: str = ""
    """MLflow's; empty before it has one."""
    sent: int = 0
    """Bytes of the journal that MLflow has."""
    pid: int = 0
    began: float = 0.0
    """When the process of that number began: numbers come back."""
    ended: str = ""


def read_state(folder: Path) -> State | None:
    """That of the run in `folder`; None where it has none yet, or it cannot be read."""
    try:
        return msgspec.json.decode((folder / _STATE).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return None


def write_state(folder: Path, state: State) -> None:
    """Replace it in one step."""
    draft = folder / f".{_STATE}.{os.getpid()}.{threading.get_ident()}"
    draft.write_bytes(msgspec.json.encode(state))
    draft.replace(folder / _STATE)


def alive(state: State) -> bool:
    """Whether the process that writes the journal still runs."""
    try:
        process = psutil.Process(state.pid)
        # One that nobody has waited for yet does nothing any more.
        return bool(abs(process.create_time() - state.began) < 1 and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def mend(path: Path) -> None:
    """Cut off a line that a full disk or a power failure left without its end: the next one would be lost with it."""
    if not path.exists():
        return
    with path.open("r+b") as journal:
        content = journal.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            journal.truncate(whole)


def entries(path: Path, begin: int = 0) -> tuple[list[Entry], int]:
    """Whole lines from byte `begin` on, and how many bytes they have."""
    with path.open("rb") as journal:
        journal.seek(begin)
        content = journal.read()
    whole = content[: content.rfind(b"\n") + 1]
    return list(_decoded(whole)), len(whole)


def numbers(values: Mapping[str, float]) -> dict[str, Any]:
    """Metrics as JSON can hold them: it has no infinity, and nothing that is no number."""
    return {name: float(value) if math.isfinite(value) else str(float(value)) for name, value in values.items()}


def _decoded(content: bytes) -> Iterator[Entry]:
    for line in content.split(b"\n"):
        if line:
            try:
                yield msgspec.json.decode(line, type=Entry)
            except msgspec.MsgspecError:
                # Damage to one line is no reason to lose the others.
                continue

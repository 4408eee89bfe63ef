"""What a running project says of itself in its folder: `.rung/up.lock` and `.rung/up.json`.

The lock is the truth: the kernel frees it when its holder ends, however that ends. The file says who holds it and
where everything answers. A process is named by its id and its start time, since ids are used again.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import msgspec

from rung.domain.errors import Conflict

__all__ = ["RoleName", "RoleState", "UpState", "hold", "is_alive", "read_state", "started_at", "write_state"]

RoleName = Literal["control", "front", "replica", "worker"]
"""What a process of a project does."""
_FOLDER = ".rung"
_LOCK = "up.lock"
_STATE = "up.json"


class RoleState(msgspec.Struct, kw_only=True):
    """One process of the project, as its supervisor knows it."""

    name: str
    """`replica-1` and so on."""
    role: RoleName
    state: Literal["starting", "ready", "waiting", "broken", "stopping", "stopped"]
    """`waiting` to be started again, `broken` when it ended too often for that to be soon."""
    pid: int = 0
    """0 where it does not run."""
    started: int = 0
    """Start time in the kernel's clock ticks."""
    since: float = 0.0
    """When this life began, in seconds since the epoch."""
    restarts: int = 0
    reason: str = ""
    """Why the last life ended."""
    url: str = ""
    """Where it alone answers."""


class UpState(msgspec.Struct, kw_only=True):
    """A running project."""

    project: str
    pid: int
    """Of the supervisor."""
    started: int
    since: float
    url: str = ""
    """The data door; empty where no replica runs here."""
    control: str = ""
    """The control API; empty where it does not run here."""
    roles: list[RoleState] = []
    replicas: int = 0
    """How many there are to be."""
    why: str = ""
    """Why so many, in words."""
    by_hand: bool = False
    """Whether a person said so; then no rule changes it."""
    restarted: float = 0.0
    """When a restart of the replicas was asked for, in seconds since the epoch; 0 where none is under way."""
    hosts: dict[str, str] = {}
    """Other machines that the front may send requests to, by what HAProxy calls them."""
    waiting: int = 0
    """Requests that the front holds because no replica can answer."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Be the one supervisor of a project.

    Raises:
        Conflict: another one is.
    """
    (folder / _FOLDER).mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / _FOLDER / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = read_state(folder)
            who = f" (process {other.pid})" if other else ""
            raise Conflict(f"{folder.resolve()} is up already{who}: `rung ps` shows it, `rung down` stops it") from None
        yield
    finally:
        # The file stays: removing it would let two hold locks on different files of that name.
        os.close(descriptor)


def read_state(folder: Path) -> UpState | None:
    """What the last supervisor wrote, alive or not; None where nothing can be read."""
    try:
        return msgspec.json.decode((folder / _FOLDER / _STATE).read_bytes(), type=UpState)
    except (OSError, msgspec.MsgspecError):
        return None


def write_state(folder: Path, state: UpState | None) -> None:
    """Say how things stand; None says that nothing runs any more."""
    path = folder / _FOLDER / _STATE
    if state is None:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_suffix(".tmp")
    # A full disk must not stop what runs: the file is only what people are shown.
    with suppress(OSError):
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=1))
        temporary.replace(path)


def started_at(pid: int) -> int:
    """When a process began, in clock ticks since the machine's start; 0 for one that does not run."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    # The name in parentheses may hold anything.
    fields = text.rpartition(")")[2].split()
    return 0 if fields[0] in {"Z", "X"} else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Whether this very process runs, and not another that got its id."""
    return pid > 0 and started > 0 and started_at(pid) == started

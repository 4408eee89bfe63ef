"""What a supervisor that was killed has left behind."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from rung.fleet.state import is_alive, read_state, write_state

__all__ = ["clear_orphans"]

_ORPHANS = 5.0
"""Seconds that processes of a killed supervisor get to be gone."""


def clear_orphans(folder: Path) -> None:
    """Wait for the roles of a supervisor that was killed to be gone, and end those that are not."""
    state = read_state(folder)
    left = [role for role in state.roles if is_alive(role.pid, role.started)] if state else []
    deadline = time.monotonic() + _ORPHANS
    while left and time.monotonic() < deadline:
        time.sleep(0.02)  # they are no children of ours, so there is nothing to wait on
        left = [role for role in left if is_alive(role.pid, role.started)]
    for role in left:
        with suppress(ProcessLookupError):
            os.killpg(role.pid, signal.SIGKILL)
    write_state(folder, None)

"""Replicas in the story: how many answer, second by second, and the end of one of them."""

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from service import ServiceError

__all__ = ["Replicas"]


class Replicas:
    """Those that answer, counted once a second in a thread of its own, until `end`.

    Attributes:
        counted: (seconds since the epoch, how many).
    """

    def __init__(self, status: Callable[[], Any]) -> None:
        """`status` gives what `GET /status` of the control API says."""
        self.counted: list[tuple[float, int]] = []
        self._status = status
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def answering(self) -> int:
        """How many there were at the last look."""
        return self.counted[-1][1] if self.counted else 0

    def kill(self) -> str:
        """End one that answers by signal 9, as the kernel does where memory is short; its name."""
        victim = self._ready()[-1]
        os.kill(victim["pid"], signal.SIGKILL)
        return str(victim["name"])

    def end(self) -> None:
        """Count no more."""
        self._stop.set()
        self._thread.join(60)

    def _live(self) -> None:
        while not self._stop.wait(1):
            try:
                self.counted.append((time.time(), len(self._ready())))
            except ServiceError:
                # Nobody knows, and the picture has a longer step.
                continue

    def _ready(self) -> list[Any]:
        roles = self._status()["roles"]
        return [role for role in roles if role["role"] == "replica" and role["state"] == "ready"]

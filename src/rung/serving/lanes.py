"""Threads that hold a model call each. ONNX Runtime releases the GIL, so lanes are cores.

A lane takes a call, runs it and hands the result back to the event loop. It knows nothing of
requests or batches: what runs next is decided on the loop, where no lock is needed.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

__all__ = ["Lanes", "cores"]

Call = Callable[[], Any]
Done = Callable[[Any, Exception | None], None]


def cores() -> int:
    """Cores that this process may use: its affinity, and its cgroup's quota rounded up."""
    count = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass  # no cgroup v2 here: affinity is all that limits us
    return count


class Lanes:
    """`count` threads that take calls from one queue."""

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._name = name
        self._calls: SimpleQueue[tuple[Call, Done] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Start the threads; call from the event loop that is to get the results."""
        self._loop = asyncio.get_running_loop()
        for number in range(self.count):
            thread = Thread(target=self._work, name=f"{self._name}/{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def submit(self, call: Call, done: Done) -> None:
        """Run `call` on a lane, then `done(value, error)` on the loop."""
        self._calls.put((call, done))

    def close(self) -> None:
        """Let the calls in work finish and end the threads. Blocks; call it off the loop."""
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        while (item := self._calls.get()) is not None:
            call, done = item
            try:
                value, error = call(), None
            except Exception as caught:  # noqa: BLE001 - the lane's boundary: the loop gets every error
                value, error = None, caught
            loop = self._loop
            if loop is None or loop.is_closed():
                return
            loop.call_soon_threadsafe(done, value, error)
            del call, done, value, error, item

"""Threads that run the transforms of all models, and how long those that wait for them will take."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

__all__ = ["Pace", "TransformPool"]

_T = TypeVar("_T")
_FORGET = 0.1
"""Weight of the newest measurement in a mean."""


class Pace:
    """What a kind of work takes for each row, as measured lately."""

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0
        """For a row; 0 before anything was measured."""

    def learn(self, rows: int, seconds: float) -> None:
        """So many rows took so many seconds."""
        one = seconds / max(rows, 1)
        self.seconds = self.seconds + _FORGET * (one - self.seconds) if self.seconds else one


class TransformPool:
    """Belongs to the event loop, which takes turns: only what it runs is in other threads."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="rung-transforms")
        self._running = 0
        self._ahead = 0.0
        """Seconds of work that is not done yet."""

    async def run(self, pace: Pace, rows: int, call: Callable[[], _T]) -> _T:
        """Run `call`, which is about so many rows, in one of the threads."""
        expected = pace.seconds * rows
        self._running += 1
        self._ahead += expected
        try:
            result, seconds = await asyncio.get_running_loop().run_in_executor(self._pool, _timed, call)
        finally:
            self._running -= 1
            self._ahead -= expected
        pace.learn(rows, seconds)
        return result

    def wait(self) -> float:
        """Seconds until what came in now would be begun with, at most; 0 while a thread is free."""
        return self._ahead / self._threads if self._running >= self._threads else 0.0

    def close(self) -> None:
        """End the threads; wait for what they do."""
        self._pool.shutdown()


def _timed(call: Callable[[], _T]) -> tuple[_T, float]:
    began = perf_counter()
    return call(), perf_counter() - began

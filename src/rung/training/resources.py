"""What the processes of a run use of the machine, looked at about once a second."""

import time
from collections.abc import Iterable

import msgspec
import psutil

__all__ = ["Sampler", "Use"]

_SECONDS, _LATER = 1.0, 10.0
"""Between two samples: of the first ten minutes, and after that, so that a day's run has some 9,000."""
_SOON = 600.0


class Use(msgspec.Struct, frozen=True):
    """What some processes use together."""

    cpu: float
    """Percent of one core since the last sample: 200 is two whole cores."""
    memory: int
    """Bytes in memory (RSS); a page that two of them share counts twice."""
    threads: int


class Sampler:
    """Looks at processes now and then, each of which may come and go. Not for several threads."""

    def __init__(self) -> None:
        self._seen: dict[int, psutil.Process] = {}
        self._began = self._last = time.monotonic()

    def look(self, pids: Iterable[int]) -> Use | None:
        """What they use, where it is time for that; None between two samples, and when none of them is there."""
        now = time.monotonic()
        if now - self._last < (_SECONDS if now - self._began < _SOON else _LATER):
            return None
        self._last = now
        cpu = memory = threads = 0.0
        there = False
        for pid in pids:
            try:
                new = pid not in self._seen
                # Kept, since the share of a processor is counted from one look to the next.
                process = self._seen.setdefault(pid, psutil.Process(pid))
                with process.oneshot():
                    share = process.cpu_percent()
                    cpu += _so_far(process) if new else share
                    memory += process.memory_info().rss
                    threads += process.num_threads()
                there = True
            except psutil.Error:
                self._seen.pop(pid, None)
        return Use(cpu, int(memory), int(threads)) if there else None


def _so_far(process: psutil.Process) -> float:
    """Since the process began."""
    times = process.cpu_times()
    return float(100 * (times.user + times.system) / max(time.time() - process.create_time(), 1e-3))

"""The loop of the control plane: again and again each part looks at what there is, plans, and acts.

The parts know nothing of each other. One that fails is logged, counted and tried again; one that hangs holds up
nobody. What a part has done is in the repository or the database, never in here, so the loop may be killed anywhere.
"""

import threading
import time
from collections.abc import Callable, Sequence
from math import inf

import msgspec
import structlog

from rung.domain.errors import RungError

__all__ = ["ControlLoop", "Part", "PartHealth"]

_SLOW = 60.0
"""Seconds after which a turn that has not returned is told as a problem."""
_SOON, _LONGEST_WAIT = 1.0, 60.0
"""Seconds until a turn that failed is tried again, at first and after many."""


class Part(msgspec.Struct, frozen=True):
    """One duty of the control plane."""

    name: str
    turn: Callable[[], object]
    """Observe, plan, act: once. May block, may raise; doing it twice does no harm."""
    every: float = 1.0
    """Seconds between two turns."""


class PartHealth(msgspec.Struct, kw_only=True):
    """How a part has been."""

    name: str
    turns: int = 0
    """Turns that ended well."""
    failures: int = 0
    """Turns that raised, since the start."""
    in_a_row: int = 0
    """Of these, since the last that ended well."""
    error: str = ""
    """Why the last turn failed, or that it hangs; empty where the part works."""
    last: float = 0.0
    """When the last turn ended, in seconds since the epoch; 0 before the first."""


class ControlLoop:
    """Gives every part its turns, each in a thread of its own.

    The threads do not hold up the end of the process: a turn may be cut off anywhere.
    """

    def __init__(self, parts: Sequence[Part], tick_seconds: float = 1.0) -> None:
        self._parts = parts
        self._tick_seconds = tick_seconds
        self._health = {part.name: PartHealth(name=part.name) for part in parts}
        self._began: dict[str, float] = {}
        """Part -> when the turn began that is under way."""
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._log = structlog.get_logger("rung.control")

    def open(self) -> None:
        """Start."""
        for part in self._parts:
            thread = threading.Thread(target=self._live, args=(part,), name=f"rung-{part.name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self, grace: float = 3.0) -> None:
        """Start no further turn, and wait up to `grace` seconds for those under way."""
        self._stop.set()
        deadline = time.monotonic() + grace
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def health(self) -> list[PartHealth]:
        """How every part has been."""
        found = [msgspec.structs.replace(self._health[part.name]) for part in self._parts]
        for health in found:
            lasted = time.monotonic() - self._began.get(health.name, inf)  # minus infinity between turns
            if lasted > _SLOW:
                health.error = f"a turn has been under way for {lasted:.0f} seconds"
        return found

    def turn(self, part: Part) -> float:
        """Give a part one turn; seconds until its next."""
        health = self._health[part.name]
        self._began[part.name] = time.monotonic()
        every = max(part.every, self._tick_seconds)
        try:
            part.turn()
        except Exception as error:  # noqa: BLE001 - a part must not bring down the others
            health.failures += 1
            health.in_a_row += 1
            health.error = str(error) or type(error).__name__
            # Soon, also where its turns are hours apart: what kept it from this one may be over in a moment.
            wait: float = min(min(every, _SOON) * 2.0 ** min(health.in_a_row - 1, 10), _LONGEST_WAIT)
            self._log.warning(
                "a part of the control plane failed",
                action="part_failed",
                part=part.name,
                wait=wait,
                reason=health.error,
                exc_info=None if isinstance(error, RungError) else error,
            )
            return wait
        finally:
            del self._began[part.name]
            health.last = time.time()
        health.turns += 1
        health.in_a_row = 0
        health.error = ""
        return every

    def _live(self, part: Part) -> None:
        while not self._stop.is_set():
            self._stop.wait(self.turn(part))

"""When work that can wait may use a machine: when nobody else has for a while. Pure; times are monotonic seconds.

A model call cannot be stopped, so a request that comes in during one of the lowest priority may have to wait for it.
How often that may happen is fixed: the pause without other requests, after which such a call starts, is made twice as
long whenever a request met one, and a little shorter whenever one met none. In the long run the share of requests that
meet one is where both balance, log(1 / (1 - STEP)) / log(2): one in 230. So a percentile up to the 99th does not see
them, whatever the rate. Where requests come less than once in `MOST` seconds, each may meet one.
"""

from math import inf

__all__ = ["Idle"]

_LEAST = 0.01
"""Seconds of the shortest pause."""
_MOST = 2.0
"""Seconds of the longest."""
_STEP = 0.003
"""Share by which the pause gets shorter with each request that met nothing."""


class Idle:
    """Of one replica, over all its models: they share its cores."""

    __slots__ = ("_last", "active", "calls", "held", "lowest", "pause")

    def __init__(self) -> None:
        self.active = False
        """Whether there has been work that can wait. While not, nothing is counted."""
        self.calls = 0
        """Calls of other work in progress."""
        self.lowest = 0
        """Calls of work that can wait in progress."""
        self.held = 0
        """Requests of the lowest priority that have no answer yet."""
        self.pause = _LEAST
        self._last = -inf

    def open(self, now: float) -> None:
        """There is work that can wait from now on; what was before has not been seen."""
        if not self.active:
            self.active = True
            self._last = now

    def came(self, now: float) -> None:
        """A request that cannot wait has come in."""
        self._last = now
        if self.lowest:
            self.pause = min(2.0 * self.pause, _MOST)
        else:
            self.pause = max(self.pause * (1.0 - _STEP), _LEAST)

    def left(self, now: float) -> None:
        """The call of one has ended; whoever waited for it may ask again at once."""
        self._last = now

    def wait(self, now: float) -> float:
        """Seconds until a call of the lowest priority may start, if nothing comes in; 0: now."""
        if self.calls:
            return self.pause
        return max(self._last + self.pause - now, 0.0)

"""When a process that ended by itself is started again: at once, later, or not for a while. Pure."""

import msgspec

__all__ = ["Restart", "after_end"]

_YOUNG = 60.0
"""Seconds of life after which an end no longer counts as one of a row."""
_FIRST_WAIT = 0.5
_BREAKER = 5
"""Short lives in a row at which there is no point in hurrying any more."""
_REST = 60.0


class Restart(msgspec.Struct, frozen=True):
    """What follows from the ends of a process so far."""

    streak: int = 0
    """Short lives in a row, the last one included."""
    wait: float = 0.0
    """Seconds until it is started again."""
    broken: bool = False
    """Whether it ends again and again: the breaker is open, and it is tried once a minute."""


def after_end(before: Restart, lived: float) -> Restart:
    """What to do about an end after `lived` seconds.

    The first end is answered at once: whatever killed the process is probably over. Then the wait doubles, and the
    fifth short life in a row opens the breaker.
    """
    streak = 1 if lived >= _YOUNG else before.streak + 1
    if streak >= _BREAKER:
        return Restart(streak, _REST, broken=True)
    return Restart(streak, 0.0 if streak == 1 else _FIRST_WAIT * 2 ** (streak - 2))

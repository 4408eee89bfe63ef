"""Signals for a loop that waits on a selector: each wakes it up at once, whichever thread of the process it reached."""

import selectors
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

__all__ = ["signals_heard"]

_MOST = 64


@contextmanager
def signals_heard(
    selector: selectors.BaseSelector, numbers: Iterable[int], heard: Callable[[int], None]
) -> Iterator[None]:
    """Call `heard` with each of these signals that comes, and have the selector return for it.

    What is registered beside it takes any arguments, as loops differ in what they pass. Handlers are put back at the
    end. From the main thread only.
    """
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        before = {number: signal.signal(number, lambda number, _frame: heard(number)) for number in numbers}
        woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        selector.register(ours, selectors.EVENT_READ, lambda *_: ours.recv(_MOST))
        try:
            yield
        finally:
            selector.unregister(ours)
            signal.set_wakeup_fd(woken)
            for number, handler in before.items():
                signal.signal(number, handler)

"""A request on its way through the batcher."""

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import msgspec

from rung.domain.errors import Cancelled
from rung.domain.predictions import Request, Response

__all__ = ["Ticket"]


_SOON: Any = object()


class Ticket(msgspec.Struct, eq=False):
    """A request in the batcher and, to whoever awaits it, the future of its response.

    The door drives its coroutines by hand and asks to be called back at once; asyncio's own tasks,
    which may await a ticket too, are woken in a turn of their own.
    """

    request: Request
    entered: float
    """When it was put into the queue."""
    abandon: Callable[["Ticket"], None] | None = None
    """Called after whoever waited gave up before there was an answer."""
    key: Any = None
    """Requests of equal keys may share a call."""
    counted: bool = True
    """A request of its own, not a part of one."""
    queued: bool = False
    """Counted in the queue."""
    settled: bool = False
    """Answered, expired or given up: not to be started."""
    value: Response | None = None
    error: BaseException | None = None
    timer: asyncio.TimerHandle | None = None
    callback: Callable[[Any], object] | None = None
    _asyncio_future_blocking: bool = False

    def __await__(self) -> Generator["Ticket", None, Response]:
        if not self.settled:
            self._asyncio_future_blocking = True
            try:
                yield self
            finally:
                if not self.settled:
                    self.give_up(Cancelled())
        if self.value is not None:
            return self.value
        return self.result()

    def result(self) -> Response:
        """The response, or the error raised; a Task asks before it goes on."""
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value

    def settle(self, value: Response | None, error: BaseException | None) -> None:
        """Give the answer to whoever waits; the first answer stands."""
        if self.settled:
            return
        self.settled = True
        self.value, self.error = value, error
        if self.timer is not None:
            self.timer.cancel()
        callback = self.callback
        if callback is not None:
            self.callback = None
            callback(self)

    def give_up(self, error: BaseException) -> None:
        """Nobody waits any more."""
        if not self.settled:
            self.settle(None, error)
            if self.abandon is not None:
                self.abandon(self)

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Any = _SOON) -> None:
        """Call `callback(self)` when settled: at once where `context` is None, else in a turn of its own."""
        if context is None:
            self.callback = callback
        else:
            loop = asyncio.get_running_loop()
            chosen = None if context is _SOON else context
            self.callback = lambda ticket: loop.call_soon(callback, ticket, context=chosen)
            if self.settled:
                self.callback(self)

    # --- what asyncio's gather, wait and Task ask of a future ---------------------------------

    def done(self) -> bool:
        """Whether it is settled."""
        return self.settled

    def cancelled(self) -> bool:
        """Whether a Task that awaited this was cancelled."""
        return isinstance(self.error, asyncio.CancelledError)

    def exception(self) -> BaseException | None:
        """The error, if that is how it was settled."""
        return self.error

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop it belongs to; a Task asks."""
        return asyncio.get_running_loop()

    def cancel(self, msg: Any = None) -> bool:
        """A Task that awaits this was cancelled."""
        if self.settled:
            return False
        self.give_up(asyncio.CancelledError(msg))
        return True

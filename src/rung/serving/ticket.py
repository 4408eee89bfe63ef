"""A request on its way through the batcher."""

import asyncio
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any

from rung.domain.predictions import Request, Response

__all__ = ["Ticket"]


class Ticket:
    """A request in the batcher and, to whoever awaits it, the future of its response.

    The door drives its coroutines by hand and is called back at once; an asyncio Task, which may
    await a ticket too, is woken in a turn of its own.
    """

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "entered",
        "error",
        "key",
        "queued",
        "request",
        "settled",
        "timer",
        "value",
    )

    def __init__(self, request: Request, key: Any = None) -> None:
        self.request = request
        self.entered = monotonic()
        self.key = key
        """Requests of equal keys may share a call."""
        self.value: Response | None = None
        self.error: BaseException | None = None
        self.settled = False
        """Answered, expired or given up: not to be started."""
        self.queued = False
        """Counted in the queue."""
        self.timer: asyncio.TimerHandle | None = None
        self._callback: Callable[[Any], object] | None = None
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator["Ticket", None, Response]:
        if not self.settled:
            self._asyncio_future_blocking = True
            yield self
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
        callback = self._callback
        if callback is not None:
            self._callback = None
            callback(self)

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Any = None) -> None:
        """Call `callback(self)` when settled; with a `context`, as a Task passes it, in a turn of its own."""
        if context is None:
            self._callback = callback
        else:
            loop = asyncio.get_running_loop()
            self._callback = lambda ticket: loop.call_soon(callback, ticket, context=context)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop it belongs to; a Task asks."""
        return asyncio.get_running_loop()

    def cancel(self, msg: Any = None) -> bool:
        """A Task that awaits this was cancelled."""
        if self.settled:
            return False
        self.settle(None, asyncio.CancelledError(msg))
        return True

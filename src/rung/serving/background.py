"""Blocking work beside the event loop, on threads that nobody waits for when the process ends.

Loading a model may take minutes and reading a bucket may hang; neither may hold up an exit.
The loop's own executor is joined at exit, so it is not used for these.
"""

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

__all__ = ["in_background"]

T = TypeVar("T")


async def in_background(call: Callable[..., T], *arguments: Any) -> T:
    """Run `call(*arguments)` on a daemon thread of its own and return what it returns, or raise what it raises."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def work() -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            value = call(*arguments)
        except BaseException as caught:  # noqa: BLE001 - the thread's boundary: the awaiting side gets every error
            error = caught
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, error)

    Thread(target=work, name=f"rung-{getattr(call, '__name__', 'background')}", daemon=True).start()
    return await future

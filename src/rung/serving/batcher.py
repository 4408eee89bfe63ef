"""Batching without knobs: a batch is what queued while the model was busy.

A model that costs less than a thread hop runs on the event loop, once per turn of the loop, on all
that came in during that turn. Any other model runs on lanes; each time one is free the best group
waiting is released to it. Nothing ever waits for a batch to fill.

All bookkeeping happens on the event loop, so there is no lock here.
"""

import asyncio
from collections.abc import Callable, Generator
from time import monotonic
from typing import Any

import numpy as np

from rung.domain.errors import DeadlineExceeded, NotReady, Overloaded
from rung.domain.predictions import NEVER, Request, Response
from rung.domain.tensors import Tensors
from rung.ports import Model
from rung.serving.cost import CostModel
from rung.serving.execution import Outcome, execute, execute_apart
from rung.serving.lanes import Lanes
from rung.serving.queue import RequestQueue
from rung.serving.recorder import Recorder

__all__ = ["Batcher", "Ticket"]


class Ticket:
    """A request in the batcher and, to whoever awaits it, the future of its response."""

    __slots__ = (
        "_asyncio_future_blocking",
        "_callback",
        "error",
        "key",
        "released",
        "request",
        "settled",
        "timer",
        "value",
    )

    def __init__(self, request: Request, key: Any) -> None:
        self.request = request
        self.key = key
        """Requests of equal keys may share a call."""
        self.value: Response | None = None
        self.error: Exception | None = None
        self.settled = False
        """Answered, expired or given up: not to be started."""
        self.released = False
        """Handed to a lane: no longer in the queue."""
        self.timer: asyncio.TimerHandle | None = None
        self._callback: Callable[[Any], object] | None = None
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator["Ticket", None, Response]:
        if not self.settled:
            self._asyncio_future_blocking = True
            yield self
        if self.error is not None:
            raise self.error
        assert self.value is not None
        return self.value

    def settle(self, value: Response | None, error: Exception | None) -> None:
        """Give the answer to whoever waits, at once."""
        if self.settled:
            return
        self.settled = True
        self.value, self.error = value, error
        if self.timer is not None:
            self.timer.cancel()
        callback, self._callback = self._callback, None
        if callback is not None:
            callback(self)

    # What an asyncio Task asks of the futures that it waits for. The door calls back at once; a
    # Task must be woken in a turn of its own.

    def add_done_callback(self, callback: Callable[[Any], object], *, context: Any = None) -> None:
        """Call `callback(self)` when settled."""
        if context is None:
            self._callback = callback
        else:
            loop = asyncio.get_running_loop()
            self._callback = lambda ticket: loop.call_soon(callback, ticket, context=context)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop it belongs to."""
        return asyncio.get_running_loop()

    def cancel(self, msg: Any = None) -> bool:
        """A cancelled Task gives up on this ticket."""
        if self.settled:
            return False
        self.settle(None, asyncio.CancelledError())  # type: ignore[arg-type]
        return True


class Batcher:
    """A `Predictor` round one loaded model.

    Guarantees:
        1. One answer or one error per request, whatever shares its batch.
        2. A request whose deadline passes gets `DeadlineExceeded` then, and never starts after it.
        3. A bad row fails its own request only; the others of its batch are computed again without it.
    """

    def __init__(
        self, name: str, version: int, model: Model, cost: CostModel, lanes: Lanes, *, threads: int, max_wait: float
    ) -> None:
        self.name = name
        self.version = version
        self.model = model
        self.cost = cost
        self.recorder = Recorder(name, version)
        self.inflight = 0
        """Handles on this version: requests that it has not answered yet."""
        self.on_idle: Callable[[], None] | None = None
        """Called when `inflight` falls to zero."""
        self._lanes = lanes
        self._free = lanes.count
        self._threads = threads
        self._max_wait = max_wait
        self._queue = RequestQueue()
        self._flushing = False
        signature = model.signature
        self._batched = signature.batched
        self._ragged = any(-1 in spec.shape[1:] for spec in signature.inputs)
        self._sole = signature.inputs[0].name if len(signature.inputs) == 1 else None
        self.inline = model.inline and cost.inline

    async def __call__(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            Overloaded: its turn would come after the longest wait allowed, or after its deadline.
            DeadlineExceeded, ModelError: as they say.
        """
        self.inflight += 1
        try:
            if not self.inline:
                self._admit(request)
            if self._batched and request.rows > self.cost.cap:
                return await self._split(request)
            return await self._enter(request)
        except Exception as error:
            self.recorder.failed(error, monotonic() - request.arrived)
            raise
        finally:
            self.release()

    def release(self) -> None:
        """Give back a handle that was taken by adding to `inflight`."""
        self.inflight -= 1
        if not self.inflight and self.on_idle is not None:
            self.on_idle()

    async def _enter(self, request: Request) -> Response:
        key: Any = None
        if self._ragged:
            key = tuple(array.shape[1:] for array in request.inputs.values())
        elif not self._batched:
            key = False
        ticket = Ticket(request, key)
        if self.inline:
            self._queue.push(ticket)
            if not self._flushing:
                self._flushing = True
                asyncio.get_running_loop().call_soon(self._flush)
        else:
            self._queue.push(ticket)
            if request.deadline != NEVER:
                ticket.timer = asyncio.get_running_loop().call_later(
                    max(0.0, request.deadline - monotonic()), self._expire, ticket
                )
            self._release()
        try:
            return await ticket
        except BaseException:
            self._give_up(ticket)
            raise

    async def _split(self, request: Request) -> Response:
        """More rows than one call should take: parts, on as many lanes as are free, put together again."""
        size = self.cost.cap
        parts = [self._enter(_part(request, at, min(at + size, request.rows))) for at in range(0, request.rows, size)]
        responses: list[Response] = []
        try:
            # Each part has to be in the queue before the first is awaited, so they are started by hand.
            tickets = [part.send(None) for part in parts]
            for part, ticket in zip(parts, tickets, strict=True):
                responses.append(await _Started(part, ticket))
        finally:
            for part in parts:
                part.close()
        outputs = {name: np.concatenate([one.outputs[name] for one in responses]) for name in responses[0].outputs}
        return Response(
            self.name,
            self.version,
            outputs,
            queued=responses[0].queued,
            computed=max(monotonic() - request.arrived - responses[0].queued, 0.0),
            batch=size,
        )

    # --- admission --------------------------------------------------------------------------

    def wait(self, priority: int = 0) -> float:
        """Seconds until a request that came in now would start."""
        if self._free and not self._queue.rows:
            return 0.0
        return (
            (self._queue.rows_before(priority) + self._lanes.count - self._free) * self.cost.row() / self._lanes.count
        )

    def _admit(self, request: Request) -> None:
        if self._free:
            return
        wait = self.wait(request.priority)
        left = request.deadline - monotonic()
        if wait > self._max_wait or wait + self.cost.estimate(1) > left:
            bound = f"the {left * 1e3:.0f} ms left" if left < self._max_wait else f"{self._max_wait * 1e3:.0f} ms"
            raise Overloaded(
                f"{self.name} would start this in {wait * 1e3:.0f} ms, later than {bound}; try again later",
                retry_after=max(wait - min(left, self._max_wait) / 2, self.cost.row()),
            )

    def _expire(self, ticket: Ticket) -> None:
        if not ticket.settled:
            self._queue.drop(ticket)
            what = "while it was being computed" if ticket.released else "before its turn came"
            ticket.settle(None, DeadlineExceeded(f"the deadline of the request passed {what}"))

    def _give_up(self, ticket: Ticket) -> None:
        if not ticket.settled:
            ticket.settled = True
            if ticket.timer is not None:
                ticket.timer.cancel()
            self._queue.drop(ticket)

    # --- on the event loop ------------------------------------------------------------------

    def _flush(self) -> None:
        """Run all that came in during this turn of the loop, here and now."""
        self._flushing = False
        queue, cap = self._queue, max(self.cost.cap, 1)
        while batch := queue.take(cap if self._batched else 1):
            now = monotonic()
            batch = self._startable(batch, now)
            if not batch:
                continue
            outcomes, seconds = execute(self.model, batch, self._sole)
            self._settle(batch, outcomes, now, seconds, "full" if len(queue) else "idle")

    # --- on lanes ---------------------------------------------------------------------------

    def _release(self) -> None:
        """Give each free lane the group whose turn it is."""
        queue = self._queue
        while self._free and queue.rows:
            share = -(-queue.rows // self._free)
            cap = self.cost.cap if self._batched else 1
            size = min(cap, share)
            # Alone in the house: spread over all cores. With company every lane has work of its own.
            wide = self._threads > 1 and self._free == self._lanes.count and queue.rows <= max(size, 1)
            batch = self._startable(queue.take(max(size, 1)), monotonic())
            if not batch:
                continue
            reason = (
                "idle"
                if size == share or len(queue) == 0
                else ("deadline" if self.cost.capped_by == "objective" else "full")
            )
            self._start(batch, self._threads if wide else 1, reason)

    def _start(self, batch: list[Ticket], threads: int, reason: str) -> None:
        self._free -= 1
        for ticket in batch:
            ticket.released = True
        started = monotonic()
        model, sole = self.model, self._sole

        def done(value: Any, error: Exception | None) -> None:
            self._free += 1
            if error is not None:
                value = ([error] * len(batch), 0.0)
            outcomes, seconds = value
            # The lane's next work first: it computes while the loop hands out these answers.
            self._release()
            self._settle(batch, outcomes, started, seconds, reason, threads)

        self._lanes.submit(lambda: execute_apart(model, batch, sole, threads), done)

    def _startable(self, batch: list[Ticket], now: float) -> list[Ticket]:
        """Leave out whoever is gone, and answer whoever is too late."""
        if all(not t.settled and t.request.deadline > now for t in batch):
            return batch
        kept = []
        for ticket in batch:
            if ticket.settled:
                continue
            if ticket.request.deadline <= now:
                ticket.settle(None, DeadlineExceeded("the deadline of the request passed before its turn came"))
            else:
                kept.append(ticket)
        return kept

    def _settle(
        self,
        batch: list[Ticket],
        outcomes: list[Outcome],
        started: float,
        seconds: float,
        reason: str,
        threads: int = 1,
    ) -> None:
        rows = 0
        for ticket in batch:
            rows += ticket.request.rows
        self.recorder.call(rows, seconds, reason)
        if seconds and threads == 1:
            self.cost.learn(rows, seconds)
        finished = monotonic()
        answered = self.recorder.answered
        for ticket, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                ticket.settle(None, outcome)
                continue
            request = ticket.request
            queued = started - request.arrived
            answered(queued, seconds, finished - request.arrived)
            ticket.settle(Response(self.name, self.version, outcome, queued, seconds, rows), None)

    def close(self) -> None:
        """Turn away whatever still waits."""
        for ticket in self._queue.clear():
            ticket.settle(None, NotReady(f"{self.name} version {self.version} is going away"))


def _part(request: Request, start: int, stop: int) -> Request:
    inputs: Tensors = {name: array[start:stop] for name, array in request.inputs.items()}
    return Request(inputs, stop - start, request.outputs, request.deadline, request.priority, request.arrived)


class _Started:
    """Awaits a coroutine that was started by hand and yielded `ticket`."""

    __slots__ = ("_coroutine", "_ticket")

    def __init__(self, coroutine: Any, ticket: Ticket) -> None:
        self._coroutine = coroutine
        self._ticket = ticket

    def __await__(self) -> Generator[Any, None, Response]:
        ticket: Any = self._ticket
        while True:
            if not ticket.settled:
                ticket._asyncio_future_blocking = True
                yield ticket
            try:
                ticket = self._coroutine.send(None)
            except StopIteration as stop:
                response: Response = stop.value
                return response

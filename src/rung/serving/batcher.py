"""Batching without knobs: a batch is what queued while the model was busy.

A model that costs less than a thread hop runs on the event loop, once per turn of the loop, on all
that came in during that turn. Any other model runs on lanes; each time one is free the best group
waiting is released to it. Nothing ever waits for a batch to fill.

All bookkeeping happens on the event loop, so there is no lock here.
"""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any

import numpy as np

from rung.domain.errors import Cancelled, DeadlineExceeded, ModelError, NotReady, Overloaded
from rung.domain.predictions import LOWEST, NEVER, Payload, Request, Response
from rung.domain.tensors import Tensors
from rung.ports import Model
from rung.serving.cost import CostModel
from rung.serving.execution import Outcome, execute, execute_apart
from rung.serving.idle import Idle
from rung.serving.lanes import Lanes
from rung.serving.queue import RequestQueue
from rung.serving.recorder import Recorder
from rung.serving.ticket import Ticket

__all__ = ["Batcher"]

_LONGEST_HELD = 2.0
"""Seconds that a request of the lowest priority waits here; then whoever sent it may do so again."""
_SOON = 0.05


class Batcher:
    """A `Predictor` round one loaded model.

    Guarantees:
        1. One answer or one error per request, whatever shares its batch.
        2. A request whose deadline passes gets `DeadlineExceeded` then, and never starts after it.
        3. A bad row fails its own request only; the others of its batch are computed again without it.
    """

    def __init__(
        self,
        name: str,
        version: int,
        model: Model,
        cost: CostModel,
        lanes: Lanes,
        *,
        threads: int,
        max_wait: float,
        idle: Idle | None = None,
    ) -> None:
        self.name = name
        self.version = version
        self.model = model
        self.cost = cost
        self.recorder = Recorder(name, version)
        self.inline = model.inline and cost.inline
        self.inflight = 0
        """Handles on this version: requests that it has not answered yet."""
        self.on_idle: Callable[[], None] | None = None
        """Called when `inflight` falls to zero."""
        self.lanes = 1 if self.inline else lanes.count
        """Calls that can run at once."""
        self._lanes = lanes
        self._free = lanes.count
        self._threads = threads
        self._max_wait = max_wait
        self._turn: list[Ticket] = []
        """What came in during this turn of the loop, for a model that runs on it."""
        self._queue = RequestQueue()
        self._idle = idle or Idle()
        self._looking = False
        """Whether a later look at what can wait is due."""
        signature = model.signature
        self._batched = signature.batched
        self._ragged = any(-1 in spec.shape[1:] for spec in signature.inputs)
        self._sole = signature.inputs[0].name if len(signature.inputs) == 1 else None

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Answer one request. Not a coroutine itself: a ticket can be awaited, and costs less.

        Raises:
            Overloaded: its turn would come after the longest wait allowed, or after its deadline.
            DeadlineExceeded, ModelError: as they say, when awaited.
        """
        if request.priority == LOWEST:
            return self._lowest(request)
        if not request.admitted:
            self.admit(request)
        if self._idle.active:
            self._idle.came(monotonic())
        if self._batched and request.rows > self.cost.cap:
            return self._split(request)
        return self._enter(request)

    def release(self) -> None:
        """Give back a handle that was taken by adding to `inflight`."""
        self.inflight -= 1
        if not self.inflight and self.on_idle is not None:
            self.on_idle()

    def _enter(self, request: Request, counted: bool = True) -> Ticket:
        """Put a request where its turn will come."""
        self.inflight += 1
        if self.inline:
            ticket = Ticket(request, monotonic(), self._abandoned, None, counted)
            if not self._turn:
                asyncio.get_running_loop().call_soon(self._run_turn)
            self._turn.append(ticket)
            return ticket
        ticket = Ticket(request, monotonic(), self._abandoned, self._key(request), counted)
        self._queue.push(ticket)
        if request.deadline != NEVER:
            left = max(0.0, request.deadline - monotonic())
            ticket.timer = asyncio.get_running_loop().call_later(left, self._expire, ticket)
        self._release_batches()
        return ticket

    def _key(self, request: Request) -> Any:
        if self._ragged:
            return tuple(array.shape[1:] for array in request.inputs.values())
        return None

    async def _lowest(self, request: Request) -> Response:
        """Answer while nobody else asks."""
        self._admit_lowest()
        idle, here = self._idle, int(self.inline)
        idle.held += 1
        # What is computed on the loop is in the way of others from here on.
        idle.lowest += here
        timer: asyncio.TimerHandle | None = None
        try:
            if self._batched and request.rows > self.cost.cap:
                return await self._split(request)
            ticket = self._enter(request, counted=False)
            if not self.inline:
                timer = asyncio.get_running_loop().call_later(_LONGEST_HELD, self._turn_away, ticket)
            return await ticket
        finally:
            idle.held -= 1
            idle.lowest -= here
            if timer is not None:
                timer.cancel()

    def _turn_away(self, ticket: Ticket) -> None:
        if ticket.queued:
            self._queue.drop(ticket)
            self._fail(ticket, Overloaded(f"{self.name} is asked by others, who come first", retry_after=_SOON))

    async def _split(self, request: Request) -> Response:
        """More rows than one call should take: parts, on as many lanes as are free, put together again."""
        size = self.cost.cap
        # All parts are queued before the first is awaited, so that they can run side by side.
        tickets = [self._enter(_part(request, at, at + size), counted=False) for at in range(0, request.rows, size)]
        responses: list[Response] = []
        try:
            for ticket in tickets:
                responses.append(await ticket)  # noqa: PERF401 - a comprehension would hide the order
        except Exception as error:
            if request.priority != LOWEST:
                self.recorder.failed(error, monotonic() - request.arrived)
            raise
        finally:
            for ticket in tickets:
                ticket.give_up(Cancelled())
        names = responses[0].outputs
        outputs = {name: np.concatenate([one.outputs[name] for one in responses]) for name in names}
        queued, total = responses[0].queued, monotonic() - request.arrived
        if request.priority != LOWEST:
            self.recorder.answered(queued, total - queued, total)
        return Response(self.name, self.version, outputs, queued, total - queued, size)

    # --- admission --------------------------------------------------------------------------

    def admit(self, asked: Payload | Request, before: float = 0.0) -> None:
        """Let a request in, or refuse what would start too late: best asked before anybody works on making it tensors.

        Args:
            asked: as it came, or as tensors.
            before: seconds until its transforms would begin.

        Raises:
            Overloaded: as when it is called.
        """
        if asked.priority == LOWEST:
            self._admit_lowest()
            return
        if (self.inline or self._free) and not before:
            return
        # While it waits for its transforms, those before it are computed.
        wait = max(self.wait(asked.priority), before)
        left = asked.deadline - monotonic()
        if wait > self._max_wait or wait + self.cost.estimate(1) > left:
            allowed = min(left, self._max_wait)
            error = Overloaded(
                f"{self.name} would start this in {wait * 1e3:.0f} ms, and it has {max(allowed, 0.0) * 1e3:.0f} ms",
                retry_after=max(wait - allowed / 2, self.cost.row()),
            )
            self.recorder.failed(error, monotonic() - asked.arrived)
            try:
                raise error
            finally:
                # Its traceback holds this frame: a cycle, which would keep the request's body until the collector came.
                del error

    def expect(self, priority: int, rows: int) -> None:
        """So many rows that were admitted are being made tensors, or, where negative, are no longer."""
        self._queue.expect(priority, rows)

    def wait(self, priority: int = 0) -> float:
        """Seconds until a request that came in now would start."""
        if self.inline or (self._free and not self._queue.rows):
            return 0.0
        busy = self._lanes.count - self._free
        return (self._queue.rows_before(priority) + busy) * self.cost.row() / self._lanes.count

    def _admit_lowest(self) -> None:
        """Let a request of the lowest priority in while nobody else asks, and not too many.

        Nobody counts those that are turned away: they are no sign that more replicas are needed.
        """
        idle, now = self._idle, monotonic()
        idle.open(now)
        wait = idle.wait(now)
        if wait or idle.held >= max(4 * self.cost.cap * self.lanes, 16):
            raise Overloaded(f"{self.name} is asked by others, who come first", retry_after=max(wait, _SOON))

    def _expire(self, ticket: Ticket) -> None:
        if not ticket.settled:
            when = "before its turn came" if ticket.queued else "while it was being computed"
            self._queue.drop(ticket)
            self._fail(ticket, DeadlineExceeded(f"the deadline of the request passed {when}"))

    def _abandoned(self, ticket: Ticket) -> None:
        self._queue.drop(ticket)
        if ticket.counted:
            self.recorder.failed(Cancelled(), monotonic() - ticket.request.arrived)
        self.release()

    def _fail(self, ticket: Ticket, error: Exception) -> None:
        if ticket.settled:
            return
        if ticket.counted:
            self.recorder.failed(error, monotonic() - ticket.request.arrived)
        ticket.settle(None, error)
        self.release()

    # --- on the event loop ------------------------------------------------------------------

    def _run_turn(self) -> None:
        """Compute all that came in during this turn of the loop, here and now."""
        turn, self._turn = self._turn, []
        now = monotonic()
        turn = self._startable(turn, now)
        rows = sum([ticket.request.rows for ticket in turn])
        one = rows <= self.cost.cap and self._batched and not self._ragged
        batches = [turn] if one and turn else self._group(turn)
        for batch in batches:
            outcomes, seconds = execute(self.model, batch, self._sole)
            self._settle(batch, outcomes, now, seconds, "idle" if len(batches) == 1 else "full")

    def _group(self, turn: list[Ticket]) -> list[list[Ticket]]:
        """Requests that may share a call, in calls no larger than pays."""
        cap = self.cost.cap if self._batched else 1
        groups: dict[Any, list[Ticket]] = {}
        for ticket in turn:
            groups.setdefault(self._key(ticket.request), []).append(ticket)
        batches: list[list[Ticket]] = []
        for group in groups.values():
            rows = cap
            for ticket in group:
                if rows + ticket.request.rows > cap:
                    batches.append([])
                    rows = 0
                batches[-1].append(ticket)
                rows += ticket.request.rows
        return batches

    # --- on lanes ---------------------------------------------------------------------------

    def _release_batches(self) -> None:
        """Give each free lane the group whose turn it is."""
        queue = self._queue
        cap = self.cost.cap if self._batched else 1
        while self._free and queue.rows:
            rows = queue.rows
            if self._idle.active and (lowest := queue.lowest):
                if lowest == rows and self._wait_on():
                    return
                rows = rows - lowest or rows
            share = -(-rows // self._free)
            # Alone in the house: spread over all cores. With company every lane has work of its own.
            alone = self._free == self._lanes.count and share == rows <= cap and self._lanes.count > 1
            threads = self._threads if alone or self._lanes.count == 1 else 1
            batch = self._startable(queue.take(min(cap, share)), monotonic())
            if not batch:
                continue
            if share <= cap or not queue.rows:
                reason = "idle"
            else:
                reason = "deadline" if self.cost.capped_by == "objective" else "full"
            self._start(batch, threads, reason)

    def _wait_on(self) -> bool:
        """Whether what can wait has to; if so, it is looked at again."""
        wait = self._idle.wait(monotonic())
        if wait and not self._looking:
            self._looking = True
            asyncio.get_running_loop().call_later(wait, self._look_again)
        return wait > 0.0

    def _look_again(self) -> None:
        self._looking = False
        self._release_batches()

    def _start(self, batch: list[Ticket], threads: int, reason: str) -> None:
        self._free -= 1
        idle, lowest = self._idle, batch[0].request.priority == LOWEST
        if lowest:
            idle.lowest += 1
        else:
            idle.calls += 1
        started = monotonic()
        model, sole = self.model, self._sole

        def done(value: tuple[list[Outcome], float] | None, error: Exception | None) -> None:
            self._free += 1
            if lowest:
                idle.lowest -= 1
            else:
                idle.calls -= 1
                if idle.active:
                    idle.left(monotonic())
            outcomes, seconds = value or ([ModelError(f"the lane failed: {error}")] * len(batch), 0.0)
            # The lane's next work first: it computes while the loop hands out these answers.
            self._release_batches()
            self._settle(batch, outcomes, started, seconds, reason, threads)

        self._lanes.submit(lambda: execute_apart(model, batch, sole, threads), done)

    def _startable(self, batch: list[Ticket], now: float) -> list[Ticket]:
        """Leave out whoever is gone, and answer whoever is too late."""
        kept = []
        for ticket in batch:
            if ticket.settled:
                continue
            if ticket.request.deadline <= now:
                self._fail(ticket, DeadlineExceeded("the deadline of the request passed before its turn came"))
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
        name, version, recorder = self.name, self.version, self.recorder
        rows = sum([ticket.request.rows for ticket in batch])
        if batch[0].request.priority != LOWEST:
            recorder.call(rows, seconds, reason)
        if seconds and threads == 1:
            self.cost.learn(rows, seconds)
        finished, fresh = monotonic(), recorder.fresh
        for ticket, outcome in zip(batch, outcomes, strict=True):
            if ticket.settled:
                continue
            if isinstance(outcome, Exception):
                self._fail(ticket, outcome)
                continue
            arrived = ticket.request.arrived
            if ticket.counted:
                fresh.append((started - ticket.entered, seconds, finished - arrived))
            self.inflight -= 1
            ticket.settle(Response(name, version, outcome, started - arrived, seconds, rows), None)
        recorder.tidy()
        if not self.inflight and self.on_idle is not None:
            self.on_idle()

    def close(self) -> None:
        """Turn away whatever still waits."""
        for ticket in [*self._turn, *self._queue.clear()]:
            self._fail(ticket, NotReady(f"{self.name} version {self.version} is going away"))


def _part(request: Request, start: int, stop: int) -> Request:
    inputs: Tensors = {name: array[start:stop] for name, array in request.inputs.items()}
    rows = min(stop, request.rows) - start
    return Request(inputs, rows, request.outputs, request.deadline, request.priority, request.arrived)

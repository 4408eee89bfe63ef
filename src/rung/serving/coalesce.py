"""Equal requests in flight are computed once. A `Predictor` round another.

Only for models that whoever runs rung has declared deterministic: callers then share an answer.
"""

import asyncio
import hashlib
from collections.abc import Awaitable
from time import monotonic
from typing import Protocol

from rung.domain.errors import Cancelled, DeadlineExceeded
from rung.domain.predictions import LOWEST, NEVER, Request, Response
from rung.domain.tensors import Array, Tensors
from rung.ports import Predictor
from rung.serving.recorder import Recorder
from rung.serving.ticket import Ticket

__all__ = ["Coalescer", "Flights", "Held", "fingerprint", "freeze"]


def fingerprint(request: Request) -> bytes:
    """What makes two requests equal: names, datatypes, shapes and bytes of the inputs, and the outputs wanted.

    32 bytes of SHA-256: a caller who chooses inputs cannot make them collide with another's, and processors
    have instructions for it, which makes it twice as fast as BLAKE2 on an image. Numbers are compared bit by
    bit: 0.0 and -0.0 differ, since a model may tell them apart, and a NaN equals the same NaN. The order of
    the inputs and the layout in memory do not count.
    """
    digest = hashlib.sha256()
    for name in sorted(request.inputs):
        array = request.inputs[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        if array.dtype.hasobject:
            elements = [e if isinstance(e, bytes) else str(e).encode() for e in array.ravel().tolist()]
            # Lengths first, so that b"a", b"bc" and b"ab", b"c" differ.
            digest.update(repr([len(element) for element in elements]).encode())
            digest.update(b"".join(elements))
        else:
            # Not `array.data` of a view with strides or of an empty array: neither is a plain run of bytes.
            plain = array.flags.c_contiguous and array.size
            digest.update(array.data.cast("B") if plain else array.tobytes())
    digest.update(repr(request.outputs).encode())
    return digest.digest()


class Held(Protocol):
    """What keeps a version from being unloaded while a request is on its way: its batcher, or its graph."""

    recorder: Recorder
    inflight: int
    """Handles on the version; add one to hold it, and give it back with `release`."""

    def release(self) -> None:
        """Give back one handle."""
        ...


class _Flight:
    """One computation and those who wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Ticket] = []
        self.task: asyncio.Task[None] | None = None


class Flights:
    """Computations under way, by key; whoever comes with the same key waits for the same one.

    Guarantees:
        1. Each caller keeps its own deadline: it is told when that passes, and the others wait on.
        2. The computation starts with the first caller's priority, and is cancelled when all have left.
        3. A failure of the model is everybody's failure; being turned away for lack of time is shared
           by nobody, since the next caller may have more.
        4. Arrays that several callers get are read-only.
        5. Every request is counted once: one by the computation, the others here.
    """

    def __init__(self, held: Held | None = None) -> None:
        self._held = held
        self._flights: dict[bytes, _Flight] = {}
        self.joined = 0
        """Requests that were answered by another's computation."""

    def join(self, key: bytes, request: Request, compute: Predictor) -> Ticket:
        """Wait for the computation under this key, which `compute` starts unless it is under way."""
        if request.priority == LOWEST:
            # Whoever cannot wait must not be made to wait for what can.
            key = b"lowest" + key
        flight = self._flights.get(key)
        if flight is None:
            flight = self._begin(key, request, compute)
        else:
            self.joined += 1
        ticket = Ticket(request, monotonic(), lambda _: self._gone(Cancelled(), request, key, flight))
        flight.waiting.append(ticket)
        if request.deadline != NEVER:
            left = max(0.0, request.deadline - monotonic())
            ticket.timer = asyncio.get_running_loop().call_later(left, self._expire, ticket, key, flight)
        return ticket

    def _begin(self, key: bytes, request: Request, compute: Predictor) -> _Flight:
        flight = self._flights[key] = _Flight()
        flight.task = asyncio.get_running_loop().create_task(self._fly(key, flight, request, compute))
        if self._held is not None:
            # From here on, and not from the task's first step: the version could be unloaded before that.
            self._held.inflight += 1
            flight.task.add_done_callback(lambda _: self._held.release() if self._held is not None else None)
        return flight

    async def _fly(self, key: bytes, flight: _Flight, request: Request, compute: Predictor) -> None:
        # Without a deadline and a caller of its own: each one's is kept at its ticket.
        shared = Request(request.inputs, request.rows, request.outputs, NEVER, request.priority, request.arrived)
        response: Response | None = None
        error: Exception | None = None
        try:
            response = await compute(shared)
        except Exception as raised:  # noqa: BLE001 - the boundary of these requests: each has to get an answer
            error = raised
        finally:
            self._forget(key, flight)
        waiting = [ticket for ticket in flight.waiting if not ticket.settled]
        if response is not None and len(waiting) > 1:
            freeze(response.outputs)
        # The computation counted one of them, unless no call of the model gave the answer (`batch` 0).
        counted = 0 if response is not None and not response.batch else 1
        self._count(waiting[counted:], error)
        # Tickets know their flight: without this, answers would wait for the collector of cycles.
        flight.waiting = []
        for ticket in waiting:
            ticket.settle(response, error)

    def _count(self, tickets: list[Ticket], error: Exception | None) -> None:
        if self._held is None:
            return
        recorder, now = self._held.recorder, monotonic()
        for ticket in tickets:
            if error is None:
                recorder.reused(now - ticket.request.arrived)
            else:
                recorder.failed(error, now - ticket.request.arrived)

    def _expire(self, ticket: Ticket, key: bytes, flight: _Flight) -> None:
        if not ticket.settled:
            error = DeadlineExceeded("the deadline of the request passed before its answer was ready")
            ticket.settle(None, error)
            self._gone(error, ticket.request, key, flight)

    def _gone(self, error: Exception, request: Request, key: bytes, flight: _Flight) -> None:
        """One waits no more."""
        if not all(ticket.settled for ticket in flight.waiting):
            if self._held is not None:
                self._held.recorder.failed(error, monotonic() - request.arrived)
        elif flight.task is not None:
            flight.waiting = []
            self._forget(key, flight)
            flight.task.cancel()

    def _forget(self, key: bytes, flight: _Flight) -> None:
        # Another may be under way under the same key by now.
        if self._flights.get(key) is flight:
            del self._flights[key]


class Coalescer:
    """Joins equal requests that overlap in time; see `Flights` for what that promises."""

    def __init__(self, inner: Predictor, held: Held | None = None) -> None:
        self._inner = inner
        self._flights = Flights(held)

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Answer one request, alone or together with its equals."""
        return self._flights.join(fingerprint(request), request, self._inner)

    @property
    def joined(self) -> int:
        """Requests that were answered by another's computation."""
        return self._flights.joined


def freeze(outputs: Tensors) -> None:
    """Make arrays read-only, here and now."""
    array: Array
    for array in outputs.values():
        array.flags.writeable = False

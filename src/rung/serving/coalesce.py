"""Equal requests in flight are computed once. A `Predictor` round another.

Only for models that whoever runs rung has declared deterministic: callers then share an answer.
"""

import asyncio
import hashlib
from collections.abc import Awaitable
from time import monotonic

from rung.domain.errors import DeadlineExceeded, RungError
from rung.domain.predictions import NEVER, Request, Response
from rung.ports import Predictor
from rung.serving.ticket import Ticket

__all__ = ["Coalescer", "fingerprint"]


def fingerprint(request: Request) -> bytes:
    """What makes two requests equal: names, datatypes, shapes and bytes of the inputs, and the outputs wanted."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(request.inputs):
        array = request.inputs[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        if array.dtype.hasobject:
            # Lengths first, so that b"a", b"bc" and b"ab", b"c" differ.
            elements = array.ravel().tolist()
            digest.update(repr([len(element) for element in elements]).encode())
            digest.update(b"".join(e if isinstance(e, bytes) else str(e).encode() for e in elements))
        else:
            # Not `array.data`: a view with strides has no contiguous buffer.
            digest.update(array.tobytes() if not array.flags.c_contiguous else array.data.cast("B"))
    digest.update(repr(request.outputs).encode())
    return digest.digest()


class _Flight:
    """One computation and those who wait for it."""

    def __init__(self) -> None:
        self.waiting: list[Ticket] = []
        self.task: asyncio.Task[None] | None = None


class Coalescer:
    """Joins equal requests that overlap in time.

    Guarantees:
        1. Each caller keeps its own deadline: it is told when that passes, and the others wait on.
        2. The computation starts with the first caller's priority, and is cancelled when all have left.
        3. A failure of the model is everybody's failure; being turned away for lack of time is shared
           by nobody, since the next caller may have more.
    """

    def __init__(self, inner: Predictor) -> None:
        self._inner = inner
        self._flights: dict[bytes, _Flight] = {}
        self.joined = 0
        """Requests that were answered by another's computation."""

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Answer one request, alone or together with its equals."""
        key = fingerprint(request)
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.get_running_loop().create_task(self._fly(key, flight, request))
        else:
            self.joined += 1
        ticket = Ticket(request, monotonic(), lambda _: self._left(key, flight))
        flight.waiting.append(ticket)
        if request.deadline != NEVER:
            left = max(0.0, request.deadline - monotonic())
            ticket.timer = asyncio.get_running_loop().call_later(left, self._expire, ticket, key, flight)
        return ticket

    async def _fly(self, key: bytes, flight: _Flight, request: Request) -> None:
        # Without a deadline of its own: each caller's is kept at its ticket.
        shared = Request(request.inputs, request.rows, request.outputs, NEVER, request.priority, request.arrived)
        response: Response | None = None
        error: Exception | None = None
        try:
            response = await self._inner(shared)
        except RungError as raised:
            error = raised
        finally:
            self._flights.pop(key, None)
        for ticket in flight.waiting:
            ticket.settle(response, error)

    def _expire(self, ticket: Ticket, key: bytes, flight: _Flight) -> None:
        if not ticket.settled:
            ticket.settle(None, DeadlineExceeded("the deadline of the request passed before its answer was ready"))
            self._left(key, flight)

    def _left(self, key: bytes, flight: _Flight) -> None:
        if all(ticket.settled for ticket in flight.waiting) and flight.task is not None:
            self._flights.pop(key, None)
            flight.task.cancel()

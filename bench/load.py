"""Load in an open loop: requests leave when they are due, whether or not earlier ones were answered.

A closed loop waits for a server that stalls and so never sees the stall. Here latency counts from the
moment a request was due, the wait for a free connection included. Bounded in time and in connections,
and it only ever talks to 127.0.0.1.
"""

import asyncio
import re
from array import array
from collections import Counter, deque
from collections.abc import Callable
from time import perf_counter

import numpy as np

__all__ = ["FLAT_OUT", "Load", "Sample"]

FLAT_OUT = float("inf")
"""A rate: each connection sends again as soon as it has its answer, which makes the loop a closed one."""
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_STEP = 0.001
"""Seconds between two looks at the clock when no answer comes; answers make it look, too."""


class Sample:
    """What happened to each request, in order of their times."""

    def __init__(
        self, due: "array[float]", latency: "array[float]", status: "array[int]", unsent: int, seconds: float
    ) -> None:
        self.due = np.array(due)
        """Seconds since the start."""
        self.latency = np.array(latency)
        """Seconds from due to answered; NaN if no answer came."""
        self.status = np.array(status)
        """HTTP status; 0 if the connection broke or no answer came in time."""
        self.unsent = unsent
        """Due, but no connection was free before the end: server and client together were too slow."""
        self.seconds = seconds

    @property
    def rate(self) -> float:
        """Answers with status 200 a second, of those that came while the load lasted."""
        return float(np.sum((self.status == 200) & (self.due + self.latency <= self.seconds)) / self.seconds)

    @property
    def failed(self) -> int:
        """Requests that were sent and got no 200."""
        return int(np.sum(self.status != 200))

    def statuses(self) -> dict[int, int]:
        """Status -> count."""
        return dict(sorted(Counter(self.status.tolist()).items()))

    def percentile(self, percent: float, mask: np.ndarray | None = None, status: int = 200) -> float:
        """Latency in ms of the answers with this status; NaN if there are none."""
        chosen = self.status == status if mask is None else mask & (self.status == status)
        return float(np.percentile(self.latency[chosen], percent) * 1e3) if chosen.any() else float("nan")


class Load:
    """One run of load against one port.

    Args:
        port: of 127.0.0.1.
        request: the bytes of a keep-alive request.
        rate: requests a second, or `FLAT_OUT`.
        seconds: how long to send.
        connections: how many may be open.
        see: called with the body and the time since the start, for each answer with status 200.
        times: when each request is due, in seconds since the start, in order; `rate` does not count then.
    """

    def __init__(
        self,
        port: int,
        request: bytes,
        rate: float,
        seconds: float,
        connections: int,
        see: Callable[[bytes, float], None] | None = None,
        times: np.ndarray | None = None,
    ) -> None:
        self._port = port
        self._request = request
        self._rate = rate
        self._seconds = seconds
        self._connections = connections
        self._see = see
        self._times = None if times is None else [*times.tolist(), FLAT_OUT]
        self._free: deque[_Connection] = deque()
        self._open: set[_Connection] = set()
        self._due, self._latency, self._status = array("d"), array("d"), array("h")
        self._sent = self._settled = 0
        self._started = 0.0
        self._ending = False
        self.heads: dict[bytes, tuple[int, int]] = {}
        """Head of a reply -> its status and the length of its body: servers repeat them."""

    async def run(self, grace: float = 10.0) -> Sample:
        """Send for `seconds`, then wait at most `grace` seconds for what is still out."""
        await asyncio.gather(*[self._connect() for _ in range(self._connections)])
        self._started = perf_counter()
        while self.now() < self._seconds:
            self._pump()
            await asyncio.sleep(_STEP)
            await self._replace()
        self._pump()
        self._ending = True
        while self._settled < self._sent and self.now() < self._seconds + grace:
            await asyncio.sleep(_STEP)
        for connection in list(self._open):
            connection.transport.abort()
        owed = 0 if self._rate == FLAT_OUT else int(self._rate * self._seconds)
        owed = owed if self._times is None else len(self._times) - 1
        return Sample(self._due, self._latency, self._status, max(0, owed - self._sent), self._seconds)

    def now(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started

    def joined(self, connection: "_Connection") -> None:
        self._open.add(connection)
        self._free.append(connection)

    def left(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        if connection.index >= 0:
            self._settled += 1
        elif connection in self._free:
            self._free.remove(connection)

    def answered(self, connection: "_Connection", status: int, body: bytes) -> None:
        now, index = self.now(), connection.index
        connection.index = -1
        self._latency[index] = now - self._due[index]
        self._status[index] = status
        self._settled += 1
        if self._see is not None and status == 200:
            self._see(body, now)
        self._free.append(connection)
        self._pump()

    def _pump(self) -> None:
        """Send what is due, as far as connections are free."""
        now, free = self.now(), self._free
        while free and not self._ending:
            due = now if self._rate == FLAT_OUT else self._sent / self._rate
            due = due if self._times is None else self._times[self._sent]
            if due > now or due >= self._seconds:
                return
            connection = free.popleft()
            connection.index = self._sent
            self._due.append(due)
            self._latency.append(float("nan"))
            self._status.append(0)
            self._sent += 1
            connection.transport.write(self._request)

    async def _replace(self) -> None:
        for _ in range(self._connections - len(self._open)):
            try:
                await self._connect()
            except OSError:
                return  # the server is full or gone; the next step tries again

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)


class _Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request out."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._data = b""
        self.index = -1
        """Of the request that is out; -1 if there is none."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self._load.joined(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._load.left(self)

    def data_received(self, data: bytes) -> None:
        if self.index < 0 and data.startswith(b"HTTP/1.1 408 "):
            # HAProxy's word to a connection on which nothing was asked for long.
            self.transport.abort()
            return
        if self._data:
            data = self._data + data
        end = data.find(b"\r\n\r\n") + 4
        if end == 3:
            self._data = data
            return
        known = self._load.heads.get(data[:end])
        if known is None:
            length = _LENGTH.search(data, 0, end)
            # A reply without a length would be a fault of the server's: taken as empty, what follows breaks the run.
            known = self._load.heads[data[:end]] = (int(data[9:12]), int(length[1]) if length else 0)
        status, size = known
        if len(data) < end + size:
            self._data = data
            return
        self._data = b""
        if self.index < 0 or len(data) > end + size:
            raise ValueError(f"the server sent what nobody asked for: {data[:200]!r}")
        self._load.answered(self, status, data[end:])

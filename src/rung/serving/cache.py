"""Answers that are kept: a bounded store in memory, and the `Predictor` that asks it first.

An answer belongs to the bytes of a bundle and not to a name: its key holds the bundle's digest, so a release, a
rollback or a file that changed can never be answered by what another version said. All of this happens on the
event loop, so there is no lock.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from hashlib import sha256
from time import monotonic

import msgspec

from rung.domain.caches import CacheUsage
from rung.domain.predictions import Call, Request, Response
from rung.domain.tensors import Tensors
from rung.ports import CacheBackend, Predictor
from rung.serving.cache_values import copied, fits, weight
from rung.serving.coalesce import Flights, Held, fingerprint, freeze
from rung.serving.ticket import Ticket

__all__ = ["AGES", "AnswerKey", "Cached", "MemoryStore"]

AGES = (0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)
"""Upper bounds in seconds of the buckets for the age of an answer when it is given again."""


class _Entry(msgspec.Struct, gc=False):
    outputs: Tensors
    size: int
    born: float
    """When it was computed, on the store's clock."""


class MemoryStore:
    """`ports.CacheBackend` in this process: the least recently used answer goes first when room is needed.

    Guarantees, beside the port's:
        1. Every byte is counted: buffers, the elements of BYTES tensors and the objects round them.
        2. An answer that is larger than the whole store pushes nothing out.
    """

    def __init__(self, limit: int, ttl: float, clock: Callable[[], float] = monotonic) -> None:
        self._limit = limit
        self._ttl = ttl
        self._clock = clock
        self._bytes = 0
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        """Least recently used first."""
        self._births: OrderedDict[bytes, None] = OrderedDict()
        """The same keys, oldest first: all live equally long, so these expire in order."""
        self._evictions: dict[str, int] = {}
        self._ages = [0] * (len(AGES) + 1)
        self._age_seconds = 0.0

    def find(self, key: bytes) -> Tensors | None:
        """What is held under this key and still young enough."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        age = self._clock() - entry.born
        if age >= self._ttl:
            self._drop(key, "expired")
            return None
        self._entries.move_to_end(key)
        self._ages[bisect_left(AGES, age)] += 1
        self._age_seconds += age
        return entry.outputs

    async def fetch(self, key: bytes) -> Tensors | None:
        """Nothing: there is no beyond."""
        return None

    def keep(self, key: bytes, outputs: Tensors, *, share: bool = True) -> Tensors:
        """Keep copies of these arrays, and return them."""
        size = weight(outputs)
        if size > self._limit or not fits(outputs):
            self._count("too_large" if size > self._limit else "unfit")
            freeze(outputs)
            return outputs
        copies = copied(outputs)
        self.insert(key, copies, size)
        return copies

    def insert(self, key: bytes, outputs: Tensors, size: int, age: float = 0.0) -> None:
        """Take read-only arrays as they are; `age` is in seconds."""
        if size > self._limit:
            self._count("too_large")
            return
        if key in self._entries:
            self._drop(key)
        now = self._clock()
        self._expire(now)
        while self._bytes + size > self._limit:
            self._drop(next(iter(self._entries)), "size")
        self._entries[key] = _Entry(outputs, size, now - age)
        self._births[key] = None
        self._bytes += size

    def usage(self) -> CacheUsage:
        """Counts as of now; what has expired is dropped first."""
        now = self._clock()
        self._expire(now)
        oldest = now - self._entries[next(iter(self._births))].born if self._births else 0.0
        return CacheUsage(
            self._limit,
            self._bytes,
            len(self._entries),
            oldest,
            dict(self._evictions),
            list(self._ages),
            self._age_seconds,
        )

    async def close(self) -> None:
        """Let go of everything."""
        self._entries.clear()
        self._births.clear()
        self._bytes = 0

    def _expire(self, now: float) -> None:
        # What came from elsewhere with an age may stand behind younger ones: it is dropped when it is asked for.
        while self._births:
            key = next(iter(self._births))
            if now - self._entries[key].born < self._ttl:
                return
            self._drop(key, "expired")

    def _drop(self, key: bytes, reason: str = "") -> None:
        self._bytes -= self._entries.pop(key).size
        del self._births[key]
        if reason:
            self._count(reason)

    def _count(self, reason: str) -> None:
        self._evictions[reason] = self._evictions.get(reason, 0) + 1


class AnswerKey:
    """The key of a request's answer: 16 bytes of who may share it, then the 32 bytes of its `fingerprint`.

    The first part is a hash of the bundle's digest and, in a `private` cache, of the caller: the `authorization`
    and `x-api-key` headers and the unit of the release, all that there are. Credentials stand in no key.
    """

    __slots__ = ("_digest", "_private", "_scope")

    def __init__(self, digest: str, *, private: bool = False) -> None:
        self._private = private
        self._digest = digest.encode()
        self._scope = sha256(self._digest).digest()[:16]

    def __call__(self, request: Request) -> bytes | None:
        """The key; None where nothing may be kept, since a private cache does not know whose it would be."""
        if not self._private:
            return self._scope + fingerprint(request)
        if request.call is None or (caller := _caller(request.call)) is None:
            return None
        return sha256(self._digest + b"\0" + caller).digest()[:16] + fingerprint(request)


def _caller(call: Call) -> bytes | None:
    parts = (call.headers.get(b"authorization", b""), call.headers.get(b"x-api-key", b""), call.unit.encode())
    # Written as literals, so that no two callers can be put together into the same bytes.
    return repr(parts).encode() if any(parts) else None


class Cached:
    """A `Predictor` that looks before it computes.

    Guarantees:
        1. An answer is computed once for all who ask while it is being computed; see `Flights`.
        2. Errors are not kept.
        3. A hit completes without suspending, and its `Response.batch` is 0: no call was made for it.
    """

    def __init__(
        self, inner: Predictor, store: CacheBackend, held: Held, key: AnswerKey, *, share: bool = True
    ) -> None:
        """`share`: whether the digest in the key names the bundle's bytes for every machine, so that other
        replicas may use its answers. It does not for a bare file, whose digest is made of its name and times.
        """
        self._inner = inner
        self._store = store
        self._held = held
        self._key = key
        self._share = share
        self._flights = Flights(held)
        self.name = held.recorder.statistics.name
        self.version = held.recorder.statistics.version
        self.hits = 0
        """Requests answered out of this process's memory."""
        self.fetched = 0
        """Requests answered from beyond this process."""
        self.misses = 0
        """Requests that were computed."""
        self.bypassed = 0
        """Requests that may not share an answer with anybody."""

    @property
    def joined(self) -> int:
        """Requests that waited for an equal one's answer."""
        return self._flights.joined

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Answer one request."""
        key = self._key(request)
        if key is None:
            self.bypassed += 1
            return self._inner(request)
        outputs = self._store.find(key)
        if outputs is None:
            return self._flights.join(key, request, partial(self._fill, key))
        self.hits += 1
        now = monotonic()
        total = now - request.arrived
        self._held.recorder.reused(total)
        return Ticket(request, now, settled=True, value=self._answer(outputs, total))

    async def _fill(self, key: bytes, request: Request) -> Response:
        """Fetch the answer, or compute and keep it."""
        if self._share:
            outputs = await self._store.fetch(key)
            if outputs is not None:
                self.fetched += 1
                return self._answer(outputs, monotonic() - request.arrived)
        self.misses += 1
        response = await self._inner(request)
        kept = self._store.keep(key, response.outputs, share=self._share)
        return msgspec.structs.replace(response, outputs=kept)

    def _answer(self, outputs: Tensors, total: float) -> Response:
        # A table of its own, since whoever gets it may add to it.
        return Response(self.name, self.version, dict(outputs), total, 0.0, 0)

"""How often requests repeat while nothing is cached, and what a cache would save: measured on a sample of them.

Which requests are looked at is decided by what is in them, so that all repeats of one are looked at or none (spatial
sampling, as SHARDS does for caches of disk blocks: Waldspurger et al., FAST 2015). One in `every` distinct requests
stands for the whole, and costs a fingerprint; the others cost a hash of a few of their numbers.
"""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from time import monotonic, perf_counter

import msgspec

from rung.domain.predictions import Request, Response
from rung.domain.tensors import Array
from rung.ports import Predictor
from rung.serving.cache import AnswerKey
from rung.serving.cache_values import weight

__all__ = ["Advice", "DuplicateMeter", "Metered"]

_EVERY = 16
_WHOLE = 4096
"""Bytes of an array up to which all of it decides: token ids, say, end in padding that is all alike."""
_REMEMBERED = 4096
"""Distinct requests remembered: 65,536 at one in 16."""
_SEEN = 2048
"""Latest looks that the advice is drawn from."""
_ENOUGH = 100
"""Looks below which nothing is said."""
_SPAN = 10.0
"""Seconds that the looks have to cover."""
_OVERHEAD = 30e-6
"""Seconds that a look-up costs beside the fingerprint: the measured difference of a miss, rounded up."""
_PAYS = 2.0
"""A cache is advised where it saves so many times what it costs."""
_CAUGHT = 0.9
"""Share of the repeats that the advised size has to catch."""


class Advice(msgspec.Struct, frozen=True):
    """What a cache would do for one version."""

    model: str
    version: int
    share: float
    """Requests that equalled an earlier one, 0 to 1."""
    within: float
    """Seconds between the two at most: the time to live."""
    size: int
    """Bytes that catch nine repeats of ten, rounded up to whole MiB."""
    saved: float
    """Seconds of computation per minute that it would save, less what it costs."""
    looks: int
    """Requests that this was measured on."""

    def text(self) -> str:
        """One sentence for a person."""
        return (
            f"{self.share:.0%} of the requests to {self.model} were duplicates within {self.within:g} s: "
            f"--cache {self.size >> 20}MiB would save {self.saved:.1f} s of compute per minute"
        )


class _Look(msgspec.Struct, gc=False):
    at: float
    repeat: bool
    distance: int
    """Looks since the same request was last seen."""
    size: int
    """Bytes that its answer would take in a cache."""
    computed: float
    """Seconds of computation that it took by itself."""
    cost: float
    """Seconds that its fingerprint took."""


class DuplicateMeter:
    """Repeats among the requests to one version. Event loop only."""

    def __init__(
        self,
        model: str,
        version: int,
        within: float,
        *,
        every: int = _EVERY,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.model = model
        self.version = version
        self._within = within
        self._every = every
        self._clock = clock
        self._seen: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        """Key -> when, and at which look, it was last seen."""
        self._looks: deque[_Look] = deque(maxlen=_SEEN)
        self._count = 0

    def samples(self, request: Request) -> bool:
        """Whether this request is one to look at; equal requests get equal answers."""
        mark = 0
        for array in request.inputs.values():
            mark = hash((mark, _mark(array)))
        return mark % self._every == 0

    def saw(self, key: bytes, response: Response, rows: int, cost: float) -> None:
        """A request that was looked at has been answered; `cost` is what its key took, in seconds."""
        now = self._clock()
        self._count += 1
        last = self._seen.pop(key, None)
        # A cache does not refresh what it gives again, and neither does this: `when` is that of the first.
        repeat = last is not None and now - last[0] < self._within
        self._seen[key] = (last[0] if last is not None and repeat else now, self._count)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        share = rows / response.batch if response.batch else 0.0
        distance = self._count - last[1] if last is not None else 0
        computed = response.computed * share
        self._looks.append(_Look(now, repeat, distance, weight(response.outputs), computed, cost))

    def advice(self) -> Advice | None:
        """What a cache would do; None while too little was seen, or where it would not pay."""
        looks = self._looks
        if len(looks) < _ENOUGH:
            return None
        span = max(self._clock() - looks[0].at, 1e-9)
        repeats = [look for look in looks if look.repeat]
        if span < _SPAN or not repeats:
            return None
        repeats.sort(key=lambda look: look.distance)
        caught = repeats[: max(1, round(_CAUGHT * len(repeats)))]
        saved = sum(look.computed for look in caught)
        cost = sum(look.cost for look in looks) + _OVERHEAD * len(looks)
        if saved < _PAYS * cost:
            return None
        size = sum(look.size for look in looks) / len(looks) * caught[-1].distance * self._every
        return Advice(
            self.model,
            self.version,
            len(repeats) / len(looks),
            self._within,
            -(-int(size) // (1 << 20)) << 20 or 1 << 20,
            (saved - cost) * self._every * 60 / span,
            len(looks),
        )


class Metered:
    """A `Predictor` that counts repeats on the way to another."""

    def __init__(self, inner: Predictor, key: AnswerKey, meter: DuplicateMeter) -> None:
        self._inner = inner
        self._key = key
        self.meter = meter

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Answer one request."""
        return self._look(request) if self.meter.samples(request) else self._inner(request)

    async def _look(self, request: Request) -> Response:
        began = perf_counter()
        key = self._key(request)
        cost = perf_counter() - began
        response = await self._inner(request)
        if key is not None:
            self.meter.saw(key, response, request.rows, cost)
        return response


def _mark(array: Array) -> int:
    """A hash of all elements, or of 64 or so all over a large array, in the order of C whatever the layout."""
    if array.nbytes > _WHOLE:
        array = array.reshape(-1)[:: array.size // 64]
    return hash(tuple(array.ravel().tolist())) if array.dtype.hasobject else hash(array.tobytes())

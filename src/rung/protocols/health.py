"""Whether this process lives and can answer, its load and its metrics: what probes and scrapers ask."""

from collections.abc import Callable, Sequence

import msgspec
import orjson

from rung.domain.predictions import Call
from rung.domain.scaling import ReplicaLoad
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.status import OK, UNAVAILABLE

__all__ = ["Health", "live", "readiness"]


def live() -> Reply:
    """That the event loop answers."""
    return Reply(OK, b'{"live":true}')


def readiness(problems: Sequence[str]) -> Reply:
    """Ready where there is no problem; else 503 with the problems, each a model and its reason."""
    if not problems:
        return Reply(OK, b'{"ready":true}')
    body = orjson.dumps({"ready": False, "error": "; ".join(problems), "problems": list(problems)})
    return Reply(UNAVAILABLE, body, headers=((b"retry-after", b"1"),))


class Health:
    """`/livez` and `/readyz` as Kubernetes asks for them, `/loadz` for whoever decides on replicas, and `/metrics`.

    `problems` says what keeps the process from being ready; `render` is given the Accept header and returns
    the media type and the text of the metrics page; `load` says how much there is to do.
    """

    def __init__(
        self,
        problems: Callable[[], list[str]],
        render: Callable[[bytes], tuple[bytes, bytes]],
        load: Callable[[], ReplicaLoad] | None = None,
    ) -> None:
        self._problems = problems
        self._render = render
        self._load = load

    def routes(self) -> list[Route]:
        """Where they answer."""
        return [
            Route("GET", "/livez", self._live, needs="open"),
            Route("GET", "/readyz", self._ready, needs="open"),
            Route("GET", "/metrics", self._metrics, needs="open"),
            *([Route("GET", "/loadz", self._loaded, needs="open")] if self._load is not None else []),
        ]

    async def _live(self, head: Head, body: bytes, call: Call) -> Reply:
        return live()

    async def _ready(self, head: Head, body: bytes, call: Call) -> Reply:
        return readiness(self._problems())

    async def _loaded(self, head: Head, body: bytes, call: Call) -> Reply:
        assert self._load is not None
        return Reply(OK, msgspec.json.encode(self._load()))

    async def _metrics(self, head: Head, body: bytes, call: Call) -> Reply:
        media, page = self._render(head.headers.get(b"accept", b""))
        return Reply(OK, page, media)

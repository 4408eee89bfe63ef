"""KServe's protocol v1, as far as it is not TF Serving's.

`/v1/models/{model}:predict` and `GET /v1/models/{model}` are the same calls in both, with the same bodies: the routes
of `tfserving` answer them.
"""

import orjson

from rung.domain.errors import Unsupported
from rung.domain.models import VersionState
from rung.domain.predictions import Call
from rung.ports import Directory
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.status import OK

__all__ = ["KserveV1"]

_HERE = (VersionState.START, VersionState.LOADING, VersionState.AVAILABLE)


class KserveV1:
    """The door."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def routes(self) -> list[Route]:
        """Where it answers."""
        return [
            Route("GET", "/v1/models", self._models),
            Route("POST", "/v1/models/{model}:explain", self._explain),
        ]

    async def _models(self, head: Head, body: bytes, call: Call) -> Reply:
        names = {status.name for status in self._directory.statuses() if status.state in _HERE}
        return Reply(OK, orjson.dumps({"models": sorted(names)}))

    async def _explain(self, head: Head, body: bytes, call: Call) -> Reply:
        self._directory.find(head.params["model"])
        raise Unsupported("there are no explainers here: ask :predict for the answer alone")

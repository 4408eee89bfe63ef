"""Vertex AI's contract for containers: a health route and a predict route, at the paths that its environment names.

`{"instances": [...], "parameters": {...}}` is answered by `{"predictions": [...]}`.
"""

from collections.abc import Callable, Sequence

from rung.domain.errors import InvalidInput
from rung.domain.predictions import Call
from rung.ports import Directory
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.health import readiness
from rung.protocols.mlflow import answer_rows, one_of, read_json

__all__ = ["Vertex"]


class Vertex:
    """The door. An empty route is not answered, and neither is one at which another door answers already."""

    def __init__(
        self, directory: Directory, problems: Callable[[], list[str]], health_route: str, predict_route: str
    ) -> None:
        self._directory = directory
        self._problems = problems
        self._health_route = health_route
        self._predict_route = predict_route

    def routes(self, others: Sequence[Route] = ()) -> list[Route]:
        """Where it answers, beside those others."""
        taken = {(route.method, route.pattern) for route in others}
        wanted = [
            Route("GET", self._health_route, self._health, needs="open"),
            Route("POST", self._predict_route, self._predict),
        ]
        return [route for route in wanted if route.pattern and (route.method, route.pattern) not in taken]

    async def _health(self, head: Head, body: bytes, call: Call) -> Reply:
        return readiness(self._problems())

    async def _predict(self, head: Head, body: bytes, call: Call) -> Reply:
        served = one_of(self._directory, head, call)
        rows = read_json(body)
        if not isinstance(rows, list):
            raise InvalidInput('the JSON body must be {"instances": [...]}', field="instances")
        return await answer_rows(served, rows, head, call)

"""From method and path to an endpoint. Looked up once per head, since heads are remembered."""

from urllib.parse import unquote

from rung.domain.access import Needs
from rung.domain.errors import InvalidInput, NotFound
from rung.domain.predictions import Call
from rung.protocols.access import Guard
from rung.protocols.exchange import Endpoint, Head, Reply, Route
from rung.protocols.status import METHOD_NOT_ALLOWED, OK, error_body

__all__ = ["Router"]


class Router:
    """Routes by their segments: a literal wins over a `{name}:verb`, and that over a `{name}`.

    A verb is what follows the last colon of its segment, in any case. A guard looks at every head, once.
    """

    def __init__(self, routes: list[Route], guard: Guard | None = None) -> None:
        self._guard = guard
        self._tree: dict[str, object] = {}
        for route in routes:
            self._add(route)

    def _add(self, route: Route) -> None:
        node = self._tree
        for segment in route.pattern.strip("/").split("/"):
            node = node.setdefault(_key(segment), {})  # type: ignore[assignment]
        methods = node.setdefault("\0methods", {})
        if route.method in methods:  # type: ignore[operator]
            raise ValueError(f"{route.method} {route.pattern} is routed twice")
        methods[route.method] = route  # type: ignore[index]

    def resolve(self, head: Head, raw_path: str) -> None:
        """Set `head.endpoint`, `head.params` and `head.errors` from the undecoded path.

        Never raises: a path that leads nowhere gets an endpoint that says so.
        """
        needs = self._resolve(head, raw_path)
        if self._guard is not None and self._guard.active:
            self._guard.look_at(head, needs)

    def _resolve(self, head: Head, raw_path: str) -> Needs:
        try:
            segments = [unquote(segment, errors="strict") for segment in raw_path.strip("/").split("/")]
        except UnicodeDecodeError:
            head.endpoint = _refuse(InvalidInput("the path is not valid UTF-8 once decoded"))
            return "caller"
        found = _walk(self._tree, segments)
        if found is None:
            head.endpoint = _refuse(NotFound(f"nothing answers at {head.path}"))
            return "caller"
        methods, values = found
        route = methods.get("GET" if head.method == "HEAD" else head.method)
        if route is None:
            head.endpoint = _wrong_method(head, methods)
            return "caller"
        parts = route.pattern.strip("/").split("/")
        names = [part[1 : part.index("}")] for part in parts if part.startswith("{")]
        head.params = dict(zip(names, values, strict=True))
        head.endpoint = route.endpoint
        head.errors = route.errors
        return route.needs


def _key(segment: str) -> str:
    """What stands for a segment of a pattern in the tree: itself, `{}`, or `{}:verb`."""
    return "{}" + segment.partition("}")[2].lower() if segment.startswith("{") else segment


def _walk(node: dict[str, object], segments: list[str]) -> tuple[dict[str, Route], list[str]] | None:
    if not segments:
        methods = node.get("\0methods")
        return (methods, []) if methods is not None else None  # type: ignore[return-value]
    first, rest = segments[0], segments[1:]
    if first in node and not first.startswith(("\0", "{")):
        found = _walk(node[first], rest)  # type: ignore[arg-type]
        if found is not None:
            return found
    name, colon, verb = first.rpartition(":")
    key = "{}:" + verb.lower()
    if name and colon and key in node:
        found = _walk(node[key], rest)  # type: ignore[arg-type]
        if found is not None:
            return found[0], [name, *found[1]]
    if "{}" in node and first:
        found = _walk(node["{}"], rest)  # type: ignore[arg-type]
        if found is not None:
            return found[0], [first, *found[1]]
    return None


def _refuse(error: Exception) -> Endpoint:
    async def endpoint(head: Head, body: bytes, call: Call) -> Reply:
        # Raised again and again, it would remember every place that it came through.
        raise error.with_traceback(None)

    return endpoint


def _wrong_method(head: Head, methods: dict[str, Route]) -> Endpoint:
    allow = sorted({*methods, "OPTIONS"} | ({"HEAD"} if "GET" in methods else set()))
    headers = ((b"allow", ", ".join(allow).encode()),)
    if head.method == "OPTIONS":
        reply = Reply(OK, headers=headers)
    else:
        message = f"{head.method} is not allowed at {head.path}; use {' or '.join(sorted(methods))}"
        reply = Reply(METHOD_NOT_ALLOWED, error_body(message), headers=headers)

    async def endpoint(head: Head, body: bytes, call: Call) -> Reply:
        return reply

    return endpoint

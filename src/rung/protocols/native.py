"""rung's own door: `POST /predict/{model}` takes what people have and gives what they can look at.

In, by Content-Type: a picture (`image/*`, or files of a form), JSON rows or text, plain text, raw tensor bytes.
Out, by Accept or `?view=`: what the bundle's head offers, such as a mask, an overlay, JSON or raw bytes.

JSON bodies: `[row, ...]`, `{"rows": [...]}`, `{"instances": [...]}` (the same), `{"inputs": {name: column}}`, or
`{"text": "..."}`; a row is a value of the model's one input, or an object with a field for each input. Answers are
`{"predictions": [...]}`.

Raw bytes into a model of one input and one output without transforms are answered with raw bytes, unless Accept says
otherwise. That road is the fast one: what follows from the head is worked out once for each head.
"""

from time import monotonic
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import orjson

from rung import __version__
from rung.domain.errors import InvalidInput
from rung.domain.predictions import LOWEST, NEVER, PREDICT, Call, Request
from rung.domain.tensors import DATATYPES, Array, TensorSpec
from rung.ports import Directory, Served
from rung.protocols.bodies import RAW, payload_of, shape_from, shape_of
from rung.protocols.describe import VIEWS, base_url, describe
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.headers import priority_of, target_of, timeout_of
from rung.protocols.media import accepted, content_type
from rung.protocols.timing import steps_timing
from rung.transforms.pipeline import raw_type

__all__ = ["Native"]

_COPY_BELOW = 64 * 1024
# A copy of a small tensor costs less than a memoryview of it.
_MAX_TYPES = 256
Headers = tuple[tuple[bytes, bytes], ...]


class _Bound:
    """What follows from a head and the version that answers it."""

    __slots__ = (
        "answered",
        "dtype",
        "headers",
        "input",
        "length",
        "output",
        "rows",
        "served",
        "shape",
        "spec",
        "types",
    )

    def __init__(self, served: Served | None, spec: TensorSpec | None = None, output: TensorSpec | None = None) -> None:
        self.served = served
        self.spec = spec
        """The one input, when raw bytes go straight into the model; else None."""
        self.input = spec.name if spec else ""
        self.dtype = DATATYPES[spec.datatype] if spec else None
        self.output = output.name if output else ""
        self.length = -1
        """Bytes of the last body, to which `shape` and `rows` belong."""
        self.shape: tuple[int, ...] = ()
        self.rows = 0
        self.types: dict[tuple[int, ...], bytes] = {}
        """Shape of an output -> its media type."""
        self.answered = -1
        """Version for which `headers` were written."""
        self.headers: Headers = ()


class _Plan:
    """What follows from a head alone. Requests with equal heads share it, also while they wait."""

    __slots__ = ("accept", "bound", "media", "name", "parameters", "priority", "timeout", "timing", "version", "view")

    def __init__(self, name: str, version: int | None) -> None:
        self.name = name
        self.version = version
        self.media = ""
        self.parameters: dict[str, str] = {}
        """Of the Content-Type."""
        self.accept: tuple[str, ...] = ()
        self.view = ""
        self.timeout = NEVER
        """Seconds."""
        self.priority = 0
        self.timing = False
        self.bound = _Bound(None)


class Native:
    """The endpoints of `/predict`."""

    def __init__(self, directory: Directory, *, max_parts: int = 64, scheme: str = "http") -> None:
        self._directory = directory
        self._scheme = scheme
        self._max_parts = max_parts

    def routes(self) -> list[Route]:
        """Where the endpoints go."""
        latest, exact = "/predict/{model}", "/predict/{model}/versions/{version}"
        return [
            Route("POST", latest, self.predict),
            Route("POST", exact, self.predict),
            Route("GET", latest, self.describe),
            Route("GET", exact, self.describe),
            Route("GET", "/", self.index),
        ]

    async def predict(self, head: Head, body: bytes, call: Call) -> Reply:
        """Answer one request.

        Raises:
            RungError: of every kind that `Served` raises, and `InvalidInput` and `UnsupportedMedia` for the body.
        """
        plan: _Plan | None = head.memo
        if plan is None:
            plan = head.memo = _plan(head)
        arrived = call.arrived
        call.door = PREDICT
        served = self._directory.find(plan.name, plan.version, call)
        bound = plan.bound
        if bound.served is not served:
            bound = plan.bound = _bind(plan, served)
        if bound.spec is None:
            return await self._respond(plan, bound, served, body, call)
        if len(body) != bound.length:
            _fit(plan, bound, served, len(body))
        array = np.ndarray(bound.shape, bound.dtype, body)
        parsed = monotonic() if plan.timing else 0.0
        response = await served.predict(
            Request({bound.input: array}, bound.rows, (), arrived + plan.timeout, plan.priority, arrived, call)
        )
        array = response.outputs[bound.output]
        media = bound.types.get(array.shape) or _raw_type(bound, served, array)
        if response.version != bound.answered:
            _label(bound, response.model, response.version)
        headers = bound.headers
        raw: Any = array.tobytes() if array.nbytes < _COPY_BELOW else (np.ascontiguousarray(array).data.cast("B"),)
        if plan.timing:
            timing = _server_timing(arrived, parsed, 0.0, response.queued, response.computed, 0.0)
            headers = (*headers, timing)
        return Reply(200, raw, media, headers)

    async def describe(self, head: Head, body: bytes, call: Call) -> Reply:
        """Say what a model takes and gives, with a line for curl that works as it stands.

        Raises:
            RungError: `NotFound` or `NotReady`, with the reason.
        """
        manifest = self._directory.find(*target_of(head)).manifest
        url = base_url(head.headers.get(b"host"), self._scheme) + head.path
        return Reply(200, orjson.dumps(describe(manifest, url)))

    async def index(self, head: Head, body: bytes, call: Call) -> Reply:
        """Name the models and the doors."""
        models = [
            {"name": status.name, "version": status.version, "state": status.state.name}
            for status in self._directory.statuses()
        ]
        doors = {"predict": "/predict/{model}", "open_inference_protocol": "/v2", "metrics": "/metrics"}
        # `status` is what KServe's client asks this path for.
        answer = {"server": "rung", "version": __version__, "status": "alive", "models": models, "doors": doors}
        return Reply(200, orjson.dumps(answer))

    async def _respond(self, plan: _Plan, bound: _Bound, served: Served, body: bytes, call: Call) -> Reply:
        payload = payload_of(body, plan.media, plan.parameters, served.manifest, self._max_parts)
        arrived = call.arrived
        payload.deadline = arrived + plan.timeout
        payload.priority = plan.priority
        payload.arrived = arrived
        payload.call = call
        parsed = monotonic()
        answer = await served.respond(payload, plan.accept)
        if answer.version != bound.answered:
            _label(bound, answer.model, answer.version)
        headers = bound.headers
        if plan.timing:
            timing = _server_timing(
                arrived, parsed, answer.prepared, answer.queued, answer.computed, answer.finished, answer.steps
            )
            headers = (*headers, timing)
        # Browsers show image/png and save what they do not know.
        media = b"image/png" if plan.view == "overlay" else answer.media_type.encode("latin-1")
        return Reply(200, answer.body, media, headers)


def _plan(head: Head) -> _Plan:
    headers = head.headers
    plan = _Plan(*target_of(head))
    plan.media, plan.parameters = content_type(headers.get(b"content-type"))
    plan.accept = accepted(headers.get(b"accept"))
    views = parse_qs(head.query).get("view") if head.query else None
    if views:
        plan.view = views[-1]
        if plan.view not in VIEWS:
            raise InvalidInput(f"there is no view {plan.view!r:.50}: use {', '.join(VIEWS)}", field="view")
        plan.accept = (VIEWS[plan.view],)
    plan.timeout = timeout_of(headers.get(b"rung-timeout-ms"))
    plan.priority = priority_of(headers.get(b"rung-priority"))
    plan.timing = headers.get(b"rung-timing") == b"1"
    return plan


def _bind(plan: _Plan, served: Served) -> _Bound:
    transforms, signature = served.manifest.transforms, served.manifest.signature
    wants_raw = plan.accept[0] in (RAW, "application/*", "*/*") and f"{RAW};q=0" not in plan.accept
    if (
        plan.media == RAW
        and wants_raw
        and plan.priority != LOWEST
        and not transforms.input
        and not transforms.output
        and len(signature.inputs) == len(signature.outputs) == 1
        # Not every byte is a boolean, and texts have no fixed size: those two take the careful road.
        and signature.inputs[0].datatype not in ("BYTES", "BOOL")
        and signature.outputs[0].datatype != "BYTES"
    ):
        return _Bound(served, signature.inputs[0], signature.outputs[0])
    return _Bound(served)


def _fit(plan: _Plan, bound: _Bound, served: Served, length: int) -> None:
    """Work out the shape of a raw body of this many bytes."""
    assert bound.spec is not None
    bound.shape = shape_of(bound.spec, length, shape_from(plan.parameters))
    bound.rows = bound.shape[0] if served.manifest.signature.batched else 1
    bound.length = length


def _label(bound: _Bound, model: str, version: int) -> None:
    bound.headers = ((b"rung-model", model.encode("ascii")), (b"rung-version", b"%d" % version))
    bound.answered = version


def _raw_type(bound: _Bound, served: Served, array: Array) -> bytes:
    media = raw_type(served.manifest.signature.outputs[0].datatype, array.shape).encode("ascii")
    if len(bound.types) < _MAX_TYPES:
        bound.types[array.shape] = media
    return media


def _server_timing(
    arrived: float,
    parsed: float,
    prepared: float,
    queued: float,
    computed: float,
    finished: float,
    steps: tuple[tuple[str, float, float], ...] = (),
) -> tuple[bytes, bytes]:
    """Write the parts in milliseconds; `total` is their sum.

    `queued` counts from the arrival, so it holds `parse` and `prepare`; what nobody claims is `encode`.
    """
    total = round((monotonic() - arrived) * 1e6)
    parse, prepare, compute, finish = (round(part * 1e6) for part in (parsed - arrived, prepared, computed, finished))
    queue = max(0, round(queued * 1e6) - parse - prepare)
    encode = max(0, total - parse - prepare - queue - compute - finish)
    parts = {"parse": parse, "prepare": prepare, "queue": queue, "compute": compute, "finish": finish, "encode": encode}
    parts["total"] = sum(parts.values())
    entries = [f"{name};dur={us / 1000:.3f}" for name, us in parts.items()]
    return b"server-timing", ", ".join([*entries, *steps_timing(steps)]).encode("ascii")

"""The Open Inference Protocol, version 2, over REST, with the extensions that Triton's clients use.

NaN and Infinity: JSON has neither, so neither is read nor written as JSON. A request that holds one is
refused; so is an answer that would, because `null` in its place would lose which of them it was. Both
travel as binary data.
"""

import re
from functools import cache
from time import monotonic
from typing import Any

import msgspec
import orjson

from rung.domain.errors import InvalidInput, NotFound, UnsupportedMedia
from rung.domain.models import Manifest
from rung.domain.names import check_version
from rung.domain.predictions import Call
from rung.ports import Directory, Served
from rung.protocols.exchange import Endpoint, Head, Reply, Route
from rung.protocols.health import live, readiness
from rung.protocols.oip_infer import NO_HEADER, InferCodec
from rung.protocols.oip_metadata import (
    model_config,
    model_metadata,
    model_statistics,
    not_ready,
    repository_index,
    server_metadata,
)
from rung.protocols.status import OK, error_reply
from rung.protocols.timing import server_timing

__all__ = ["OipRest"]

_MODEL = "/v2/models/{model}"
_VERSION = "/v2/models/{model}/versions/{version}"
_PROBED = re.compile(r"^/v2/health/|/ready$|/stats$")
"""Paths that probes and scrapers ask: they carry no key."""
_CODECS = 1024
_LONGEST_TIMEOUT_MS = 1e12


_JSON = (b"", b"application/json", b"application/x-www-form-urlencoded")
"""The last is what `curl -d` says unless it is told: the protocol's own examples rely on it."""


class _Plan(msgspec.Struct):
    """What the head of an infer request says."""

    model: str
    version: int | None
    header: int
    """Bytes of JSON at the start of the body; `NO_HEADER` for all."""
    timeout: float
    """Seconds; 0 for none."""
    timed: bool
    codec: InferCodec | None = None


class _IndexRequest(msgspec.Struct):
    ready: bool = False


_decode_index = msgspec.json.Decoder(_IndexRequest).decode


class OipRest:
    """The door. Clients that insist on a certain server find it under `server_name`."""

    def __init__(self, directory: Directory, *, server_name: str = "rung", version: str) -> None:
        self._directory = directory
        self._server_name = server_name
        self._version = version
        self._codecs: dict[tuple[str, int], InferCodec] = {}

    def routes(self) -> list[Route]:
        """Where it answers."""
        table: list[tuple[str, str, Endpoint]] = [
            ("GET", "/v2", self._server),
            ("GET", "/v2/openapi.json", self._document),
            ("GET", "/v2/health/live", self._live),
            ("GET", "/v2/health/ready", self._ready),
            ("GET", "/v2/models/stats", self._statistics),
            ("POST", "/v2/repository/index", self._index),
        ]
        for base in (_MODEL, _VERSION):
            table += [
                ("GET", base, self._metadata),
                ("GET", f"{base}/ready", self._model_ready),
                ("GET", f"{base}/config", self._config),
                ("GET", f"{base}/stats", self._statistics),
                ("POST", f"{base}/infer", self._infer),
            ]
        return [
            Route(method, pattern, endpoint, _error, "open" if _PROBED.search(pattern) else "caller")
            for method, pattern, endpoint in table
        ]

    async def _infer(self, head: Head, body: bytes, call: Call) -> Reply:
        plan: _Plan | None = head.memo
        if plan is None:
            plan = head.memo = _read_plan(head)
        served = self._directory.find(plan.model, plan.version, call)
        codec = plan.codec
        if codec is None or codec.manifest is not served.manifest:
            codec = plan.codec = self._codec(served.manifest)
        request, wanted, echo = codec.decode(body, plan.header, call)
        if plan.timeout:
            request.deadline = min(request.deadline, call.arrived + plan.timeout)
        if not plan.timed:
            return codec.encode(await served.predict(request), wanted, echo)
        parsed = monotonic()
        response = await served.predict(request)
        answered = monotonic()
        reply = codec.encode(response, wanted, echo)
        reply.headers += (server_timing(response, call.arrived, parsed, answered, monotonic()),)
        return reply

    def _codec(self, manifest: Manifest) -> InferCodec:
        key = (manifest.name, manifest.version)
        codec = self._codecs.get(key)
        if codec is None or codec.manifest is not manifest:
            # It holds the manifest and nothing of the loaded version, so that may be freed.
            codec = InferCodec(manifest)
            if len(self._codecs) >= _CODECS:
                self._codecs.clear()
            self._codecs[key] = codec
        return codec

    async def _server(self, head: Head, body: bytes, call: Call) -> Reply:
        return _json(server_metadata(self._server_name, self._version))

    async def _document(self, head: Head, body: bytes, call: Call) -> Reply:
        return Reply(OK, _openapi())

    async def _live(self, head: Head, body: bytes, call: Call) -> Reply:
        return live()

    async def _ready(self, head: Head, body: bytes, call: Call) -> Reply:
        if self._directory.ready():
            return readiness(())
        return readiness(not_ready(self._directory.statuses()) or ["the server is starting or draining"])

    async def _metadata(self, head: Head, body: bytes, call: Call) -> Reply:
        served = self._find(head)
        versions = [served.manifest.version]
        if "version" not in head.params:
            versions = self._directory.versions(served.manifest.name)
        return _json(model_metadata(served.manifest, served.platform, versions))

    async def _model_ready(self, head: Head, body: bytes, call: Call) -> Reply:
        return _json({"name": self._find(head).manifest.name, "ready": True})

    async def _config(self, head: Head, body: bytes, call: Call) -> Reply:
        served = self._find(head)
        return _json(model_config(served.manifest, served.platform))

    async def _statistics(self, head: Head, body: bytes, call: Call) -> Reply:
        return _json(model_statistics(self._directory.statistics(head.params.get("model"), _version(head))))

    async def _index(self, head: Head, body: bytes, call: Call) -> Reply:
        ready = False
        if body.strip():
            try:
                ready = _decode_index(body).ready
            except (ValueError, RecursionError) as error:
                raise InvalidInput(f'the body must be empty or {{"ready": true or false}}: {error}') from None
        return _json(repository_index(self._directory.statuses(), ready=ready))

    def _find(self, head: Head) -> Served:
        return self._directory.find(head.params["model"], _version(head))


def _error(error: Exception) -> Reply:
    # Triton's published clients look for these words.
    if isinstance(error, NotFound) and str(error).startswith("unknown model"):
        return error_reply(NotFound(f"Request for {error}"))
    return error_reply(error)


def _json(value: Any) -> Reply:
    return Reply(OK, orjson.dumps(value))


def _version(head: Head) -> int | None:
    text = head.params.get("version")
    if text is None:
        return None
    try:
        return check_version(text)
    except InvalidInput as error:
        raise NotFound(str(error)) from None


def _read_plan(head: Head) -> _Plan:
    headers = head.headers
    length = headers.get(b"inference-header-content-length")
    media = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    readable = media in _JSON or (media == b"application/octet-stream" and length is not None)
    if not readable:
        raise UnsupportedMedia(
            f"the content-type {media.decode('latin-1')!r:.80} is not read here: use application/json, or "
            "application/octet-stream with the header Inference-Header-Content-Length"
        )
    timeout = headers.get(b"rung-timeout-ms")
    return _Plan(
        model=head.params["model"],
        version=_version(head),
        header=NO_HEADER if length is None else _header_length(length),
        timeout=0.0 if timeout is None else _timeout(timeout),
        timed=headers.get(b"rung-timing") == b"1",
    )


def _header_length(text: bytes) -> int:
    # Digits only: int() would also read signs, spaces and underscores.
    if not text.isdigit() or len(text) > 12:
        raise InvalidInput(
            f"Inference-Header-Content-Length is {text.decode('latin-1')!r:.40}: it must be a number of bytes"
        )
    return int(text)


def _timeout(text: bytes) -> float:
    try:
        milliseconds = float(text)
    except ValueError:
        milliseconds = -1.0
    if not 0 <= milliseconds <= _LONGEST_TIMEOUT_MS:
        raise InvalidInput(f"rung-timeout-ms is {text.decode('latin-1')!r:.40}: it must be milliseconds, 0 for none")
    return milliseconds * 1e-3


@cache
def _openapi() -> bytes:
    from importlib.resources import files

    return files("rung.protocols").joinpath("open_inference.json").read_bytes()

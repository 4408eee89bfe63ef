"""TorchServe's inference and management APIs, and SageMaker's `/models`, which has the same paths."""

from typing import Any
from urllib.parse import parse_qs, parse_qsl

import orjson

from rung.domain.access import Needs
from rung.domain.errors import InvalidInput, NotFound, RungError, Unsupported
from rung.domain.models import VersionState, VersionStatus
from rung.domain.names import check_version, name_from
from rung.domain.predictions import Call, Payload
from rung.ports import Control, Directory
from rung.protocols import multipart, sagemaker
from rung.protocols.bodies import payload_of
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.headers import priority_of, timeout_of
from rung.protocols.media import accepted, content_type, sniff
from rung.protocols.status import OK, error_reply

__all__ = ["TorchServe"]

_TYPES = {
    400: "BadRequestException",
    404: "ResourceNotFoundException",
    405: "MethodNotAllowedException",
    409: "ConflictStatusException",
    413: "RequestEntityTooLargeException",
    429: "TooManyRequestsException",
    503: "ServiceUnavailableException",
}
_HERE = (VersionState.START, VersionState.LOADING, VersionState.AVAILABLE)
_PAGE = 100
_FORM = "application/x-www-form-urlencoded"


_MODEL, _EXACT = "/models/{model}", "/models/{model}/{version}"
_NEEDS: dict[tuple[str, str], Needs] = {
    ("POST", "/models"): "deployer",
    ("PUT", _MODEL): "operator",
    ("PUT", _EXACT): "operator",
    ("DELETE", _MODEL): "deployer",
    ("DELETE", _EXACT): "deployer",
    ("PUT", f"{_EXACT}/set-default"): "deployer",
}
"""Routes that change what is served, and the role that may."""


class TorchServe:
    """The door."""

    def __init__(self, directory: Directory, control: Control, version: str) -> None:
        self._directory = directory
        self._control = control
        self._version = version
        self._places: dict[str, str] = {}
        """Model added here -> what its caller said it lies at."""
        self._sagemakers: set[str] = set()
        """Those of them that SageMaker added: it asks for them without saying who it is."""
        self._table: list[tuple[str, str]] = []

    def routes(self) -> list[Route]:
        """Where it answers."""
        table = [
            ("POST", "/predictions/{model}", self._predict),
            ("POST", "/predictions/{model}/{version}", self._predict),
            ("OPTIONS", "/", self._describe_api),
            ("GET", "/models", self._list),
            ("POST", "/models", self._register),
            ("GET", _MODEL, self._describe),
            ("GET", _EXACT, self._describe),
            ("PUT", _MODEL, self._scale),
            ("PUT", _EXACT, self._scale),
            ("DELETE", _MODEL, self._unregister),
            ("DELETE", _EXACT, self._unregister),
            ("PUT", f"{_EXACT}/set-default", self._set_default),
        ]
        self._table = [(method, pattern) for method, pattern, _ in table]
        return [
            Route(method, pattern, endpoint, _error, _NEEDS.get((method, pattern), "caller"))
            for method, pattern, endpoint in table
        ]

    async def _predict(self, head: Head, body: bytes, call: Call) -> Reply:
        served = self._directory.find(*_target(head), call)
        media, parameters = content_type(head.headers.get(b"content-type"))
        if media == "multipart/form-data":
            parts = multipart.parse(body, parameters.get("boundary", ""), 64)
            named = [part for part in parts if part.name in ("data", "body")] or parts
            if len(named) != 1:
                raise InvalidInput("the form must have one part, called data", field="data")
            body, media, parameters = named[0].body, named[0].media_type, {}
        if media == _FORM and body.startswith((b"data=", b"body=")):
            # What requests.post(url, data={"data": ...}) sends, as the clients of TorchServe do.
            body, media = _field(body), ""
        # curl -T and -F say nothing of use about the file: its first bytes do.
        if media in ("", "application/octet-stream", _FORM):
            media = sniff(body) or media
        payload = _payload(body, media, parameters, served.manifest.transforms.input, served)
        payload.deadline = call.arrived + timeout_of(head.headers.get(b"rung-timeout-ms"))
        payload.priority = priority_of(head.headers.get(b"rung-priority"))
        payload.arrived, payload.call = call.arrived, call
        answer = await served.respond(payload, accepted(head.headers.get(b"accept")))
        answered = answer.body
        if answer.media_type == "application/json":
            predictions = orjson.loads(answered).get("predictions")
            if isinstance(predictions, list) and len(predictions) == 1:
                # One item goes in, one comes out, without a list round it.
                answered = answered[len(b'{"predictions":[') : -len(b"]}")]
        headers = ((b"rung-model", answer.model.encode("ascii")), (b"rung-version", b"%d" % answer.version))
        return Reply(OK, answered, answer.media_type.encode("latin-1"), headers)

    async def _describe_api(self, head: Head, body: bytes, call: Call) -> Reply:
        paths: dict[str, dict[str, Any]] = {}
        for method, pattern in self._table:
            paths.setdefault(pattern, {})[method.lower()] = {"responses": {"200": {"description": "OK"}}}
        document = {"openapi": "3.0.1", "info": {"title": "TorchServe APIs", "version": self._version}, "paths": paths}
        return Reply(OK, orjson.dumps(document))

    async def _list(self, head: Head, body: bytes, call: Call) -> Reply:
        query = parse_qs(head.query)
        limit, start = _number(query, "limit", _PAGE), _number(query, "next_page_token", 0)
        names = sorted({one.name for one in self._directory.statuses() if one.state in _HERE})
        models = [sagemaker.write_model(name, self._place(name)) for name in names[start : start + limit]]
        answer: dict[str, Any] = {"models": models}
        if start + limit < len(names):
            answer["nextPageToken"] = str(start + limit)
        return Reply(OK, orjson.dumps(answer))

    async def _register(self, head: Head, body: bytes, call: Call) -> Reply:
        query = parse_qs(head.query)
        if "url" not in query:
            name, place = sagemaker.read_model(body)
            await self._add(name, place)
            self._sagemakers.add(name)
            return Reply(OK, orjson.dumps(sagemaker.write_model(name, place)))
        if "handler" in query:
            raise Unsupported("handlers are code, and none is taken from a request: leave handler out")
        place = query["url"][-1]
        stem = place.rstrip("/").rpartition("/")[2]
        name = query.get("model_name", [name_from(stem.partition(".")[0])])[-1]
        await self._add(name, place)
        version = self._directory.versions(name)[-1]
        return _status(f'Model "{name}" Version: {version} registered with {_workers(query, "initial_workers")}')

    async def _add(self, name: str, place: str) -> None:
        await self._control.add(name, place)
        self._places[name] = place

    async def _describe(self, head: Head, body: bytes, call: Call) -> Reply:
        name, wanted = head.params["model"], head.params.get("version", "")
        if not wanted and (sagemaker.asks(head) or name in self._sagemakers):
            self._directory.find(name)
            return Reply(OK, orjson.dumps(sagemaker.write_model(name, self._place(name))))
        found = [one for one in self._directory.statuses() if one.name == name]
        if wanted == "":
            found = [one for one in found if one.version == self._directory.find(name).manifest.version]
        elif wanted != "all":
            number = _target(head)[1]
            found = [one for one in found if one.version == number]
        if not found:
            self._directory.find(name, None if wanted in ("", "all") else _target(head)[1])
            raise NotFound(f"model {name!r} has no such version here")
        return Reply(OK, orjson.dumps([self._document(one) for one in found]))

    def _document(self, status: VersionStatus) -> dict[str, Any]:
        ready = status.state is VersionState.AVAILABLE
        worker = {"id": "0", "status": "READY" if ready else "UNLOADING" if status.reason else "LOADING", "gpu": False}
        document: dict[str, Any] = {
            "modelName": status.name,
            "modelVersion": str(status.version),
            "modelUrl": self._place(status.name),
            "runtime": "rung",
            "minWorkers": 1,
            "maxWorkers": 1,
            "loadedAtStartup": status.name not in self._places,
            "workers": [worker] if ready else [],
            "state": status.state.name,
        }
        return document | ({"reason": status.reason} if status.reason else {})

    async def _scale(self, head: Head, body: bytes, call: Call) -> Reply:
        self._directory.find(*_target(head))
        return _status(
            f'Processing worker updates for model "{head.params["model"]}": {_workers(parse_qs(head.query))}'
        )

    async def _unregister(self, head: Head, body: bytes, call: Call) -> Reply:
        name, version = _target(head)
        if version is not None:
            versions = self._directory.versions(name)
            if versions != [version]:
                self._directory.find(name, version)
                raise Unsupported(
                    f"versions {versions} of {name!r} go together here: delete /models/{name}, or pin those that stay"
                )
        await self._control.unload(name)
        self._places.pop(name, None)
        self._sagemakers.discard(name)
        return _status(f'Model "{name}" unregistered')

    async def _set_default(self, head: Head, body: bytes, call: Call) -> Reply:
        self._directory.find(*_target(head))
        raise Unsupported("the latest version is the default here: ask for another at /predictions/{model}/{version}")

    def _place(self, name: str) -> str:
        return self._places.get(name, name)


def _payload(body: bytes, media: str, parameters: dict[str, str], steps: Any, served: Any) -> Payload:
    if steps and steps[0].name.startswith("text.") and media in ("", "application/octet-stream", _FORM):
        media = "text/plain"
    if media == "application/json":
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise InvalidInput(f"the body is no JSON: {error}") from None
        if isinstance(value, dict) and value.keys() == {spec.name for spec in served.manifest.signature.inputs}:
            # The model's own fields: one row.
            return Payload("rows", [value])
    return payload_of(body, media, parameters, served.manifest)


def _field(body: bytes) -> bytes:
    values = [value for _, value in parse_qsl(body, keep_blank_values=True)]
    if len(values) != 1:
        raise InvalidInput(f"the form has {len(values)} fields: it must have one, called data", field="data")
    return values[0]


def _target(head: Head) -> tuple[str, int | None]:
    text = head.params.get("version")
    if text is None:
        return head.params["model"], None
    # Its own versions are written 1.0.
    try:
        return head.params["model"], check_version(text.removesuffix(".0"))
    except InvalidInput as error:
        raise NotFound(str(error)) from None


def _number(query: dict[str, list[str]], name: str, default: int) -> int:
    text = query.get(name, [str(default)])[-1]
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise InvalidInput(f"{name} is {text!r:.40}: it must be a whole number", field=name)
    return int(text)


def _workers(query: dict[str, list[str]], *names: str) -> str:
    asked = next((query[name][-1] for name in (*names, "min_worker", "max_worker") if name in query), "")
    said = f"{asked} workers were asked for; " if asked else ""
    return f"{said}one process here runs a call per core, so there are no workers to count"


def _status(sentence: str) -> Reply:
    return Reply(OK, orjson.dumps({"status": sentence}))


def _error(error: Exception) -> Reply:
    reply = error_reply(error)
    kind = _TYPES.get(reply.status, "BadRequestException" if reply.status < 500 else "InternalServerException")
    message = (
        orjson.loads(bytes(reply.body))["error"]
        if isinstance(error, RungError)
        else "the server failed on this request"
    )
    return Reply(
        reply.status,
        orjson.dumps({"code": reply.status, "type": kind, "message": message}),
        headers=reply.headers,
    )

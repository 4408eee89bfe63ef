"""Triton's explicit model control, log settings and trace settings."""

from collections.abc import Callable
from typing import Any

import orjson

from rung.domain.errors import InvalidInput, RungError, Unsupported
from rung.domain.predictions import Call
from rung.ports import Control, Directory
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.status import OK, error_reply

__all__ = ["Repository"]

_LEVELS = {"log_info": "info", "log_warning": "warning", "log_error": "error"}
_TRACE: dict[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_file": "",
    "trace_mode": "triton",
}


class Repository:
    """The door. `levels` tells which log levels are written, `set_level(name, on=...)` changes one."""

    def __init__(
        self,
        directory: Directory,
        control: Control,
        levels: Callable[[], dict[str, bool]],
        set_level: Callable[..., None],
    ) -> None:
        self._directory = directory
        self._control = control
        self._levels = levels
        self._set_level = set_level
        self._trace = dict(_TRACE)
        self._traces: dict[str, dict[str, Any]] = {}
        """Model -> what was set for it alone."""

    def routes(self) -> list[Route]:
        """Where it answers."""
        return [
            Route("POST", "/v2/repository/models/{model}/load", self._load, _load_error, needs="deployer"),
            Route("POST", "/v2/repository/models/{model}/unload", self._unload, needs="deployer"),
            Route("GET", "/v2/logging", self._logging),
            Route("POST", "/v2/logging", self._set_logging, needs="operator"),
            Route("GET", "/v2/trace/setting", self._tracing),
            Route("POST", "/v2/trace/setting", self._set_tracing, needs="operator"),
            Route("GET", "/v2/models/{model}/trace/setting", self._tracing),
            Route("POST", "/v2/models/{model}/trace/setting", self._set_tracing, needs="operator"),
        ]

    async def _load(self, head: Head, body: bytes, call: Call) -> Reply:
        for name in _parameters(body):
            if name == "config" or name.startswith("file:"):
                raise Unsupported(
                    f"the parameter {name!r:.80} is not taken: models come from the repository, so change it there"
                )
        await self._control.load(head.params["model"])
        return Reply(OK)

    async def _unload(self, head: Head, body: bytes, call: Call) -> Reply:
        name = head.params["model"]
        names = [name]
        if _parameters(body).get("unload_dependents"):
            names += self._dependents(name)
        for one in names:
            await self._control.unload(one)
        return Reply(OK)

    def _dependents(self, name: str) -> list[str]:
        """Models behind a graph of models that are here."""
        try:
            graph = self._directory.find(name).manifest.graph
        except RungError:
            return []
        here = {status.name for status in self._directory.statuses()}
        return sorted({node.model for node in graph.nodes} & here - {name}) if graph is not None else []

    async def _logging(self, head: Head, body: bytes, call: Call) -> Reply:
        levels = self._levels()
        answer: dict[str, Any] = {"log_file": ""}
        answer |= {setting: levels[level] for setting, level in _LEVELS.items()}
        answer |= {"log_verbose_level": int(levels["debug"]), "log_format": "default"}
        return Reply(OK, orjson.dumps(answer))

    async def _set_logging(self, head: Head, body: bytes, call: Call) -> Reply:
        wanted = _object(body)
        changes: dict[str, bool] = {}
        # All are looked at before one is changed.
        for setting, value in wanted.items():
            if setting in _LEVELS and isinstance(value, bool):
                changes[_LEVELS[setting]] = value
            elif setting == "log_verbose_level" and type(value) is int and value >= 0:
                changes["debug"] = value > 0
            elif setting in ("log_file", "log_format") and value in ("", "default"):
                continue
            elif setting in ("log_file", "log_format"):
                raise Unsupported(f"{setting} cannot be changed: lines go to standard error, in the server's own form")
            else:
                raise InvalidInput(
                    f"{setting!r:.80} is no log setting, or {value!r:.80} no value for it", field=setting
                )
        for level, on in changes.items():
            self._set_level(level, on=on)
        return await self._logging(head, body, call)

    async def _tracing(self, head: Head, body: bytes, call: Call) -> Reply:
        return Reply(OK, orjson.dumps(self._trace | self._traces.get(self._traced(head), {})))

    async def _set_tracing(self, head: Head, body: bytes, call: Call) -> Reply:
        model = self._traced(head)
        wanted = _object(body)
        for setting, value in wanted.items():
            if setting not in _TRACE:
                raise InvalidInput(f"{setting!r:.80} is no trace setting: use {', '.join(_TRACE)}", field=setting)
            if setting == "trace_level" and value not in (None, "OFF", ["OFF"], []):
                raise Unsupported(
                    "tracing is off and cannot be switched on: Server-Timing says where the time of a request went, "
                    "when it has the header rung-timing: 1"
                )
        kept = self._traces.setdefault(model, {}) if model else self._trace
        for setting, value in wanted.items():
            if value is None or setting == "trace_level":
                # Null gives the setting back to what is above it.
                kept.pop(setting, None)
                if not model:
                    kept[setting] = _TRACE[setting]
            else:
                kept[setting] = str(value)
        return await self._tracing(head, body, call)

    def _traced(self, head: Head) -> str:
        model = head.params.get("model", "")
        if model:
            self._directory.find(model)
        return model


def _load_error(error: Exception) -> Reply:
    # Triton's published clients look for these words.
    reply = error_reply(error)
    message = orjson.loads(bytes(reply.body))["error"] if isinstance(reply.body, bytes) else ""
    reply.body = orjson.dumps({"error": f"failed to load: {message}"})
    return reply


def _object(body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object, or empty")
    return value


def _parameters(body: bytes) -> dict[str, Any]:
    parameters = _object(body).get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidInput("parameters must be a JSON object", field="parameters")
    return {name: value for name, value in parameters.items() if value not in ("", None, {})}

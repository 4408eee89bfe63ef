"""TF Serving's REST API: `/v1/models/{model}:predict`, `:classify`, `:regress`, status and metadata.

KServe v1 puts the same calls at the same paths, so these routes answer for both; what it has besides is in `kserve_v1`.

A model has the one signature `serving_default`. Each method is also found under the name that TensorFlow gives the
method itself (`tensorflow/serving/regress`), which is what the examples of TF Serving's toy models say.
"""

from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

import msgspec
import orjson

from rung.domain.errors import InvalidInput, ModelError, NotFound
from rung.domain.models import Manifest, VersionState, VersionStatus
from rung.domain.names import check_version
from rung.domain.predictions import Call, Request, Response
from rung.domain.tensors import Array, Signature, Tensors, TensorSpec
from rung.ports import Directory
from rung.protocols.exchange import Head, Reply, Route
from rung.protocols.headers import priority_of, timeout_of
from rung.protocols.json_tensors import (
    ABSENT,
    Message,
    read_columns,
    read_examples,
    read_message,
    read_rows,
    write_columns,
    write_rows,
    write_tensor,
)
from rung.protocols.status import OK
from rung.protocols.timing import server_timing

__all__ = ["TfServing"]

_MODEL = "/v1/models/{model}"
_BASES = (_MODEL, f"{_MODEL}/versions/{{version}}", f"{_MODEL}/labels/{{label}}")
_DEFAULT = "serving_default"
_DTYPES = {
    "BOOL": "DT_BOOL",
    "FP16": "DT_HALF",
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "BF16": "DT_BFLOAT16",
    "BYTES": "DT_STRING",
} | {f"{sign}INT{bits}": f"DT_{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)}
_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_GONE = ("", "unloaded")
"""Reasons of a version at its end that are no failure."""

Outputs = Sequence[tuple[TensorSpec, Array]]


class _Plan(msgspec.Struct, frozen=True):
    """What the head of a call says."""

    model: str
    version: int | None
    timeout: float
    """Seconds, or infinity."""
    priority: int
    timed: bool


class _Method(msgspec.Struct, frozen=True):
    """What sets one method apart from the others."""

    name: str
    read: Callable[[Message, Signature], Tensors]
    write: Callable[[Message, Manifest, Outputs], bytes]


class TfServing:
    """The door. `render` gives the media type and text of the metrics page."""

    def __init__(self, directory: Directory, render: Callable[[], tuple[bytes, bytes]]) -> None:
        self._directory = directory
        self._render = render

    def routes(self) -> list[Route]:
        """Where it answers."""
        routes = [Route("GET", "/monitoring/prometheus/metrics", self._metrics, needs="open")]
        for base in _BASES:
            routes += [Route("POST", f"{base}:{method.name}", partial(self._compute, method)) for method in _METHODS]
            routes += [Route("GET", base, self._status), Route("GET", f"{base}/metadata", self._metadata)]
        return routes

    async def _compute(self, method: _Method, head: Head, body: bytes, call: Call) -> Reply:
        plan: _Plan | None = head.memo
        if plan is None:
            plan = head.memo = self._plan(head)
        served = self._directory.find(plan.model, plan.version, call)
        manifest = served.manifest
        signature = manifest.signature
        message = read_message(body)
        _check_signature_name(message.signature_name, method.name)
        inputs = method.read(message, signature)
        request = Request(
            inputs, signature.check(inputs), (), call.arrived + plan.timeout, plan.priority, call.arrived, call
        )
        if not plan.timed:
            return Reply(OK, method.write(message, manifest, _outputs(signature, await served.predict(request))))
        parsed = monotonic()
        response = await served.predict(request)
        answered = monotonic()
        text = method.write(message, manifest, _outputs(signature, response))
        return Reply(OK, text, headers=(server_timing(response, call.arrived, parsed, answered, monotonic()),))

    def _plan(self, head: Head) -> _Plan:
        headers = head.headers
        return _Plan(
            *self._target(head),
            timeout=timeout_of(headers.get(b"rung-timeout-ms")),
            priority=priority_of(headers.get(b"rung-priority")),
            timed=headers.get(b"rung-timing") == b"1",
        )

    def _target(self, head: Head) -> tuple[str, int | None]:
        model, version, label = (head.params.get(key) for key in ("model", "version", "label"))
        assert model is not None
        if label is not None:
            self._directory.find(model)
            raise NotFound(
                f"model {model!r} has no version with the label {label!r:.80}, since no labels are given here: "
                "use /versions/{number}, or leave it out for the latest version"
            )
        if version is None:
            return model, None
        try:
            return model, check_version(version)
        except InvalidInput as error:
            raise NotFound(str(error)) from None

    async def _status(self, head: Head, body: bytes, call: Call) -> Reply:
        model, version = self._target(head)
        found = [one for one in self._directory.statuses() if one.name == model and version in (None, one.version)]
        if not found:
            # It knows better why.
            self._directory.find(model, version)
            raise NotFound(f"model {model!r} has no version {version} here")
        found.sort(key=lambda one: -one.version)
        answer: dict[str, Any] = {"model_version_status": [_version_status(one) for one in found]}
        if version is None:
            answer |= {"name": model, "ready": any(one.state is VersionState.AVAILABLE for one in found)}
        return Reply(OK, orjson.dumps(answer))

    async def _metadata(self, head: Head, body: bytes, call: Call) -> Reply:
        manifest = self._directory.find(*self._target(head)).manifest
        return Reply(OK, orjson.dumps(_model_metadata(manifest)))

    async def _metrics(self, head: Head, body: bytes, call: Call) -> Reply:
        media, page = self._render()
        return Reply(OK, page, media)


def _check_signature_name(name: str | None, method: str) -> None:
    if name and name != _DEFAULT and name != f"tensorflow/serving/{method}":
        raise InvalidInput(
            f"there is no signature {name!r:.80}: the models here have one, {_DEFAULT}", field="signature_name"
        )


def _outputs(signature: Signature, response: Response) -> list[tuple[TensorSpec, Array]]:
    arrays = response.outputs
    try:
        return [(spec, arrays[spec.name]) for spec in signature.outputs]
    except KeyError as error:
        raise ModelError(f"the model gave no output {error}") from None


def _read_predict(message: Message, signature: Signature) -> Tensors:
    if message.instances is not ABSENT:
        if message.inputs is not ABSENT:
            raise InvalidInput("the body has both instances and inputs: send rows as one, or columns as the other")
        return read_rows(message.instances, signature.inputs)
    if message.inputs is ABSENT:
        raise InvalidInput("the body has neither instances nor inputs: send rows as one, or columns as the other")
    return read_columns(message.inputs, signature.inputs)


def _write_predict(message: Message, manifest: Manifest, outputs: Outputs) -> bytes:
    if message.instances is not ABSENT:
        return b'{"predictions":' + write_rows(outputs) + b"}"
    return b'{"outputs":' + write_columns(outputs) + b"}"


def _read_examples(message: Message, signature: Signature) -> Tensors:
    if message.examples is ABSENT:
        raise InvalidInput("the body has no examples", field="examples")
    return read_examples(message.examples, message.context, signature.inputs)


def _write_classify(message: Message, manifest: Manifest, outputs: Outputs) -> bytes:
    spec, scores = _the_one(outputs, "scores", "classify")
    if scores.ndim != 2:
        raise InvalidInput(f"output {spec.name!r} of this model has no score for each class: use :predict")
    named = [array for other, array in outputs if other.name == "classes" and other.datatype == "BYTES"]
    labels: list[list[str]]
    if named and named[0].shape == scores.shape:
        labels = [[_text(label) for label in row] for row in named[0].tolist()]
    else:
        # Empty where the model has none, as the protocol has it.
        own = manifest.labels if len(manifest.labels) == scores.shape[1] else ("",) * scores.shape[1]
        labels = [list(own)] * len(scores)
    texts = [orjson.dumps(label) for row in labels for label in row]
    numbers = _numbers(spec, scores)
    pairs = [b"[" + label + b"," + number + b"]" for label, number in zip(texts, numbers, strict=True)]
    width = scores.shape[1]
    rows = [b"[" + b",".join(pairs[start : start + width]) + b"]" for start in range(0, len(pairs), width or 1)]
    return b'{"results":[' + b",".join(rows) + b"]}"


def _write_regress(message: Message, manifest: Manifest, outputs: Outputs) -> bytes:
    spec, values = _the_one(outputs, "outputs", "regress")
    if values.ndim not in (1, 2) or values.size != len(values):
        raise InvalidInput(f"output {spec.name!r} of this model has not one number for each example: use :predict")
    return b'{"results":' + write_tensor(values.reshape(-1), spec) + b"}"


def _the_one(outputs: Outputs, name: str, method: str) -> tuple[TensorSpec, Array]:
    """The output of real numbers that a method is about: the only one, else the one that TensorFlow calls so."""
    numbers = [one for one in outputs if one[0].datatype in _FLOATS]
    if len(numbers) > 1:
        numbers = [one for one in numbers if one[0].name == name]
    if not numbers or not numbers[0][1].ndim:
        raise InvalidInput(f"this model has no output that :{method} could be about: use :predict")
    return numbers[0]


def _numbers(spec: TensorSpec, array: Array) -> list[bytes]:
    return write_tensor(array.reshape(-1), spec)[1:-1].split(b",") if array.size else []


def _text(label: bytes | str) -> str:
    return label if isinstance(label, str) else label.decode(errors="replace")


_METHODS = (
    _Method("predict", _read_predict, _write_predict),
    _Method("classify", _read_examples, _write_classify),
    _Method("regress", _read_examples, _write_regress),
)


def _version_status(status: VersionStatus) -> dict[str, Any]:
    failed = status.state is VersionState.END and status.reason not in _GONE
    return {
        "version": str(status.version),
        "state": status.state.name,
        "status": {
            "error_code": "UNKNOWN" if failed else "OK",
            "error_message": status.reason if failed else "",
        },
    }


def _model_metadata(manifest: Manifest) -> dict[str, Any]:
    signature = manifest.signature
    definition = {
        "inputs": {spec.name: _tensor_info(spec) for spec in signature.inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in signature.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": manifest.name, "signature_name": "", "version": str(manifest.version)},
        "metadata": {"signature_def": {"signature_def": {_DEFAULT: definition}}},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    return {
        "dtype": _DTYPES[spec.datatype],
        "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in spec.shape], "unknown_rank": False},
        "name": f"{spec.name}:0",
    }

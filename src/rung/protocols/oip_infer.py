"""Infer calls of the Open Inference Protocol for one version of a model: body to request, response to reply.

What the bytes of a JSON header, or the names and shapes of a request, have been found to mean is
remembered, since callers repeat them. Every such memory is bounded and is emptied when it is full.
"""

from typing import Any

import msgspec
import numpy as np
import orjson

from rung.domain.errors import InvalidInput, ModelError
from rung.domain.models import Manifest
from rung.domain.predictions import NEVER, Call, Request, Response
from rung.domain.tensors import DATATYPES, Tensors, TensorSpec
from rung.protocols.exchange import Reply
from rung.protocols.oip_messages import (
    ABSENT,
    InferInput,
    InferOutput,
    InferRequest,
    Options,
    parse_infer,
    read_flag,
    read_number,
    read_options,
    refuse_unsupported,
)
from rung.protocols.oip_tensors import from_binary, from_json, refuse_miscount, to_binary, to_json
from rung.protocols.status import OK

__all__ = ["NO_HEADER", "InferCodec", "Wanted"]

NO_HEADER = -1
"""Length of the JSON header of a body that is JSON and nothing else."""

_ENTRIES = 512
_LONGEST_HEADER = 4096
_NO_OPTIONS = Options()
_LARGE = 1 << 16
"""Bytes of JSON from which elements are counted before they are made."""
_OCTETS = b"application/octet-stream"
_HEADER_LENGTH = b"Inference-Header-Content-Length"


class Wanted(msgspec.Struct, frozen=True):
    """Which outputs a call wants, and in which form."""

    outputs: tuple[tuple[TensorSpec, bool], ...]
    """With whether it comes as binary data, in the order of the answer."""
    binary: bool
    """Whether any of them does."""
    names: tuple[str, ...] = ()
    """Empty for all of them."""


class _Plan(msgspec.Struct, frozen=True):
    """What a JSON header means when all tensors of its request follow it."""

    length: int
    """Of the whole body."""
    inputs: tuple[tuple[TensorSpec, tuple[int, ...], int, int], ...]
    """Spec, shape, offset into the body and bytes."""
    rows: int
    wanted: Wanted
    options: Options
    id: str | None


class InferCodec:
    """Reads and writes the infer calls of the version that `manifest` describes."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._signature = manifest.signature
        self._inputs = {spec.name: spec for spec in manifest.signature.inputs}
        self._outputs = {spec.name: spec for spec in manifest.signature.outputs}
        outputs = manifest.signature.outputs
        self._all_json = Wanted(tuple((spec, False) for spec in outputs), binary=False)
        self._all_binary = Wanted(tuple((spec, True) for spec in outputs), binary=True)
        self._opening = _opening(manifest.name, manifest.version)
        self._plans: dict[bytes, _Plan] = {}
        self._rows: dict[Any, int] = {}
        self._raw: dict[int, tuple[tuple[int, ...], int]] = {}
        self._heads: dict[Any, bytes] = {}
        self._headers: dict[int, tuple[tuple[bytes, bytes], ...]] = {}

    def decode(self, body: bytes, header: int, call: Call) -> tuple[Request, Wanted, str | None]:
        """Read a body whose first `header` bytes are JSON (`NO_HEADER`: all; 0: none, it is the one input's bytes).

        Returns the request with its deadline, what is wanted back, and the id to echo.

        Raises:
            InvalidInput: the body does not fit the protocol or the model; the message names the tensor.
            Unsupported: it asks for something of the protocol that rung does not offer.
        """
        if header == NO_HEADER:
            return self._read(parse_infer(body), body, len(body), call)
        if header == 0:
            return self._read_raw(body, call)
        text = body[:header]
        plan = self._plans.get(text)
        if plan is None:
            if header > len(body):
                raise InvalidInput(f"the header length is {header}, the body has {len(body)} bytes")
            return self._read(parse_infer(text), body, header, call)
        if plan.length != len(body):
            raise InvalidInput(f"the body has {len(body)} bytes, its JSON header accounts for {plan.length}")
        inputs = {spec.name: from_binary(body, offset, size, spec, shape) for spec, shape, offset, size in plan.inputs}
        return _request(inputs, plan.rows, plan.wanted, plan.options, call), plan.wanted, plan.id

    def _read(self, message: InferRequest, body: bytes, header: int, call: Call) -> tuple[Request, Wanted, str | None]:
        items = message.inputs
        known = tuple([(item.name, item.datatype, item.shape) for item in items])
        rows = self._rows.get(known) or self._check(known)
        options = read_options(message.parameters)
        wanted = self._wanted(message.outputs, options.binary)
        inputs = {}
        offset = header
        blobs = []
        for item in items:
            spec = self._inputs[item.name]
            size = _binary_size(item)
            if size is None:
                if header > _LARGE:
                    refuse_miscount(item.data, spec, item.shape)
                inputs[item.name] = from_json(item.data, spec, item.shape)
                continue
            if offset + size > len(body):
                raise InvalidInput(f"the binary data of input {item.name!r} reach beyond the body", field=item.name)
            inputs[item.name] = from_binary(body, offset, size, spec, item.shape)
            blobs.append((spec, item.shape, offset, size))
            offset += size
        if offset != len(body):
            raise InvalidInput(f"the body has {len(body)} bytes, its JSON header accounts for {offset}")
        if header <= _LONGEST_HEADER and len(blobs) == len(items):
            plan = _Plan(offset, tuple(blobs), rows, wanted, options, message.id)
            _remember(self._plans, body[:header], plan)
        return _request(inputs, rows, wanted, options, call), wanted, message.id

    def _check(self, known: tuple[tuple[str, str, tuple[int, ...]], ...]) -> int:
        """Check names, datatypes and shapes before any data are touched; return the rows."""
        phantoms: dict[str, Any] = {}
        for name, datatype, shape in known:
            spec = self._inputs.get(name)
            if name in phantoms:
                raise InvalidInput(f"input {name!r} is given twice", field=name)
            if spec is not None and spec.datatype != datatype:
                raise InvalidInput(
                    f"inference input {name!r:.80} data-type is {datatype!r:.20}, "
                    f"but model {self.manifest.name!r} expects {spec.datatype!r}",
                    field=name,
                )
            try:
                # Of no size, whatever the shape.
                phantoms[name] = np.broadcast_to(np.empty((), DATATYPES[datatype] if spec else bool), shape)
            except ValueError as error:
                raise InvalidInput(f"input {name!r:.80} has an impossible shape: {error}", field=name) from None
        rows = self._signature.check(phantoms)
        _remember(self._rows, known, rows)
        return rows

    def _wanted(self, items: list[InferOutput] | None, binary: bool) -> Wanted:
        if not items:
            return self._all_binary if binary else self._all_json
        outputs = []
        for item in items:
            spec = self._outputs.get(item.name)
            if spec is None:
                raise InvalidInput(
                    f"unexpected inference output {item.name!r:.80}, the model gives {list(self._outputs)}",
                    field=item.name,
                )
            choice = binary
            if item.parameters:
                refuse_unsupported(item.parameters)
                choice = read_flag(item.parameters, "binary_data", default=binary)
            outputs.append((spec, choice))
        names = tuple(item.name for item in items)
        if len(set(names)) != len(names):
            raise InvalidInput(f"an output is asked for twice: {list(names)}")
        return Wanted(tuple(outputs), any(choice for _, choice in outputs), names)

    def _read_raw(self, body: bytes, call: Call) -> tuple[Request, Wanted, str | None]:
        spec = self._signature.inputs[0]
        size = len(body)
        shape, rows = self._raw.get(size) or self._check_raw(spec, size)
        if spec.datatype == "BYTES":
            array = np.empty(1, DATATYPES["BYTES"])
            array[0] = body
            inputs = {spec.name: array.reshape(shape)}
        else:
            inputs = {spec.name: from_binary(body, 0, size, spec, shape)}
        wanted = self._all_binary
        return _request(inputs, rows, wanted, _NO_OPTIONS, call), wanted, None

    def _check_raw(self, spec: TensorSpec, size: int) -> tuple[tuple[int, ...], int]:
        if len(self._inputs) != 1:
            raise InvalidInput(
                f"a body without a JSON header needs a model of one input, this one takes {list(self._inputs)}"
            )
        shape = _raw_shape(spec, size, batched=self._signature.batched)
        known = shape, self._check(((spec.name, spec.datatype, shape),))
        _remember(self._raw, size, known)
        return known

    def encode(self, response: Response, wanted: Wanted, id: str | None) -> Reply:
        """Write a response.

        Raises:
            NotAcceptable: a value cannot be written in JSON; the message says how to ask for binary data.
            ModelError: an output is missing or of another datatype than the signature says.
        """
        own = self.manifest
        same = response.version == own.version and response.model == own.name
        parts = [self._opening if same else _opening(response.model, response.version)]
        blobs: list[Any] = []
        arrays = response.outputs
        for spec, binary in wanted.outputs:
            array = arrays.get(spec.name)
            if array is None:
                raise ModelError(f"the model gave no output {spec.name!r}")
            if binary:
                blob = to_binary(array, spec)
                blobs.append(blob)
                parts.append(self._head(spec, array.shape, len(blob)))
            else:
                parts += (self._head(spec, array.shape, NO_HEADER), to_json(array, spec), b"},")
        # The last comma goes: an answer has at least one output.
        parts[-1] = parts[-1][:-1]
        parts.append(b"]}" if id is None else b'],"id":%b}' % orjson.dumps(id))
        text = b"".join(parts)
        if not wanted.binary:
            return Reply(OK, text)
        length = len(text)
        headers = self._headers.get(length)
        if headers is None:
            headers = ((_HEADER_LENGTH, b"%d" % length),)
            _remember(self._headers, length, headers)
        if len(blobs) == 1 and type(blobs[0]) is bytes:
            return Reply(OK, text + blobs[0], _OCTETS, headers)
        return Reply(OK, (text, *blobs), _OCTETS, headers)

    def _head(self, spec: TensorSpec, shape: tuple[int, ...], size: int) -> bytes:
        key = (spec.name, shape, size)
        head = self._heads.get(key)
        if head is None:
            fields = {"name": spec.name, "datatype": spec.datatype, "shape": shape}
            if size == NO_HEADER:
                head = orjson.dumps(fields)[:-1] + b',"data":'
            else:
                head = orjson.dumps(fields | {"parameters": {"binary_data_size": size}}) + b","
            _remember(self._heads, key, head)
        return head


def _request(inputs: Tensors, rows: int, wanted: Wanted, options: Options, call: Call) -> Request:
    timeout = options.timeout
    arrived = call.arrived
    deadline = arrived + timeout if timeout else NEVER
    return Request(inputs, rows, wanted.names, deadline, options.priority, arrived, call)


def _binary_size(item: InferInput) -> int | None:
    """Bytes of the input after the JSON; None when its data stand in the JSON."""
    parameters = item.parameters
    if parameters:
        refuse_unsupported(parameters)
        if "binary_data_size" in parameters:
            if item.data is not ABSENT:
                raise InvalidInput(f"input {item.name!r} has both data and binary_data_size", field=item.name)
            return read_number(parameters, "binary_data_size")
    if item.data is ABSENT:
        raise InvalidInput(f"input {item.name!r} has neither data nor binary_data_size", field=item.name)
    return None


def _raw_shape(spec: TensorSpec, size: int, *, batched: bool) -> tuple[int, ...]:
    """The shape of the one input of a body without a JSON header, from its bytes.

    One size may vary. The rows of a batched model count as one when another size varies.

    Raises:
        InvalidInput: the bytes fit no shape.
    """
    shape = list(spec.shape)
    if spec.datatype == "BYTES":
        shape = [1 if dim == -1 else dim for dim in shape]
        if any(dim != 1 for dim in shape):
            raise InvalidInput(f"input {spec.name!r} takes {list(spec.shape)}, a body without JSON holds one element")
        return tuple(shape)
    free = [index for index, dim in enumerate(shape) if dim == -1]
    if batched and len(free) > 1 and free[0] == 0:
        shape[0] = 1
        free = free[1:]
    if len(free) > 1:
        raise InvalidInput(
            f"input {spec.name!r} of shape {list(spec.shape)} has several sizes that vary: send a JSON header with it"
        )
    unit = DATATYPES[spec.datatype].itemsize
    for dim in shape:
        unit *= 1 if dim == -1 else dim
    if free and unit and size % unit == 0:
        shape[free[0]] = size // unit
    elif free or size != unit:
        raise InvalidInput(
            f"the body has {size} bytes, {spec.datatype} of shape {list(spec.shape)} "
            f"needs {'a multiple of ' if free else ''}{unit}",
            field=spec.name,
        )
    return tuple(shape)


def _opening(name: str, version: int) -> bytes:
    return orjson.dumps({"model_name": name, "model_version": str(version)})[:-1] + b',"outputs":['


def _remember(memory: dict[Any, Any], key: Any, value: Any) -> None:
    if len(memory) >= _ENTRIES:
        memory.clear()
    memory[key] = value

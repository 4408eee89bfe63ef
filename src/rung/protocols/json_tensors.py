"""Tensors as nested JSON lists, the way TF Serving and KServe v1 write them.

The nesting is the shape. BYTES elements are text, or `{"b64": "..."}` for bytes that are none. NaN, Infinity and
-Infinity stand bare, as in JavaScript. Strict JSON has none of them, so a body that holds one is read again by a
reader that knows them, and costs more.

A value of a message is `Raw`, JSON that has only been delimited, or what that second reader made of it.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import chain
from math import isfinite
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from msgspec import Meta, Raw

from rung.domain.errors import InvalidInput, NotAcceptable
from rung.domain.tensors import DATATYPES, Array, TensorSpec
from rung.protocols.oip_tensors import JSON_ELEMENTS, octets, typed

__all__ = [
    "ABSENT",
    "Message",
    "read_columns",
    "read_examples",
    "read_message",
    "read_rows",
    "write_columns",
    "write_rows",
    "write_tensor",
]

ABSENT = Raw()
"""Stands for a field that is not there; compare by identity."""

_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_FP16_LIMIT = 65520.0
"""The smallest double that rounds to infinity in FP16."""
_BARE = {"nan": b"NaN", "inf": b"Infinity", "-inf": b"-Infinity"}


class Message(msgspec.Struct, gc=False):
    """The body of a `:predict`, `:classify` or `:regress` call. Fields beyond these are ignored."""

    signature_name: str | None = None
    instances: Raw = ABSENT
    inputs: Raw = ABSENT
    examples: Raw = ABSENT
    context: Raw = ABSENT


class _Base64(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    b64: str


_STRICT = JSON_ELEMENTS | {"BYTES": str | _Base64, "FP16": Annotated[float, Meta(gt=-_FP16_LIMIT, lt=_FP16_LIMIT)]}
# Infinity is beyond every bound: what is too large is found after the conversion.
_LOOSE = _STRICT | {"FP16": float, "FP32": float}
_decode = msgspec.json.Decoder(Message).decode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_list = msgspec.json.Decoder(list[Raw]).decode
_decode_objects = msgspec.json.Decoder(list[dict[str, Raw]]).decode


def read_message(body: bytes) -> Message:
    """Read a body.

    Raises:
        InvalidInput: it is no JSON object, not even with NaN and Infinity, or `signature_name` is no text.
    """
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the body does not fit the protocol: {error}") from None
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    except ValueError as error:
        if b"NaN" not in body and b"Infinity" not in body:
            raise InvalidInput(f"the body is not valid JSON: {error}") from None
    return _read_loosely(body)


def _read_loosely(body: bytes) -> Message:
    try:
        value = json.loads(body.decode(), parse_float=_finite)
    except RecursionError:
        raise InvalidInput("the body is nested too deeply") from None
    except ValueError as error:
        raise InvalidInput(f"the body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput("the body must be a JSON object")
    name = value.get("signature_name")
    if not isinstance(name, str | None):
        raise InvalidInput("signature_name must be text", field="signature_name")
    return Message(**{field: value[field] for field in Message.__struct_fields__ if field in value})


def _finite(text: str) -> float:
    # 1e999 would silently become Infinity.
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"the number {text:.40} is out of range")
    return value


def read_rows(value: Any, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Read `instances`: a list of rows, each an object with a value for each input, or the value of the one input.

    Raises:
        InvalidInput: naming the input or row that does not fit.
    """
    names = [spec.name for spec in specs]
    if len(specs) == 1:
        try:
            return {names[0]: _tensor(value, specs[0], "instances")}
        except InvalidInput:
            if not _holds_objects(value) or (specs[0].datatype == "BYTES" and _holds_base64(value)):
                raise
    rows = _objects(value, "instances")
    for index, row in enumerate(rows):
        if row.keys() != set(names):
            raise InvalidInput(
                f"instances[{index}] has the keys {sorted(row)!r:.200}, the model takes {names}", field="instances"
            )
    return {spec.name: _tensor(_list([row[spec.name] for row in rows]), spec, "instances") for spec in specs}


def read_columns(value: Any, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Read `inputs`: an object with a tensor for each input, or the tensor of the one input.

    Raises:
        InvalidInput: naming the input that is missing or does not fit.
    """
    if len(specs) == 1:
        spec = specs[0]
        try:
            return {spec.name: _tensor(value, spec, "inputs")}
        except InvalidInput:
            if not _is_object(value) or (spec.datatype == "BYTES" and _holds_base64(_list([value]))):
                raise
    columns = _object(value, "inputs")
    for spec in specs:
        if spec.name not in columns:
            raise InvalidInput(f"inputs lacks {spec.name!r}, which the model takes", field=spec.name)
    return {spec.name: _tensor(columns[spec.name], spec, "inputs") for spec in specs}


def read_examples(value: Any, context: Any, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Read `examples`: objects with a value or flat list for each input; `context` holds what all of them share.

    A flat list takes the shape of a row of its input. Features that the model does not take are ignored.

    Raises:
        InvalidInput: naming the feature that is missing or does not fit.
    """
    shared = {} if context is ABSENT else _object(context, "context")
    examples = _objects(value, "examples")
    arrays = {}
    for spec in specs:
        features = []
        for index, example in enumerate(examples):
            if spec.name not in example and spec.name not in shared:
                raise InvalidInput(f"examples[{index}] lacks the feature {spec.name!r}", field=spec.name)
            if spec.name in example and spec.name in shared:
                raise InvalidInput(f"the feature {spec.name!r} stands in context and in examples[{index}]")
            feature = example.get(spec.name, shared.get(spec.name))
            features.append(feature if _is_list(feature) else _list([feature]))
        flat = _tensor(_list(features), TensorSpec(spec.name, spec.datatype, (-1, -1)), "examples")
        try:
            arrays[spec.name] = flat.reshape(len(examples), *spec.shape[1:])
        except ValueError:
            raise InvalidInput(
                f"the feature {spec.name!r} has {flat.shape[1]} values, which make no {list(spec.shape[1:])}",
                field=spec.name,
            ) from None
    return arrays


def _tensor(value: Any, spec: TensorSpec, field: str) -> Array:
    """The tensor that `value` nests as deeply as `spec` says; sizes are checked by whoever gets it."""
    datatype, rank = spec.datatype, len(spec.shape)
    if datatype not in _STRICT:
        raise InvalidInput(f"input {spec.name!r} is {datatype}, which JSON does not carry", field=spec.name)
    strict = type(value) is Raw
    try:
        read = _decoder if strict else _converter
        values = read(datatype, rank)(value)
        if datatype == "BYTES":
            return _texts(values, rank)
        if strict or datatype not in ("FP16", "FP32"):
            return np.array(values, DATATYPES[datatype])
        return _narrowed(values, DATATYPES[datatype])
    except msgspec.ValidationError as error:
        reason = str(error).replace("`$", f"`{field}")
        raise InvalidInput(f"the value of input {spec.name!r} is not {datatype}: {reason}", field=spec.name) from None
    except (OverflowError, ValueError) as error:
        # Of several lines where the lists differ in length.
        reason = str(error).partition(". ")[0]
        raise InvalidInput(f"the value of input {spec.name!r} makes no tensor: {reason}", field=spec.name) from None


@cache
def _decoder(datatype: str, rank: int) -> Callable[[Raw], Any]:
    return msgspec.json.Decoder(_nested(_STRICT[datatype], rank)).decode


@cache
def _converter(datatype: str, rank: int) -> Callable[[Any], Any]:
    return partial(msgspec.convert, type=_nested(_LOOSE[datatype], rank))


@cache
def _nested(kind: Any, rank: int) -> Any:
    for _ in range(rank):
        kind = list[kind]
    return kind


def _narrowed(values: Any, dtype: "np.dtype[Any]") -> Array:
    wide = np.array(values, np.float64)
    with np.errstate(over="ignore"):
        array: Array = wide.astype(dtype)
    if np.isinf(array).sum() != np.isinf(wide).sum():
        raise ValueError("a number is out of range")
    return array


def _texts(values: Any, rank: int) -> Array:
    shape = []
    level = [values]
    for _ in range(rank):
        sizes = {len(one) for one in level}
        if len(sizes) > 1:
            raise ValueError("the lists differ in length")
        shape.append(sizes.pop() if sizes else 0)
        level = list(chain.from_iterable(level))
    array = np.empty(len(level), DATATYPES["BYTES"])
    array[:] = [_octets(one) for one in level]
    return array.reshape(shape)


def _octets(element: str | _Base64) -> bytes:
    if isinstance(element, str):
        return element.encode()
    text = element.b64
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise ValueError(f"{text!r:.40} is no base64") from None


def _list(values: list[Any]) -> Any:
    if values and type(values[0]) is Raw:
        return Raw(b"[" + b",".join(values) + b"]")
    return values


def _is_list(value: Any) -> bool:
    return bytes(value).startswith(b"[") if type(value) is Raw else isinstance(value, list)


def _is_object(value: Any) -> bool:
    return bytes(value).startswith(b"{") if type(value) is Raw else isinstance(value, dict)


def _holds_objects(value: Any) -> bool:
    if type(value) is Raw:
        text = bytes(value)
        return text.startswith(b"[") and text[1:].lstrip().startswith(b"{")
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _holds_base64(value: Any) -> bool:
    return any(row.keys() == {"b64"} for row in _objects(value, "instances"))


def _object(value: Any, field: str) -> dict[str, Any]:
    try:
        if type(value) is Raw:
            return _decode_object(value)
        return msgspec.convert(value, dict[str, Any])
    except msgspec.ValidationError as error:
        raise _misshapen(error, field) from None


def _objects(value: Any, field: str) -> list[dict[str, Any]]:
    try:
        objects: list[dict[str, Any]]
        objects = _decode_objects(value) if type(value) is Raw else msgspec.convert(value, list[dict[str, Any]])
    except msgspec.ValidationError as error:
        raise _misshapen(error, field) from None
    if not objects:
        raise InvalidInput(f"{field} holds nothing", field=field)
    return objects


def _misshapen(error: Exception, field: str) -> InvalidInput:
    return InvalidInput(f"{field} does not fit: {str(error).replace('`$', f'`{field}')}", field=field)


def write_columns(outputs: Sequence[tuple[TensorSpec, Array]]) -> bytes:
    """The value of `outputs`: an object with a tensor for each output, or the tensor of the one output.

    Raises:
        ModelError, NotAcceptable: as `write_tensor`.
    """
    if len(outputs) == 1:
        return write_tensor(outputs[0][1], outputs[0][0])
    return (
        b"{" + b",".join([orjson.dumps(spec.name) + b":" + write_tensor(array, spec) for spec, array in outputs]) + b"}"
    )


def write_rows(outputs: Sequence[tuple[TensorSpec, Array]]) -> bytes:
    """The value of `predictions`: a list of rows, each an object with a value for each output, or that of the one.

    Raises:
        InvalidInput: the outputs have no rows in common: columns would carry them.
        ModelError, NotAcceptable: as `write_tensor`.
    """
    if len({array.shape[:1] for _, array in outputs}) > 1 or not outputs[0][1].ndim:
        raise InvalidInput("the outputs of this model have no rows in common: send inputs in place of instances")
    if len(outputs) == 1:
        return write_tensor(outputs[0][1], outputs[0][0])
    fields = [[orjson.dumps(spec.name) + b":" + text for text in _rows(array, spec)] for spec, array in outputs]
    return b"[" + b",".join([b"{" + b",".join(row) + b"}" for row in zip(*fields, strict=True)]) + b"]"


def _rows(array: Array, spec: TensorSpec) -> list[Any]:
    if spec.datatype == "BYTES":
        # Whole, since one element may decide how all are written.
        return _decode_list(write_tensor(array, spec))
    if array.ndim == 1:
        return write_tensor(array, spec)[1:-1].split(b",") if len(array) else []
    return [write_tensor(row, spec) for row in array]


def write_tensor(array: Array, spec: TensorSpec) -> bytes:
    """Write a tensor as nested lists, the shortest digits that read back as the same number.

    BYTES go as text, and as `{"b64": "..."}` where the output's name ends in `_bytes` or any element is no UTF-8.

    Raises:
        ModelError: the array has another datatype than `spec`.
        NotAcceptable: BF16, which JSON does not carry.
    """
    if spec.datatype == "BYTES":
        return _write_texts(octets(array, spec), array.shape, binary=spec.name.endswith("_bytes"))
    if spec.datatype == "BF16":
        raise NotAcceptable(
            f"output {spec.name!r} is BF16, which JSON does not carry: ask for it under /v2 as binary data"
        )
    array = typed(array, spec)
    if not array.flags.c_contiguous:
        array = array.copy()
    text = orjson.dumps(array if array.ndim else array[()], option=_NUMPY)
    # The encoder writes null for what is not finite, and for nothing else.
    return _with_bare(text, array) if b"null" in text else text


def _with_bare(text: bytes, array: Array) -> bytes:
    parts = text.split(b"null")
    bare = [_BARE[str(value)] for value in array[~np.isfinite(array)].tolist()]
    return b"".join(chain.from_iterable(zip(parts, bare, strict=False))) + parts[-1]


def _write_texts(elements: list[bytes], shape: tuple[int, ...], *, binary: bool) -> bytes:
    texts: list[Any]
    try:
        texts = [] if binary else [element.decode() for element in elements]
    except UnicodeDecodeError:
        binary = True
    if binary:
        texts = [{"b64": b64encode(element).decode()} for element in elements]
    nest = np.empty(len(texts), object)
    nest[:] = texts
    return orjson.dumps(nest.reshape(shape).tolist())

"""Tensors of the Open Inference Protocol between their two wire forms and numpy.

JSON: numbers, booleans or strings in row-major order, flat or nested as the shape says.
Binary: little-endian, row-major; a BYTES element is a 4-byte length and its bytes.
"""

import struct
from collections.abc import Callable
from functools import cache
from itertools import chain
from math import prod
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson
from msgspec import Meta, Raw

from rung.domain.errors import InvalidInput, ModelError, NotAcceptable
from rung.domain.tensors import DATATYPES, Array, TensorSpec, datatype_of

__all__ = [
    "BINARY_ONLY",
    "JSON_ELEMENTS",
    "from_binary",
    "from_json",
    "octets",
    "refuse_miscount",
    "to_binary",
    "to_json",
    "typed",
]

BINARY_ONLY = frozenset({"FP16", "BF16"})
"""Datatypes that JSON does not carry in this protocol."""

_FP32_LIMIT = 3.4028235677973366e38
"""The smallest double that rounds to infinity as a float."""
JSON_ELEMENTS: dict[str, Any] = {
    "BOOL": bool,
    "UINT8": Annotated[int, Meta(ge=0, le=2**8 - 1)],
    "UINT16": Annotated[int, Meta(ge=0, le=2**16 - 1)],
    "UINT32": Annotated[int, Meta(ge=0, le=2**32 - 1)],
    # Bounds of a Meta are 64-bit signed: numpy refuses what lies beyond them.
    "UINT64": Annotated[int, Meta(ge=0)],
    "INT8": Annotated[int, Meta(ge=-(2**7), le=2**7 - 1)],
    "INT16": Annotated[int, Meta(ge=-(2**15), le=2**15 - 1)],
    "INT32": Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)],
    "INT64": int,
    "FP32": Annotated[float, Meta(gt=-_FP32_LIMIT, lt=_FP32_LIMIT)],
    "FP64": float,
    "BYTES": str,
}
"""Datatype -> msgspec type of one element in JSON, with its bounds."""
_FLAT = {name: msgspec.json.Decoder(list[element]).decode for name, element in JSON_ELEMENTS.items()}  # type: ignore[valid-type]
_VIEW = 1 << 16
"""Bytes from which a binary tensor is handed on as a view: copying fewer is cheaper than a write of its own."""
_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_LENGTH = struct.Struct("<I")


def from_json(raw: Raw, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """Make the array of `shape` out of the JSON value `raw`, strictly typed as `spec.datatype`.

    Raises:
        InvalidInput: naming the input: a value of another type or out of range, a count or a
            nesting that does not fit `shape`, a datatype that JSON does not carry.
    """
    datatype = spec.datatype
    try:
        values = _FLAT[datatype](raw)
    except msgspec.ValidationError as error:
        return _from_nested(raw, spec, shape, error)
    except KeyError:
        raise InvalidInput(
            f"input {spec.name!r} is {datatype}, which JSON does not carry: send it as binary data",
            field=spec.name,
        ) from None
    except ValueError as error:
        raise InvalidInput(f"the data of input {spec.name!r} is not valid: {error}", field=spec.name) from None
    if len(values) != prod(shape):
        raise _miscounted(spec.name, len(values), shape)
    return _build(values, spec, shape)


def _build(values: list[Any], spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    try:
        if spec.datatype == "BYTES":
            array = np.empty(len(values), DATATYPES["BYTES"])
            array[:] = [value.encode() for value in values]
        else:
            array = np.array(values, DATATYPES[spec.datatype])
        return array.reshape(shape)
    except (OverflowError, ValueError) as error:
        # ValueError covers lone surrogates in text and shapes beyond what numpy can index.
        raise InvalidInput(f"the data of input {spec.name!r} is not valid: {error}", field=spec.name) from None


def _from_nested(raw: Raw, spec: TensorSpec, shape: tuple[int, ...], flat_error: Exception) -> Array:
    text = bytes(raw)
    if len(shape) < 2 or text[:1] != b"[" or text[1:].lstrip()[:1] != b"[":
        raise _mistyped(spec, flat_error)
    try:
        values = _nested(spec.datatype, len(shape))(text)
    except ValueError as error:
        raise _mistyped(spec, error) from None
    fits = len(values) == shape[0]
    for size in shape[1:]:
        fits = fits and all(len(row) == size for row in values)
        values = list(chain.from_iterable(values))
    if not fits:
        raise InvalidInput(f"the data of input {spec.name!r} is not nested as its shape {list(shape)}", field=spec.name)
    return _build(values, spec, shape)


@cache
def _nested(datatype: str, depth: int) -> Callable[[bytes], list[Any]]:
    kind = JSON_ELEMENTS[datatype]
    for _ in range(depth):
        kind = list[kind]  # type: ignore[valid-type]
    return msgspec.json.Decoder(kind).decode


def refuse_miscount(raw: Raw, spec: TensorSpec, shape: tuple[int, ...]) -> None:
    """Raise `InvalidInput` unless `raw` can hold as many elements as `shape` needs.

    It only counts commas, so it is cheap where the list that a small shape comes with is huge.
    """
    count = bytes(raw).count(b",") + 1
    # Text may hold commas of its own.
    if count < prod(shape) if spec.datatype == "BYTES" else count != prod(shape):
        raise _miscounted(spec.name, count, shape)


def _mistyped(spec: TensorSpec, error: Exception) -> InvalidInput:
    reason = str(error).replace("`$", "`data")
    return InvalidInput(f"the data of input {spec.name!r} is not {spec.datatype}: {reason}", field=spec.name)


def _miscounted(name: str, count: int, shape: tuple[int, ...]) -> InvalidInput:
    return InvalidInput(
        f"input {name!r} has {count} elements of data, its shape {list(shape)} needs {prod(shape)}", field=name
    )


def from_binary(body: bytes, offset: int, size: int, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    """Make the array of `shape` out of `size` bytes of `body` at `offset`, without a copy where they are aligned.

    Raises:
        InvalidInput: naming the input: the bytes are too many or too few for `shape`, or are no
            booleans, or the lengths of BYTES elements do not add up.
    """
    if spec.datatype == "BYTES":
        return _texts(body[offset : offset + size], spec.name, shape)
    dtype = DATATYPES[spec.datatype]
    need = prod(shape) * dtype.itemsize
    if size != need:
        raise InvalidInput(
            f"input {spec.name!r} has {size} bytes of binary data, {spec.datatype} of shape {list(shape)} needs {need}",
            field=spec.name,
        )
    try:
        array: Array = np.ndarray(shape, dtype, body, offset)
    except ValueError as error:
        raise InvalidInput(f"input {spec.name!r} has the impossible shape {list(shape)}: {error}") from None
    if spec.datatype == "BOOL" and size and array.view(np.uint8).max() > 1:
        raise InvalidInput(f"the data of input {spec.name!r} is not BOOL: a byte is neither 0 nor 1", field=spec.name)
    return array.copy() if offset % dtype.itemsize else array


def _texts(data: bytes, name: str, shape: tuple[int, ...]) -> Array:
    count = prod(shape)
    # Each element takes at least the four bytes of its length: nothing is made for a shape that lies.
    if count > len(data) // _LENGTH.size:
        raise InvalidInput(
            f"input {name!r} has {len(data)} bytes of binary data, too few for shape {list(shape)}", field=name
        )
    elements = np.empty(count, DATATYPES["BYTES"])
    position = 0
    for index in range(count):
        start = position + _LENGTH.size
        if start > len(data):
            raise _cut_off(name, index)
        position = start + _LENGTH.unpack_from(data, start - _LENGTH.size)[0]
        if position > len(data):
            raise _cut_off(name, index)
        elements[index] = data[start:position]
    if position != len(data):
        raise InvalidInput(
            f"input {name!r} has {len(data) - position} bytes beyond the {count} elements of its shape", field=name
        )
    try:
        return elements.reshape(shape)
    except ValueError as error:
        raise InvalidInput(f"input {name!r} has the impossible shape {list(shape)}: {error}", field=name) from None


def _cut_off(name: str, index: int) -> InvalidInput:
    return InvalidInput(f"element {index} of input {name!r} reaches beyond its binary data", field=name)


def to_json(array: Array, spec: TensorSpec) -> bytes:
    """Write the elements as a flat JSON array in row-major order.

    Raises:
        NotAcceptable: NaN, Infinity, FP16, BF16 or bytes that are not UTF-8, which JSON cannot carry.
        ModelError: the array has another datatype than `spec`.
    """
    if spec.datatype == "BYTES":
        try:
            return orjson.dumps([element.decode() for element in octets(array, spec)])
        except UnicodeDecodeError:
            raise _needs_binary(spec, "bytes that are not UTF-8 text") from None
    if spec.datatype in BINARY_ONLY:
        raise _needs_binary(spec, spec.datatype)
    text = orjson.dumps(typed(array, spec).ravel(), option=_NUMPY)
    # The encoder writes null for what is not finite, and for nothing else.
    if b"null" in text:
        raise _needs_binary(spec, "NaN or Infinity")
    return text


def to_binary(array: Array, spec: TensorSpec) -> bytes | memoryview:
    """Lay the elements out as bytes; large tensors are not copied.

    Raises:
        ModelError: the array has another datatype than `spec`.
    """
    if spec.datatype == "BYTES":
        elements = octets(array, spec)
        return b"".join([part for element in elements for part in (_LENGTH.pack(len(element)), element)])
    array = typed(array, spec)
    if array.nbytes < _VIEW:
        return array.tobytes()
    return array.ravel().view(np.uint8).data


def typed(array: Array, spec: TensorSpec) -> Array:
    """Return the array, of the datatype that `spec` states. Raises `ModelError` where it has another."""
    want = DATATYPES[spec.datatype]
    if array.dtype is not want and array.dtype != want:
        raise ModelError(f"output {spec.name!r} came as {array.dtype}, the signature says {spec.datatype}")
    return array


def octets(array: Array, spec: TensorSpec) -> list[bytes]:
    """The elements of a BYTES tensor in row-major order, text as UTF-8. Raises `ModelError` where they are neither."""
    if datatype_of(array) != "BYTES":
        raise ModelError(f"output {spec.name!r} came as {array.dtype}, the signature says BYTES")
    try:
        elements = [item.encode() if isinstance(item, str) else item for item in array.ravel().tolist()]
    except UnicodeEncodeError as error:
        raise ModelError(f"output {spec.name!r} holds text that is not valid Unicode: {error}") from None
    if not all(isinstance(item, bytes) for item in elements):
        raise ModelError(f"output {spec.name!r} holds something that is neither bytes nor text")
    return elements


def _needs_binary(spec: TensorSpec, what: str) -> NotAcceptable:
    return NotAcceptable(
        f"output {spec.name!r} holds {what}, which JSON cannot carry: ask for binary data "
        "with the request parameter binary_data_output"
    )

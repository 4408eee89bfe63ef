"""Values that people write, as tensors: JSON rows, columns and texts in; JSON out.

JSON has no NaN and no infinity: they are written as `null`, which every reader takes. The tensor doors
have rules of their own.
"""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson

from rung.domain.errors import InvalidInput
from rung.domain.tensors import DATATYPES, Array, Signature, Tensors, TensorSpec, widened

__all__ = ["predictions_json", "tensor_from", "tensors_from_rows", "tensors_from_text"]


def tensors_from_rows(value: Any, signature: Signature) -> dict[str, Array]:
    """Make the model's inputs of JSON values.

    `value` is one of: a list of rows for a model with one input; a list of objects, one for each row, with a field
    for each input; an object with a column for each input.

    Raises:
        InvalidInput: naming the input, the row and what is wrong with it.
    """
    names = [spec.name for spec in signature.inputs]
    if isinstance(value, Mapping):
        _check_fields(value, names, "the object of columns")
        columns = value
    elif not isinstance(value, list):
        raise InvalidInput("a list of rows is expected, or an object with a column for each input", field=names[0])
    elif value and isinstance(value[0], Mapping):
        for position, row in enumerate(value):
            _check_fields(row, names, f"row {position}")
        columns = {name: [row[name] for row in value] for name in names}
    elif len(names) == 1:
        columns = {names[0]: value}
    else:
        raise InvalidInput(f"the model has {len(names)} inputs: each row must be an object with {', '.join(names)}")
    return {spec.name: tensor_from(columns[spec.name], spec) for spec in signature.inputs}


def tensors_from_text(value: str | Sequence[str], signature: Signature) -> dict[str, Array]:
    """Make the one BYTES input of a model of one text, or of a list of them.

    Raises:
        InvalidInput: the model takes no text.
    """
    if len(signature.inputs) != 1 or signature.inputs[0].datatype != "BYTES":
        raise InvalidInput("this model takes no text")
    spec = signature.inputs[0]
    if isinstance(value, str):
        value = value if not spec.shape else [value]
    return {spec.name: tensor_from(value, spec)}


def tensor_from(value: Any, spec: TensorSpec) -> Array:
    """Make an array of nested lists. Numbers stay numbers: `"1.5"` and `true` are refused where a number is wanted.

    A trailing dimension of 1 may be left out: `[1, 2, 3]` fits `[-1, 1]`.

    Raises:
        InvalidInput: naming the input, the row and the reason.
    """
    is_text = spec.datatype == "BYTES"
    array: Array | None
    try:
        array = np.array(value, dtype=object if is_text else None)
    except (ValueError, OverflowError):
        # Rows of different lengths, or deeper than numpy counts.
        array = None
    if array is not None and array.ndim and all(size == 1 for size in spec.shape[array.ndim :]):
        array = array.reshape(array.shape + (1,) * (len(spec.shape) - array.ndim))
    if array is not None and not is_text and array.dtype.kind in "fO":
        array = _exact(value, array, spec.datatype)
    if array is None or not spec.admits(array.shape) or not _is_kind(array, spec.datatype):
        raise _refusal(value, spec)
    return _texts(array, spec) if is_text else _numbers(array, spec)


def predictions_json(outputs: Tensors, signature: Signature, results: Sequence[Any] | None = None) -> bytes:
    """Write `{"predictions": [...]}`: a value for each row, or an object by output name where there are several.

    Args:
        outputs: what the model gave.
        signature: says whether the first dimension counts rows, and which outputs are BF16.
        results: written in place of the outputs when given.
    """
    if results is None:
        specs = {spec.name: spec for spec in signature.outputs}
        plain = {name: _plain(array, specs.get(name)) for name, array in outputs.items()}
        if len(plain) == 1:
            results = next(iter(plain.values()))
        elif signature.batched:
            rows = len(next(iter(plain.values())))
            results = [{name: column[row] for name, column in plain.items()} for row in range(rows)]
        else:
            return _dumps({"predictions": plain})
    return _dumps({"predictions": results})


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, default=_default, option=orjson.OPT_SERIALIZE_NUMPY)


def _default(value: Any) -> Any:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"b64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, np.ndarray):
        # orjson takes contiguous numbers only.
        return value.tolist() if value.dtype.kind == "O" else np.ascontiguousarray(value).tolist()
    if isinstance(value, np.generic):
        # onnxruntime's int64 is C's long long, which orjson does not know.
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _plain(array: Array, spec: TensorSpec | None) -> Any:
    if array.dtype.kind == "O":
        return array.tolist()
    if spec is not None and spec.datatype == "BF16":
        array = widened(array)
    # orjson writes arrays, not single elements of them.
    return np.ascontiguousarray(array) if array.ndim else array.item()


def _check_fields(row: Any, names: Sequence[str], where: str) -> None:
    if not isinstance(row, Mapping):
        raise InvalidInput(f"{where} is no object; the first one is, so all must be")
    for name in names:
        if name not in row:
            raise InvalidInput(f"{where} has no field {name!r}; the model takes {', '.join(names)}", field=name)
    for name in row:
        if name not in names:
            raise InvalidInput(f"{where} has an unknown field {name!r}; the model takes {', '.join(names)}", field=name)


def _exact(value: Any, array: Array, datatype: str) -> Array | None:
    """Undo numpy's choice of floats or objects for integers that need all of 64 bits beside smaller ones."""
    if datatype in ("INT64", "UINT64"):
        exact = np.array(value, object).reshape(array.shape)
        if all(type(number) is int for number in exact.flat):
            return exact
    return array if array.dtype.kind == "f" else None


def _is_kind(array: Array, datatype: str) -> bool:
    if datatype == "BYTES":
        return True
    # An empty list is an array of floats to numpy.
    return not array.size or (array.dtype.kind == "b" if datatype == "BOOL" else array.dtype.kind in "iufO")


def _numbers(array: Array, spec: TensorSpec) -> Array:
    dtype = DATATYPES[spec.datatype]
    if spec.datatype == "BF16":
        single = _numbers(array, TensorSpec(spec.name, "FP32", spec.shape))
        return (single.view(np.uint32) >> 16).astype(np.uint16)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        # Compared as Python numbers: numpy would round 2**63 - 1 to a float first.
        if array.size and not (limits.min <= int(array.min()) and int(array.max()) <= limits.max):
            raise _misfit(array, (array < limits.min) | (array > limits.max), spec, "lies outside")
        if array.dtype.kind == "f" and (array != np.floor(array)).any():
            raise _misfit(array, array != np.floor(array), spec, "is no whole number, so it does not fit")
        return array.astype(dtype)
    with np.errstate(over="ignore"):
        result = array.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(result).all():
        raise _misfit(array, ~np.isfinite(result), spec, "is too large for")
    return result


def _misfit(array: Array, where: Array, spec: TensorSpec, reason: str) -> InvalidInput:
    # Where a limit has no exact float, the comparison misses by one step: then it is the largest.
    flat = where.argmax() if where.any() else np.abs(array).argmax()
    position = tuple(int(index) for index in np.unravel_index(flat, array.shape))
    return InvalidInput(
        f"input {spec.name!r}, {_place(position)}: {array[position]} {reason} {spec.datatype}", field=spec.name
    )


def _texts(array: Array, spec: TensorSpec) -> Array:
    result = np.empty(array.shape, object)
    for position, text in np.ndenumerate(array):
        if not isinstance(text, str):
            raise InvalidInput(f"input {spec.name!r}, {_place(position)}: {_kind(text)} is no text", field=spec.name)
        try:
            result[position] = text.encode()
        except UnicodeEncodeError:
            raise InvalidInput(
                f"input {spec.name!r}, {_place(position)}: the text holds half of a surrogate pair", field=spec.name
            ) from None
    return result


def _refusal(value: Any, spec: TensorSpec) -> InvalidInput:
    """Find the first thing in the nested lists that does not fit, and name it."""
    reason = _first_fault(value, spec, ()) or f"it does not have the shape {list(spec.shape)}"
    return InvalidInput(
        f"input {spec.name!r}, {reason}; the model expects {spec.datatype} {list(spec.shape)}", field=spec.name
    )


def _first_fault(value: Any, spec: TensorSpec, position: tuple[int, ...]) -> str | None:
    depth, shape = len(position), spec.shape
    optional = all(size == 1 for size in shape[depth:])
    if depth == len(shape) or (optional and depth and not isinstance(value, list)):
        wanted = {"BYTES": (str,), "BOOL": (bool,)}.get(spec.datatype, (int, float))
        if isinstance(value, wanted) and (not isinstance(value, bool) or spec.datatype == "BOOL"):
            return None
        return f"{_place(position)}: {_kind(value)} where {'text' if wanted == (str,) else wanted[0].__name__} belongs"
    if not isinstance(value, list):
        return f"{_place(position)}: {_kind(value)} where a list of {_count(shape[depth])} belongs"
    if shape[depth] not in (-1, len(value)):
        return f"{_place(position)}: a list of {len(value)} where {shape[depth]} belong"
    lengths = {len(item) if isinstance(item, list) else -1 for item in value}
    for index, item in enumerate(value):
        fault = _first_fault(item, spec, (*position, index))
        if fault is not None:
            return fault
    return f"{_place(position)}: its lists differ in length" if len(lengths) > 1 else None


def _count(size: int) -> str:
    return "values" if size == -1 else f"{size}"


def _place(position: tuple[int, ...]) -> str:
    if not position:
        return "as a whole"
    rest = "".join(f"[{index}]" for index in position[1:])
    return f"row {position[0]}" + (f", element {rest}" if rest else "")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"the number {value}")

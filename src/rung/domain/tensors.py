"""Tensors: the datatypes of the Open Inference Protocol, their numpy twins, and signatures.

Inside rung a tensor is a numpy array. BYTES tensors are object arrays whose elements are `bytes`.
BF16 has no numpy dtype; it travels as uint16 bit patterns and is marked by its spec.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from rung.domain.errors import InvalidInput

__all__ = ["DATATYPES", "Array", "Signature", "TensorSpec", "Tensors", "datatype_of", "itemsize", "widened"]

Array = np.ndarray[Any, np.dtype[Any]]
Tensors = Mapping[str, Array]
"""Named arrays, as they go into and come out of a model."""

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype("<u2"),
    "BYTES": np.dtype(object),
}
"""Datatype name of the Open Inference Protocol -> numpy dtype, little-endian."""

_NAMES = {dtype: name for name, dtype in DATATYPES.items() if name != "BF16"}


def datatype_of(array: Array) -> str:
    """Name the datatype of an array; text and raw bytes count as BYTES.

    Raises:
        InvalidInput: for complex, datetime and structured arrays.
    """
    if array.dtype.kind in "OSU":
        return "BYTES"
    try:
        return _NAMES[array.dtype.newbyteorder("<")]
    except KeyError:
        raise InvalidInput(f"arrays of {array.dtype} have no datatype in the protocol") from None


def widened(array: Array) -> Array:
    """Bit patterns of BF16, uint16 of any shape, as the float32 that they stand for."""
    return (array.astype(np.uint32) << 16).view(np.float32)


def itemsize(datatype: str) -> int:
    """Bytes per element; 0 for BYTES, whose elements vary."""
    return 0 if datatype == "BYTES" else DATATYPES[datatype].itemsize


class TensorSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one input or output looks like."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1 stands for a size that varies."""
    columns: tuple[str, ...] = ()
    """What the entries of the last dimension are called, where the artifact says so."""
    sample: str | int | float | None = None
    """A value that the model takes, where not every value of the datatype will do."""

    def admits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape fits."""
        return len(shape) == len(self.shape) and all(
            want in (-1, have) for want, have in zip(self.shape, shape, strict=True)
        )


class Signature(msgspec.Struct, frozen=True):
    """A model's inputs and outputs, in the order of its artifact."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool = True
    """Whether the first dimension of every tensor counts rows that do not depend on each other."""

    def check(self, inputs: Tensors) -> int:
        """Check names, datatypes and shapes, and return the number of rows (1 if not batched).

        Raises:
            InvalidInput: naming the tensor and what was expected of it.
        """
        if len(inputs) != len(self.inputs):
            self._refuse_names(inputs)
        rows = 1
        for position, spec in enumerate(self.inputs):
            array = inputs.get(spec.name)
            if array is None:
                self._refuse_names(inputs)
                raise AssertionError("unreachable")
            # Identity first: the doors hand out the very dtype objects of DATATYPES.
            want = DATATYPES[spec.datatype]
            if array.dtype is not want and array.dtype != want:
                raise InvalidInput(
                    f"input {spec.name!r} has datatype {datatype_of(array)}, the model expects {spec.datatype}",
                    field=spec.name,
                )
            if not spec.admits(array.shape):
                raise InvalidInput(
                    f"input {spec.name!r} has shape {list(array.shape)}, the model expects {list(spec.shape)}",
                    field=spec.name,
                )
            if self.batched:
                if position == 0:
                    rows = array.shape[0]
                elif array.shape[0] != rows:
                    raise InvalidInput(
                        f"input {spec.name!r} has {array.shape[0]} rows, input {self.inputs[0].name!r} has {rows}",
                        field=spec.name,
                    )
        if rows == 0:
            raise InvalidInput("the request holds no rows", field=self.inputs[0].name)
        return rows

    def _refuse_names(self, inputs: Tensors) -> None:
        expected = [spec.name for spec in self.inputs]
        for name in inputs:
            if name not in expected:
                raise InvalidInput(f"unexpected inference input {name!r}, the model takes {expected}", field=name)
        missing = [name for name in expected if name not in inputs]
        raise InvalidInput(
            f"expected {len(expected)} inputs but got {len(inputs)} inputs: missing {missing}",
            field=missing[0] if missing else None,
        )

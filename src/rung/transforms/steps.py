"""What a step may bring along besides its function: renderers of a head, and a form for many rows at once.

A function with `bulk` is called in that form by the pipeline: `bulk(signature, labels, **params)` checks
the parameters against the model once, when the bundle is loaded, and returns

- for an input step, `(items) -> tensors`: the items are a list, or an object of columns;
- for an output step, `(outputs, inputs) -> results`, one result for each row;

or None where items have to go one by one after all. `columns(signature, labels, **params)` returns, for an output step,
`(outputs) -> {name: (values, which of them are known)}`, which makes no object for a row. All of them see every tensor
with the rows along its first dimension, also for a model that takes one at a time.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from rung.domain.errors import ConfigurationError
from rung.domain.tensors import Array, Signature, TensorSpec

__all__ = ["has_bulk", "named", "pick", "real", "renders", "row_wise"]

_FLOATS = ("FP16", "FP32", "FP64")


def renders(table: Mapping[str, Callable[[Any], bytes]]) -> Callable[[Any], Any]:
    """Mark a step as a head: media type -> function from the result of one item to bytes, best first."""

    def mark(step: Any) -> Any:
        step.renderers = table
        return step

    return mark


def has_bulk(
    make: Callable[..., Any],
    example: Callable[..., Any] | None = None,
    columns: Callable[..., Any] | None = None,
) -> Callable[[Any], Any]:
    """Give a step its form for many rows, what makes an example item of its parameters, and its form of columns."""

    def mark(step: Any) -> Any:
        step.bulk = make
        step.example = example
        step.columns = columns
        return step

    return mark


def row_wise(signature: Signature) -> Signature:
    """The signature with the rows as first dimension of every tensor, also where the model knows none."""
    if signature.batched:
        return signature
    inputs, outputs = (
        tuple(msgspec.structs.replace(spec, shape=(-1, *spec.shape)) for spec in specs)
        for specs in (signature.inputs, signature.outputs)
    )
    return Signature(inputs, outputs)


def pick(signature: Signature, output: str, step: str) -> TensorSpec:
    """Find the output that a head works on: the one named, else the only one of real numbers.

    Raises:
        ConfigurationError: there is no such output, several to choose from, or it holds no real numbers.
    """
    names = ", ".join(repr(spec.name) for spec in signature.outputs)
    if output:
        chosen = [spec for spec in signature.outputs if spec.name == output]
        if not chosen:
            raise ConfigurationError(f"{step} has the output {output!r}; the model gives {names}")
    else:
        chosen = [spec for spec in signature.outputs if spec.datatype in _FLOATS]
        if len(chosen) != 1:
            raise ConfigurationError(f"{step} needs `output`: one of {names}")
    if chosen[0].datatype in ("BYTES", "BOOL", "BF16"):
        raise ConfigurationError(f"{step} cannot work on the output {chosen[0].name!r} of {chosen[0].datatype}")
    return chosen[0]


def named(value: Any, output: str, step: str) -> Array:
    """The output that a head works on, among those of one item.

    Raises:
        ConfigurationError: there are several and `output` names none of them.
    """
    if isinstance(value, Mapping):
        if output not in value:
            raise ConfigurationError(f"{step} needs `output`: one of {', '.join(map(repr, value))}")
        value = value[output]
    array: Array = np.asarray(value)
    return array


def real(array: Array) -> Array:
    """As float32, or float64 where it is that already."""
    return array if array.dtype == np.float64 else array.astype(np.float32, copy=False)

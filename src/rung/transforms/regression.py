"""The head of a regression: one number for each item."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rung.domain.errors import ConfigurationError
from rung.domain.tensors import Array, Signature, Tensors
from rung.transforms.steps import has_bulk, named, pick, real

__all__ = ["number"]


def _columns(
    signature: Signature,
    labels: tuple[str, ...],
    *,
    decimals: int | None = None,
    min: float | None = None,
    max: float | None = None,
    unit: str = "",
    output: str = "",
) -> Callable[[Tensors], dict[str, tuple[Array, Array]]]:
    spec = pick(signature, output, "regression.value")
    if any(size != 1 for size in spec.shape[1:]):
        raise ConfigurationError(
            f"regression.value takes one number per row; the output {spec.name!r} is {list(spec.shape)}"
        )
    _check(decimals, min, max)
    return lambda outputs: {"prediction": _numbers(outputs[spec.name], decimals, min, max)}


def _bulk(
    signature: Signature, labels: tuple[str, ...], *, unit: str = "", **params: Any
) -> Callable[[Tensors, Tensors], list[Any]]:
    read = _columns(signature, labels, **params)
    return lambda outputs, inputs: _results(*read(outputs)["prediction"], unit)


@has_bulk(_bulk, columns=_columns)
def number(
    value: Any,
    context: dict[str, Any],
    *,
    decimals: int | None = None,
    min: float | None = None,
    max: float | None = None,
    unit: str = "",
    output: str = "",
) -> Any:
    """Give the item's number: `12.5`, or `{"value": 12.5, "unit": "EUR"}` where there is a unit.

    NaN and Infinity are written as `null`.

    Args:
        value: one number, or arrays by output name.
        context: not used.
        decimals: digits after the point to round to; all if not given.
        min: smaller numbers become this one.
        max: larger numbers become this one.
        unit: name of the unit, for people.
        output: which output; not needed where only one holds real numbers.

    Raises:
        ConfigurationError: the output is not one number per row, or `min` is over `max`.
    """
    _check(decimals, min, max)
    array = named(value, output, "regression.value").reshape(1)
    return _results(*_numbers(array, decimals, min, max), unit)[0]


def _check(decimals: int | None, lowest: float | None, highest: float | None) -> None:
    if lowest is not None and highest is not None and lowest > highest:
        raise ConfigurationError(f"regression.value has a min of {lowest}, over its max of {highest}")
    if decimals is not None and (isinstance(decimals, bool) or not isinstance(decimals, int)):
        raise ConfigurationError(f"regression.value takes a whole number of decimals, not {decimals!r}")


def _numbers(array: Array, decimals: int | None, lowest: float | None, highest: float | None) -> tuple[Array, Array]:
    numbers = real(array).reshape(len(array))
    finite = np.isfinite(numbers)
    if lowest is not None or highest is not None:
        numbers = np.clip(numbers, lowest, highest)
    if decimals is not None:
        numbers = np.round(numbers, decimals)
    return numbers, finite


def _results(numbers: Array, finite: Array, unit: str) -> list[Any]:
    # Elements of an array, not Python floats: a float32 is then written in its own few digits.
    plain = [one if known else None for one, known in zip(numbers, finite, strict=True)]
    return [{"value": one, "unit": unit} for one in plain] if unit else plain

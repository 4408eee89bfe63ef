"""Single values of a table: brought to the model's type, or refused with their row and column."""

from typing import Any

import numpy as np

from rung.domain.errors import InvalidInput
from rung.domain.tensors import Array
from rung.transforms.schema import Column

__all__ = ["cast", "place", "refused", "shown"]


def cast(array: Array, dtype: np.dtype[Any], column: Column, *, single: bool) -> Array:
    """As the model wants it; a number that does not fit is refused, not wrapped."""
    if array.dtype == dtype or array.dtype.kind == "O":
        return array
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        wrong = (array < limits.min) | (array > limits.max)
    else:
        with np.errstate(over="ignore"):
            wrong = np.isinf(array.astype(dtype))
    if wrong.any():
        position = int(wrong.argmax())
        raise refused(column.name, position, f"{array[position]} does not fit {dtype.name}", single=single)
    return array.astype(dtype)


def refused(name: str, position: int, reason: str, *, single: bool) -> InvalidInput:
    """The error of one value: its row, unless there is only one, its column, and the reason."""
    return InvalidInput(f"{place(position, single=single)}column {name!r}: {reason}", field=name)


def place(position: int, *, single: bool) -> str:
    """Which row, in front of what is wrong with it."""
    return "" if single else f"row {position}, "


def shown(value: Any) -> str:
    """A value as a message names it."""
    names = {dict: "an object", list: "a list", type(None): "null", bool: str(value).lower()}
    return names.get(type(value), repr(value)[:60])

"""What the columns of a table may hold, and whether that fits a model."""

from typing import Any, Literal

import msgspec

from rung.domain.errors import ConfigurationError
from rung.domain.tensors import DATATYPES, TensorSpec

__all__ = ["Column", "check_column", "check_input", "check_whole", "example_of"]


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the values of one column may be."""

    name: str
    type: Literal["number", "integer", "boolean", "text", "category"] = "number"
    min: float | None = None
    max: float | None = None
    categories: tuple[str | int, ...] = ()
    """All values of a `category`; in a matrix each is written as its place in this list, from 0."""
    nullable: bool = False
    """Whether null stands for a value that is not known: NaN among numbers, empty text among texts."""
    default: str | int | float | bool | None = None
    """Stands in for null and for a column that a row does not have."""
    mean: float | None = None
    """Taken from each number of a matrix before it is divided by `deviation`; both are frozen when they are fitted."""
    deviation: float | None = None
    one_hot: bool = False
    """Whether a category of a matrix takes a column for each value, 1 where it is that one."""
    unknown: Literal["refuse", "absent"] = "refuse"
    """What a new category is: an error, or a value that is not known (NaN; with `one_hot` all zeros)."""

    @property
    def width(self) -> int:
        """Columns that it takes in a matrix."""
        return len(self.categories) if self.one_hot else 1


def check_column(column: Column, output: str) -> None:
    """Raises `ConfigurationError` for a column that contradicts itself; `output` is `matrix` or `columns`."""
    where = f"the column {column.name!r} of tabular.columns"
    numeric = column.type in ("number", "integer")
    if not numeric and (column.min is not None or column.max is not None):
        raise ConfigurationError(f"{where} has a range, which a {column.type} has not")
    if (column.type == "category") != bool(column.categories):
        raise ConfigurationError(f"{where} must have categories if it is a category, and only then")
    if len(set(column.categories)) != len(column.categories) or len(set(map(type, column.categories))) > 1:
        raise ConfigurationError(f"{where} lists a category twice, or both texts and integers")
    if column.deviation is not None and not column.deviation > 0:
        raise ConfigurationError(f"{where} has a deviation of {column.deviation}; it must be above 0")
    scaled = column.mean is not None or column.deviation is not None
    if (scaled and not (numeric and output == "matrix")) or (column.one_hot and column.type != "category"):
        raise ConfigurationError(f"{where} is scaled or one-hot, which only numbers and categories of a matrix are")
    if (column.one_hot or column.unknown != "refuse") and output != "matrix":
        raise ConfigurationError(f"{where} is one-hot or knows absent categories, which only a matrix has")
    if column.type == "text" and output == "matrix":
        raise ConfigurationError(f"{where} is text, which a matrix of numbers cannot hold: use output columns")


def check_input(column: Column, spec: TensorSpec) -> None:
    """Raises `ConfigurationError` unless this input of the model takes what the column makes."""
    where = f"the column {column.name!r} is {column.type}, the model's input {spec.name!r} is {spec.datatype}"
    text = column.type == "text" or (column.type == "category" and isinstance(column.categories[0], str))
    if text != (spec.datatype == "BYTES") or spec.datatype == "BF16":
        raise ConfigurationError(where)
    if any(size not in (-1, 1) for size in spec.shape[1:]):
        raise ConfigurationError(f"{where} {list(spec.shape)}: one value per row belongs in it")
    if spec.datatype == "BOOL" and column.type != "boolean":
        raise ConfigurationError(where)
    if DATATYPES[spec.datatype].kind in "iub":
        check_whole(column, spec)


def check_whole(column: Column, spec: TensorSpec) -> None:
    """Raises `ConfigurationError` unless the column fits into a tensor of whole numbers."""
    where = f"the column {column.name!r} goes into the input {spec.name!r} of {spec.datatype}"
    if column.type == "number":
        raise ConfigurationError(f"{where}: declare it an integer")
    if column.nullable and column.default is None:
        raise ConfigurationError(f"{where}, which has no NaN for null: give a default")


def example_of(column: Column) -> Any:
    """A value that fits."""
    if column.default is not None:
        return column.default
    if column.type == "category":
        return column.categories[0]
    if column.type in ("number", "integer"):
        lowest = column.min if column.min is not None else min(0.0, column.max if column.max is not None else 0.0)
        return int(-(-lowest // 1)) if column.type == "integer" or lowest == int(lowest) else lowest
    return {"boolean": False, "text": "word"}[column.type]

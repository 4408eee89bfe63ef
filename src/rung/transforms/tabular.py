"""Rows with named columns to tensors.

Every value is checked before the model sees it. Columns are read one at a time, all rows together.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.domain.tensors import DATATYPES, Array, Signature, Tensors, TensorSpec
from rung.transforms.cells import cast, place, refused, shown
from rung.transforms.schema import Column, check_column, check_input, check_whole, example_of
from rung.transforms.steps import has_bulk

__all__ = ["Table", "columns"]

_TYPES: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "integer": (int, float),
    "boolean": (bool,),
    "text": (str,),
    "category": (str, int),
}
_SHOWN = 12


class Table:
    """The columns of a model, and how rows become arrays."""

    def __init__(self, columns: tuple[Column, ...], *, refuse_extra: bool = True, datatype: str = "") -> None:
        self._columns = columns
        self._datatype = datatype
        self._refuse_extra = refuse_extra
        self._names = frozenset(column.name for column in columns)
        self._width = sum(column.width for column in columns)

    @classmethod
    def of(
        cls, columns: Sequence[Mapping[str, Any]], output: str = "matrix", extra: str = "refuse", datatype: str = ""
    ) -> "Table":
        """Read the parameters of `tabular.columns`.

        Raises:
            ConfigurationError: one of them makes no sense; the message names it.
        """
        if output not in ("matrix", "columns") or extra not in ("refuse", "ignore"):
            raise ConfigurationError(
                "tabular.columns knows output matrix and columns, and extra refuse and ignore; "
                f"not {output!r} and {extra!r}"
            )
        if datatype not in ("", "FP32", "FP64") or (datatype and output != "matrix"):
            raise ConfigurationError(
                f"tabular.columns makes a matrix of datatype FP32, FP64, or the model's own, not {datatype!r}"
            )
        try:
            read = msgspec.convert(columns, tuple[Column, ...])
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"tabular.columns cannot read its columns: {error}") from None
        if not read or len({column.name for column in read}) != len(read):
            raise ConfigurationError("tabular.columns needs one column at least, and each name once")
        for column in read:
            check_column(column, output)
        table = cls(read, refuse_extra=extra == "refuse", datatype=datatype)
        for column in read:
            if column.default is not None:
                try:
                    table._array(column, [column.default], single=True)
                except InvalidInput as error:
                    raise ConfigurationError(f"tabular.columns has a default that does not fit: {error}") from None
        return table

    def matrix(self, rows: Any, dtype: np.dtype[Any] = DATATYPES["FP32"]) -> Array:
        """Turn rows into one matrix [rows, columns], in the order of the columns.

        `rows` is a list of objects, or an object with a list or an array for each column.

        Raises:
            InvalidInput: naming the row, the column and the reason.
        """
        if self._datatype and dtype.kind == "f" and dtype != DATATYPES[self._datatype]:
            # First as training saw it: a model may take FP64 and have learned from FP32.
            return self.matrix(rows, DATATYPES[self._datatype]).astype(dtype)
        read, count = self._read(rows)
        result = np.empty((count, self._width), dtype)
        index = 0
        for column in self._columns:
            array = self._array(column, read[column.name], single=count == 1, coded=True)
            if column.one_hot:
                result[:, index : index + column.width] = array[:, None] == np.arange(column.width)
            else:
                result[:, index] = cast(_scaled(column, array), dtype, column, single=count == 1)
            index += column.width
        return result

    def tensors(self, rows: Any, specs: Mapping[str, TensorSpec] | None = None) -> dict[str, Array]:
        """Turn rows into one tensor per column: [rows], or [rows, 1] where `specs` says so.

        Raises:
            InvalidInput: naming the row, the column and the reason.
        """
        read, count = self._read(rows)
        result = {}
        for column in self._columns:
            array = self._array(column, read[column.name], single=count == 1)
            spec = specs[column.name] if specs else None
            if spec is not None:
                array = cast(array, DATATYPES[spec.datatype], column, single=count == 1)
                array = array.reshape((count,) + (1,) * (len(spec.shape) - 1))
            result[column.name] = array
        return result

    def check_against(self, signature: Signature, output: str) -> None:
        """Raises `ConfigurationError` unless the model takes what these columns make."""
        specs = {spec.name: spec for spec in signature.inputs}
        if output == "columns":
            if specs.keys() != self._names:
                raise ConfigurationError(
                    f"the columns are {', '.join(sorted(self._names))}; "
                    f"the model's inputs are {', '.join(sorted(specs))}: with output columns they must be the same"
                )
            for column in self._columns:
                check_input(column, specs[column.name])
            return
        spec = signature.inputs[0]
        if len(specs) > 1 or len(spec.shape) != 2 or spec.datatype in ("BYTES", "BF16", "BOOL"):
            raise ConfigurationError(
                "tabular.columns makes one matrix of numbers, and the model takes "
                + ", ".join(f"{one.name} ({one.datatype} {list(one.shape)})" for one in signature.inputs)
                + ': use "output": "columns" for one tensor per column'
            )
        if spec.shape[1] not in (-1, self._width):
            raise ConfigurationError(
                f"tabular.columns has {self._width} columns, and the model's input {spec.name!r} takes {spec.shape[1]}"
            )
        names = tuple(column.name for column in self._columns)
        if spec.columns and self._width == len(names) and spec.columns != names:
            raise ConfigurationError(
                f"the model was trained on the columns {', '.join(spec.columns)}, and tabular.columns has "
                f"{', '.join(names)}: list the same ones in the same order"
            )
        if DATATYPES[spec.datatype].kind in "iu":
            for column in self._columns:
                check_whole(column, spec)

    def example(self) -> dict[str, Any]:
        """A row that fits."""
        return {column.name: example_of(column) for column in self._columns}

    def _read(self, rows: Any) -> tuple[dict[str, Any], int]:
        """Values by column, absent ones filled with defaults, and how many rows there are."""
        if isinstance(rows, Mapping) and any(isinstance(value, list | np.ndarray) for value in rows.values()):
            return self._read_columns(rows)
        rows = [rows] if isinstance(rows, Mapping) else rows
        if not set(map(type, rows)) <= {dict}:
            for position, row in enumerate(rows):
                if not isinstance(row, Mapping):
                    raise InvalidInput(f"{place(position, single=len(rows) == 1)}it is no object of columns")
        read = {}
        for column in self._columns:
            try:
                read[column.name] = [row[column.name] for row in rows]
            except KeyError:
                if column.default is None:
                    position = next(index for index, row in enumerate(rows) if column.name not in row)
                    raise refused(column.name, position, "it is missing", single=len(rows) == 1) from None
                read[column.name] = [row.get(column.name) for row in rows]
        if self._refuse_extra:
            for position, row in enumerate(rows):
                if len(row) > len(self._names) or not row.keys() <= self._names:
                    name = next(name for name in row if name not in self._names)
                    raise refused(name, position, self._unknown(), single=len(rows) == 1)
        return read, len(rows)

    def _read_columns(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        read: dict[str, Any] = {}
        for name, values in given.items():
            if name in self._names:
                if not isinstance(values, list | np.ndarray):
                    raise InvalidInput(f"column {name!r}: a list of values is expected", field=name)
                # Arrays of numbers stay arrays: training turns a million rows into numbers by the same code.
                numbers = isinstance(values, list) or values.dtype.kind in "iuf"
                read[name] = values if numbers else values.tolist()  # type: ignore[union-attr]
            elif self._refuse_extra:
                raise InvalidInput(f"column {name!r}: {self._unknown()}", field=name)
        count = max(map(len, read.values()), default=0)
        for column in self._columns:
            if column.name not in read:
                if column.default is None:
                    raise InvalidInput(f"column {column.name!r}: it is missing", field=column.name)
                read[column.name] = [None] * count
            if len(read[column.name]) != count:
                raise InvalidInput(
                    f"column {column.name!r}: it has {len(read[column.name])} values, another has {count}",
                    field=column.name,
                )
        return read, count

    def _unknown(self) -> str:
        return f"there is no such column; the model takes {', '.join(column.name for column in self._columns)}"

    def _array(self, column: Column, values: Any, *, single: bool, coded: bool = False) -> Array:
        """The values of one column, checked: float64, int64, bool, or bytes objects."""
        if isinstance(values, np.ndarray):
            if column.type in ("number", "integer"):
                return _bounded(column, _filled(column, values, single=single), single=single)
            values = values.tolist()
        values, absent = _fill(column, values, single=single)
        kinds = set(map(type, values))
        if not kinds <= {*_TYPES[column.type]}:
            for position, value in enumerate(values):
                if type(value) not in _TYPES[column.type] and position not in absent:
                    raise refused(column.name, position, f"{shown(value)} is no {column.type}", single=single) from None
        if column.type == "category":
            return _categories(column, values, absent, single=single, coded=coded)
        if column.type == "text":
            return _texts(column, values, single=single)
        if column.type == "boolean":
            return np.array(values, np.float64 if absent else np.bool_)
        return _numbers(column, values, kinds, absent, single=single)


def _fill(column: Column, values: list[Any], *, single: bool) -> tuple[list[Any], set[int]]:
    """Replace nulls by the default, or by what stands for an unknown value; say where the latter are."""
    # NaN is how tables without null write it; only NaN differs from itself.
    if None not in values and not (float in set(map(type, values)) and any(value != value for value in values)):
        return values, set()
    filled, absent = list(values), set()
    for position, value in enumerate(values):
        if value is None or value != value:
            if column.default is not None:
                filled[position] = column.default
            elif column.nullable:
                filled[position] = "" if column.type == "text" else float("nan")
                absent.add(position)
            else:
                raise refused(column.name, position, "null is not allowed", single=single)
    return filled, absent


def _categories(column: Column, values: list[Any], absent: set[int], *, single: bool, coded: bool) -> Array:
    places: dict[Any, int] = {category: place for place, category in enumerate(column.categories)}
    codes = [places.get(value, -1) for value in values]
    if column.unknown == "absent":
        absent = absent | {position for position, code in enumerate(codes) if code < 0}
    if -1 in codes and not {position for position, code in enumerate(codes) if code < 0} <= absent:
        position = next(index for index, code in enumerate(codes) if code < 0 and index not in absent)
        known = ", ".join(map(str, column.categories[:_SHOWN])) + (", ..." if len(column.categories) > _SHOWN else "")
        raise refused(
            column.name, position, f"{shown(values[position])} is a new category; there are {known}", single=single
        )
    if coded:
        result = np.array(codes, np.float64)
        result[list(absent)] = np.nan
        return result
    if isinstance(column.categories[0], int):
        return np.array(values, np.float64 if absent else np.int64)
    return _texts(column, ["" if position in absent else value for position, value in enumerate(values)], single=single)


def _texts(column: Column, values: list[str], *, single: bool) -> Array:
    result = np.empty(len(values), object)
    for position, value in enumerate(values):
        try:
            result[position] = value.encode()
        except UnicodeEncodeError:
            raise refused(column.name, position, "it holds half of a surrogate pair", single=single) from None
    return result


def _filled(column: Column, values: Array, *, single: bool) -> Array:
    """An array of numbers as float64 or int64, with NaN replaced by the default."""
    if values.dtype.kind in "iu":
        return values.astype(np.int64 if column.type == "integer" else np.float64)
    absent = np.isnan(values)
    array = values.astype(np.float64)
    if absent.any():
        if column.default is not None:
            array[absent] = column.default
        elif not column.nullable:
            raise refused(column.name, int(absent.argmax()), "null is not allowed", single=single)
    return array


def _scaled(column: Column, array: Array) -> Array:
    if column.mean is not None:
        array = array - column.mean
    return array if column.deviation is None else array / column.deviation


def _numbers(column: Column, values: list[Any], kinds: set[type], absent: set[int], *, single: bool) -> Array:
    exact = column.type == "integer" and kinds == {int}
    try:
        array: Array = np.array(values, np.int64 if exact else np.float64)
    except OverflowError:
        limit = 2**63 if exact else 10**308
        position = next(index for index, value in enumerate(values) if abs(value) >= limit)
        raise refused(column.name, position, "the number is too large", single=single) from None
    return _bounded(column, array, single=single)


def _number(value: Any) -> int | float:
    """A number as whoever sent it probably wrote it."""
    plain: int | float = value.item()
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain


def _bounded(column: Column, array: Array, *, single: bool) -> Array:
    for bound, beyond, words in (
        (column.min, np.less, "is under the minimum"),
        (column.max, np.greater, "is over the maximum"),
    ):
        if bound is not None and (wrong := beyond(array, bound)).any():
            position = int(wrong.argmax())
            raise refused(column.name, position, f"{_number(array[position])} {words} {bound:g}", single=single)
    if column.type == "integer" and array.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            wrong = (array != np.floor(array)) & ~np.isnan(array)
        if wrong.any():
            position = int(wrong.argmax())
            raise refused(column.name, position, f"{array[position].item()} is no integer", single=single)
    if column.type == "number" and np.isinf(array).any():
        raise refused(column.name, int(np.isinf(array).argmax()), "infinity is not allowed", single=single)
    return array


def _bulk_columns(
    signature: Signature,
    labels: tuple[str, ...],
    *,
    columns: Sequence[Mapping[str, Any]],
    output: str = "matrix",
    extra: str = "refuse",
    datatype: str = "",
) -> Callable[[Any], Tensors]:
    table = Table.of(columns, output, extra, datatype)
    table.check_against(signature, output)
    if output == "columns":
        specs = {spec.name: spec for spec in signature.inputs}
        return lambda rows: table.tensors(rows, specs)
    spec = signature.inputs[0]
    return lambda rows: {spec.name: table.matrix(rows, DATATYPES[spec.datatype])}


def _example_row(
    *, columns: Sequence[Mapping[str, Any]], output: str = "matrix", extra: str = "refuse", datatype: str = ""
) -> Any:
    return Table.of(columns, output, extra, datatype).example()


@has_bulk(_bulk_columns, _example_row)
def columns(
    value: Any,
    context: dict[str, Any],
    *,
    columns: Sequence[Mapping[str, Any]],
    output: str = "matrix",
    extra: str = "refuse",
    datatype: str = "",
) -> Any:
    """Turn a row, an object with a field for each column, into what a model of tables takes.

    A value of the wrong type, outside its range or of a new category is refused, and so are a column that is missing
    and one that nobody knows. The message names the row, the column and the reason.

    Args:
        value: one row.
        context: not used.
        columns: in the model's order. Each has a `name`; a `type` of `number` (the default), `integer`, `boolean`,
            `category` and, with output columns, `text`; if wanted `min`, `max`, `categories` (texts or integers),
            `nullable` (null becomes NaN, or empty text) and `default` (stands in for null and for an absent column);
            in a matrix also `mean` and `deviation` (a number is scaled by them), `one_hot` (a category takes a column
            for each value) and `unknown` (`refuse` a new category, or take it as `absent`). `rung.transforms.fitting`
            finds all of them in data.
        output: `matrix` for one tensor of numbers in the order of the columns, in which a category is its place in
            `categories` and a boolean 0 or 1; `columns` for a tensor of its own for each, under its name.
        extra: whether to `refuse` or `ignore` columns that are not listed.
        datatype: `FP32` or `FP64` where training saw a matrix of that type: numbers are rounded to it before they
            become the model's own type. Empty: straight to the model's type.

    Raises:
        InvalidInput: the row does not fit; `field` is the column.
        ConfigurationError: the columns contradict themselves or the model.
    """
    table = Table.of(columns, output, extra, datatype)
    if output == "columns":
        return {name: array[0] for name, array in table.tensors([value]).items()}
    return table.matrix([value])[0]

"""The files of a lookup table, read into a key column and value columns; nothing wrong is read over.

CSV needs the standard library only. Parquet and Arrow are read by polars (extra `table`), imported late.
"""

import csv
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rung.domain.errors import BundleError, MissingDependency
from rung.domain.tensors import DATATYPES, Array

__all__ = ["SUFFIXES", "Table", "read_table"]

SUFFIXES = frozenset({".csv", ".parquet", ".arrow", ".feather"})
_KEY = "key"
"""Name of the key column, and of the entry of a Parquet file's metadata that names another one."""
_PIECE = 4096
_LARGEST = 2**63 - 1
_BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


class Table(msgspec.Struct, frozen=True):
    """A table of at least one row and one value column, without gaps and without a number that is none."""

    keys: Array
    """INT64, or object array of `bytes`; `[rows]`. May hold a key twice."""
    columns: dict[str, Array]
    """Name -> `[rows]`, or `[rows, d]` for a column of lists; a dtype of the protocol."""
    first_row: int
    """What the first row is called in messages: its line in a CSV, else 1."""


def read_table(path: Path) -> Table:
    """Read a file by its suffix.

    Raises:
        BundleError: it is empty, damaged, ragged, has gaps or columns of types that cannot be served; the
            message names line (or row) and column.
        MissingDependency: polars is needed and not installed.
    """
    try:
        table = _read_csv(path) if path.suffix == ".csv" else _read_arrow(path)
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {error.strerror or error}") from None
    for name, column in table.columns.items():
        if column.dtype.kind == "f" and not np.isfinite(column).all():
            bad = int(np.argwhere(~np.isfinite(column))[0][0])
            raise BundleError(
                f"{path.name}, {_place(path, bad, table.first_row)}, column {name!r} is NaN or infinite: "
                "give every row a number"
            )
    return table


def _place(path: Path, row: int, first: int) -> str:
    return f"{'line' if path.suffix == '.csv' else 'row'} {row + first}"


def _refuse_head(path: Path, names: list[str]) -> None:
    for position, name in enumerate(names, start=1):
        if not name.strip():
            raise BundleError(f"{path.name}: column {position} has no name; the first line names the columns")
        if name in names[: position - 1]:
            raise BundleError(f"{path.name} has two columns called {name!r}")
    if len(names) < 2:
        raise BundleError(
            f"{path.name} has the columns {names}: a lookup table needs a key column and at least one column of values"
        )


# --- CSV ----------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Table:
    line = 1
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            names = next(reader, [])
            if not names:
                raise BundleError(f"{path.name} is empty: the first line of a lookup table names its columns")
            _refuse_head(path, names)
            columns: list[list[str]] = [[] for _ in names]
            # In pieces: a million rows at once cost three times as much, most of it in the garbage collector.
            while piece := list(islice(reader, _PIECE)):
                _refuse_ragged(path, piece, len(names), line + 1)
                for column, cells in zip(columns, zip(*piece, strict=True), strict=True):
                    column.extend(cells)
                line += len(piece)
    except UnicodeDecodeError as error:
        raise BundleError(f"{path.name} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except csv.Error as error:
        raise BundleError(f"{path.name}, line {reader.line_num} cannot be read as CSV: {error}") from None
    if not columns[0]:
        raise BundleError(f"{path.name} has column names but no rows")
    cells_of = dict(zip(names, columns, strict=True))
    name = _KEY if _KEY in cells_of else names[0]
    keys = _csv_keys(path, name, cells_of.pop(name))
    return Table(keys, {name: _csv_column(path, name, cells) for name, cells in cells_of.items()}, first_row=2)


def _refuse_ragged(path: Path, rows: list[list[str]], width: int, first: int) -> None:
    for line, row in enumerate(rows, start=first):
        if len(row) != width:
            raise BundleError(f"{path.name}, line {line} has {len(row)} cells, the first line names {width}")


def _csv_keys(path: Path, name: str, cells: list[str]) -> Array:
    if "" in cells:
        raise BundleError(f"{path.name}, line {cells.index('') + 2}, column {name!r} is empty: every row needs a key")
    numbers = _numbers(cells, int)
    # 007 is a name: as a number it would be found under 7 and not under 007.
    if numbers is not None and list(map(str, numbers.tolist())) == cells:
        return numbers
    return _objects([cell.encode() for cell in cells])


def _csv_column(path: Path, name: str, cells: list[str]) -> Array:
    """By what most cells are: a stray word among numbers is a mistake, not a reason to make all of them text."""
    head = cells[:100]
    kinds: tuple[tuple[Callable[[str], Any], Callable[[list[str]], Array | None], str], ...] = (
        (_BOOLS.get, _truths, "true or false"),
        (_number, _whole_or_real, "a number"),
    )
    for parse, parse_all, kind in kinds:
        # The first hundred rows say what the column is.
        if 2 * sum(parse(cell) is not None for cell in head) <= len(head):
            continue
        column = parse_all(cells)
        if column is not None:
            return column
        line, cell = next((line, cell) for line, cell in enumerate(cells, start=2) if parse(cell) is None)
        said = f"holds {cell!r:.60}" if cell else "is empty"
        raise BundleError(f"{path.name}, line {line}, column {name!r} {said}, where the others hold {kind}")
    return _objects([cell.encode() for cell in cells])


def _whole_or_real(cells: list[str]) -> Array | None:
    whole = _numbers(cells, int)
    return _numbers(cells, float) if whole is None else whole


def _truths(cells: list[str]) -> Array | None:
    values = [_BOOLS.get(cell) for cell in cells]
    return None if None in values else np.array(values, np.bool_)


def _numbers(cells: list[str], kind: type[int] | type[float]) -> Array | None:
    """All as INT64 or FP64, or None. Python itself would also read 1_000 and the digits of other scripts."""
    text = "".join(cells)
    if "_" in text or not text.isascii():
        return None
    try:
        return np.array(list(map(kind, cells)), "<i8" if kind is int else "<f8")
    except (ValueError, OverflowError):
        return None


def _number(cell: str) -> float | None:
    try:
        return float(cell) if cell.isascii() and "_" not in cell else None
    except ValueError:
        return None


def _objects(values: list[bytes]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array


# --- Parquet and Arrow --------------------------------------------------------------------------


def _read_arrow(path: Path) -> Table:
    try:
        import polars as pl
        from polars.exceptions import PanicException
    except ImportError:
        raise MissingDependency(f'{path.name} needs polars: pip install "rung[table]"') from None
    named = ""
    try:
        if path.suffix == ".parquet":
            named = pl.read_parquet_metadata(path).get(_KEY, "")
            frame = pl.read_parquet(path, glob=False, hive_partitioning=False)
        else:
            frame = pl.read_ipc(path)
    except (Exception, PanicException) as error:  # noqa: BLE001 - polars' own, many and panics among them
        raise BundleError(f"{path.name} cannot be read: {str(error).splitlines()[0]:.200}") from None
    _refuse_head(path, frame.columns)
    if not frame.height:
        raise BundleError(f"{path.name} has columns but no rows")
    if named and named not in frame.columns:
        raise BundleError(f"{path.name}: its metadata names the key column {named!r}, which it does not have")
    for series in frame:
        if series.null_count():
            row = series.is_null().arg_true()[0] + 1
            raise BundleError(f"{path.name}, row {row}, column {series.name!r} has no value: fill every gap")
    name = named or (_KEY if _KEY in frame.columns else frame.columns[0])
    keys = _arrow_column(path, frame[name])
    if keys.ndim != 1 or keys.dtype.kind not in "iuO":
        raise BundleError(f"{path.name}: the key column {name!r} is {frame[name].dtype}; use text or whole numbers")
    if keys.dtype.kind != "O":
        if keys.dtype.kind == "u" and keys.max() > _LARGEST:
            raise BundleError(f"{path.name}: the key column {name!r} holds {keys.max()}, which is no INT64: use text")
        keys = keys.astype(np.int64)
    columns = {series.name: _arrow_column(path, series) for series in frame if series.name != name}
    return Table(keys, columns, first_row=1)


def _arrow_column(path: Path, series: Any) -> Array:
    import polars as pl

    kind = series.dtype
    if kind.base_type() in {pl.Categorical, pl.Enum}:
        series, kind = series.cast(pl.String), pl.String()
    if kind == pl.String:
        return _objects(series.cast(pl.Binary).to_list())
    if kind == pl.Binary:
        return _objects(series.to_list())
    if kind.base_type() in {pl.List, pl.Array}:
        return _lists(path, series)
    if kind == pl.Boolean or kind.is_integer() or kind.is_float():
        array = np.asarray(series.to_numpy())
        if array.dtype.kind in "?biuf" and array.dtype in DATATYPES.values():
            return np.ascontiguousarray(array)
    raise BundleError(
        f"{path.name}: column {series.name!r} is {kind}, which no tensor can hold: cast it to text or to a number"
    )


def _lists(path: Path, series: Any) -> Array:
    """`[rows, d]`: floats as FP32, as vectors are, whole numbers as INT64."""
    import polars as pl

    if not isinstance(series.dtype, pl.Array):
        lengths = series.list.len().to_numpy()
        if (lengths != lengths[0]).any():
            row = int(np.argmax(lengths != lengths[0]))
            raise BundleError(
                f"{path.name}, row {row + 1}, column {series.name!r} holds {lengths[row]} numbers, "
                f"the first row {lengths[0]}"
            )
    flat = series.explode(empty_as_null=False)
    inner = flat.dtype
    if not (inner.is_float() or inner.is_integer()) or flat.len() % series.len() or not flat.len():
        raise BundleError(f"{path.name}: column {series.name!r} is {series.dtype}; a list holds one or more numbers")
    if flat.null_count():
        row = flat.is_null().arg_true()[0] * series.len() // flat.len() + 1
        raise BundleError(f"{path.name}, row {row}, column {series.name!r} has a list with a gap: fill it")
    numbers = flat.to_numpy().astype("<f4" if inner.is_float() else "<i8")
    return np.ascontiguousarray(numbers.reshape(series.len(), flat.len() // series.len()))

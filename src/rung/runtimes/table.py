"""Lookup tables: a key goes in, the row that belongs to it comes out. Served and released like any model."""

from itertools import repeat
from pathlib import Path

import numpy as np

from rung.domain.errors import BundleError, ModelError
from rung.domain.tensors import Array, Signature, Tensors, TensorSpec, datatype_of
from rung.ports import LoadOptions
from rung.runtimes.table_files import SUFFIXES, Table, read_table

__all__ = ["TableModel", "TableRuntime"]

_INPUT, _FOUND, _VECTOR = "key", "found", "vector"
_MAGIC = {".parquet": b"PAR1", ".arrow": b"ARROW1", ".feather": b"ARROW1"}


class TableModel:
    """A table in memory: `key` BYTES or INT64 [-1] -> its columns, and `found` BOOL [-1].

    A key that is not in the table is no error, for it is one row of a batch: `found` is false there and
    its values are zero, false or empty.
    """

    platform = "table"
    lanes = 1
    inline = True

    def __init__(self, signature: Signature, keys: "Array | dict[bytes, int]", columns: dict[str, Array]) -> None:
        self.signature = signature
        self._keys: Array | dict[bytes, int] | None = keys
        """Sorted INT64, whose positions are the rows; or text -> row."""
        self._columns = columns

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        """Find the rows. Raises `ModelError` once the model is closed."""
        wanted, keys = inputs[_INPUT], self._keys
        if keys is None:
            raise ModelError("the model was closed")
        if isinstance(keys, dict):
            rows = np.fromiter(map(keys.get, wanted.tolist(), repeat(-1)), np.int64, len(wanted))
            found = rows >= 0
        else:
            rows = np.minimum(keys.searchsorted(wanted), len(keys) - 1)
            found = keys[rows] == wanted
        outputs = {name: column.take(rows, axis=0) for name, column in self._columns.items()}
        if not found.all():
            for array in outputs.values():
                array[~found] = b"" if array.dtype.kind == "O" else 0
        outputs[_FOUND] = found
        return outputs

    def close(self) -> None:
        """Drop the table."""
        self._keys = None
        self._columns = {}


class TableRuntime:
    """Loads lookup tables: `.parquet`, `.arrow` and `.feather` (Arrow IPC), and `.csv`."""

    name = "table"

    def recognises(self, path: Path) -> bool:
        """By the suffix, and the first bytes where the format has such."""
        if path.suffix not in SUFFIXES or not path.is_file():
            return False
        magic = _MAGIC.get(path.suffix, b"")
        with path.open("rb") as file:
            return file.read(len(magic)) == magic

    def load(self, artifact: Path | str, options: LoadOptions) -> TableModel:
        """Read the whole table, and index it by its keys.

        Raises:
            BundleError: it cannot be read, has gaps, a key twice or a column called `found`; with line and column.
            MissingDependency: it is Parquet or Arrow, and polars is not installed.
        """
        path = Path(artifact)
        if path.suffix not in SUFFIXES or not path.is_file():
            raise BundleError(f"{path.name} is no lookup table: give a file that ends in {', '.join(sorted(SUFFIXES))}")
        table = read_table(path)
        if _FOUND in table.columns:
            raise BundleError(
                f"{path.name} has a column called {_FOUND!r}, which is the output that says whether a key is in the "
                "table: give the column another name"
            )
        return _index(path, table)


def _index(path: Path, table: Table) -> TableModel:
    columns, names = _outputs(table)
    outputs = (*(_spec(name, column, names) for name, column in columns.items()), TensorSpec(_FOUND, "BOOL", (-1,)))
    signature = Signature((_key_spec(table.keys),), outputs)
    if table.keys.dtype.kind == "O":
        index = dict(zip(table.keys.tolist(), range(len(table.keys)), strict=True))
        if len(index) < len(table.keys):
            _refuse_duplicate(path, table)
        return TableModel(signature, index, columns)
    order = np.argsort(table.keys, kind="stable")
    keys = table.keys[order]
    if (keys[1:] == keys[:-1]).any():
        _refuse_duplicate(path, table)
    if (order[1:] < order[:-1]).any():
        columns = {name: column[order] for name, column in columns.items()}
    return TableModel(signature, keys, columns)


def _outputs(table: Table) -> tuple[dict[str, Array], tuple[str, ...]]:
    """The columns that go out, and the names of those that were joined into one vector."""
    columns = table.columns
    if len(columns) > 1 and all(column.dtype.kind == "f" and column.ndim == 1 for column in columns.values()):
        return {_VECTOR: np.stack(list(columns.values()), axis=1).astype("<f4")}, tuple(columns)
    return columns, ()


def _spec(name: str, column: Array, names: tuple[str, ...]) -> TensorSpec:
    return TensorSpec(name, datatype_of(column), (-1, *column.shape[1:]), columns=names)


def _key_spec(keys: Array) -> TensorSpec:
    """With a key of the table as its sample, so that examples made from the signature find something."""
    first = keys[0]
    if not isinstance(first, bytes):
        return TensorSpec(_INPUT, "INT64", (-1,), sample=int(first))
    try:
        return TensorSpec(_INPUT, "BYTES", (-1,), sample=first.decode())
    except UnicodeDecodeError:
        return TensorSpec(_INPUT, "BYTES", (-1,))


def _refuse_duplicate(path: Path, table: Table) -> None:
    seen: dict[object, int] = {}
    for row, key in enumerate(table.keys.tolist(), start=table.first_row):
        if key in seen:
            unit = "lines" if path.suffix == ".csv" else "rows"
            shown = repr(key.decode(errors="replace")) if isinstance(key, bytes) else key
            raise BundleError(
                f"{path.name}: the key {shown} is in {unit} {seen[key]} and {row}: a key may be there once"
            )
        seen[key] = row

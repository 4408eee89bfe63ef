"""What a map-reduce does: the user's functions, and the chunks that its source is read in.

The chunks depend on the source alone, never on how many processes there are.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import orjson

from rung.data.sources import Address, open_source, without_password
from rung.data.sources.function import function_of
from rung.domain.datasets import Piece, Quarantined
from rung.domain.errors import ConfigurationError, InvalidData

__all__ = ["Chunk", "Functions", "Plan", "chunks_of", "fingerprint", "functions", "rows_of"]

_FILES = frozenset({"csv", "tsv", "parquet", "arrow", "jsonl"})
_ROWS, _BYTES = 500_000, 64 << 20
"""Of one chunk of a file that can be read in the middle."""
_STEP, _SHOWN = 50_000, 200


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One map-reduce."""

    module: str
    """Module of the project with `map`, `reduce` and perhaps `combine`."""
    source: str
    """URL of the rows, as `data.source` of a model is."""
    out: str
    """A file (`.csv`, `.jsonl`, `.parquet`) or a table of a database."""
    key: tuple[str, ...] = ()
    """Columns of the result by which rows of a table are found."""
    parts: int = 8
    """Into how many parts keys are divided, each reduced by itself."""
    folder: str = ""
    """That relative paths begin at."""


class Chunk(msgspec.Struct, frozen=True):
    """Rows that are mapped together."""

    url: str
    """A source of one file, or the whole source where it has none."""
    start: int = 0
    """First row of a Parquet file, or first byte of one of JSON lines."""
    stop: int = -1
    """Row or byte behind the last; -1: to the end."""


class Functions(msgspec.Struct, frozen=True):
    """The user's own code."""

    map: Callable[[dict[str, Any]], Iterable[tuple[Any, Any]] | None]
    """A row -> no, one or many pairs of key and value, all of plain JSON values."""
    reduce: Callable[[Any, Iterator[Any]], Any]
    """A key and all its values -> a row (dict), several, or None."""
    combine: Callable[[Any, list[Any]], Any] | None = None
    """A key and some of its values -> one value that stands for them; must not mind the order of calls."""


def functions(module: str, folder: Path) -> Functions:
    """Find them in a module of the project. Raises `ConfigurationError` where there is no such module or function."""
    found = {name: function_of(f"{module}:{name}", folder, "map-reduce") for name in ("map", "reduce")}
    try:
        combine: Callable[[Any, list[Any]], Any] | None = function_of(f"{module}:combine", folder, "map-reduce")
    except ConfigurationError:
        combine = None
    return Functions(found["map"], found["reduce"], combine)


def chunks_of(plan: Plan) -> list[Chunk]:
    """The source, divided: by file, and within files that can be read in the middle.

    Raises:
        ConfigurationError: the URL makes no sense, or nothing is there.
    """
    folder = Path(plan.folder)
    address = Address(plan.source, folder)
    if address.scheme not in _FILES:
        open_source(plan.source, folder)
        return [Chunk(plan.source)]
    options = f"?{urlencode(address.options)}" if address.options else ""
    made = []
    for path in address.files():
        url = f"{address.scheme}:{os.path.relpath(path, folder)}{options}"
        made += [Chunk(url, start, stop) for start, stop in _ranges(address.scheme, path)]
    return made


def _ranges(scheme: str, path: Path) -> list[tuple[int, int]]:
    if scheme == "jsonl":
        return _cut(path.stat().st_size, _BYTES)
    if scheme in ("parquet", "arrow"):
        import polars as pl

        table = pl.scan_parquet(path) if scheme == "parquet" else pl.scan_ipc(path)
        return _cut(int(table.select(pl.len()).collect().item()), _ROWS)
    return [(0, -1)]


def _cut(size: int, most: int) -> list[tuple[int, int]]:
    return [(start, min(start + most, size)) for start in range(0, size, most)]


def rows_of(chunk: Chunk, folder: Path, refused: list[Quarantined]) -> Iterator[tuple[dict[str, Any], int]]:
    """The rows of a chunk, each with where it stands in its file: as an editor counts, or its first byte in a later
    range of JSON lines. Those that cannot be read are added to `refused`.

    Raises:
        InvalidData: the file cannot be read.
    """
    address = Address(chunk.url, folder)
    path = folder / address.rest
    if chunk.stop >= 0 and address.scheme == "jsonl":
        try:
            # As they came: what is nested need not fit a column.
            yield from _lines(path, chunk, refused)
        except OSError as error:
            raise InvalidData(f"{path} cannot be read: {error.strerror or error}") from None
        return
    arrow = address.scheme == "arrow"
    found = open_source(chunk.url, folder).read("") if chunk.stop < 0 else _slices(path, chunk, arrow=arrow)
    place = max(chunk.start, 0)
    for piece in found:
        refused += piece.refused
        numbers = piece.numbers or range(place + 1, place + 1 + piece.frame.height)
        place += piece.frame.height
        yield from zip(piece.frame.iter_rows(named=True), numbers, strict=True)


def _lines(path: Path, chunk: Chunk, refused: list[Quarantined]) -> Iterator[tuple[dict[str, Any], int]]:
    with path.open("rb") as file:
        at = chunk.start
        if at:
            # Whoever has the byte before the range has the line that it is of.
            file.seek(at - 1)
            at += len(file.readline()) - 1
        number = 0
        while at < chunk.stop and (line := file.readline()):
            number += 1
            place = at if chunk.start else number
            at += len(line)
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                row = f"no JSON: {error}"
            if isinstance(row, dict):
                yield row, place
            else:
                reason = row if isinstance(row, str) and row.startswith("no JSON") else "no object"
                refused.append(Quarantined(str(path), place, reason, line[:_SHOWN].decode(errors="replace").rstrip()))


def _slices(path: Path, chunk: Chunk, *, arrow: bool) -> Iterator[Piece]:
    import polars as pl

    try:
        table = pl.scan_ipc(path) if arrow else pl.scan_parquet(path)
        for start in range(chunk.start, chunk.stop, _STEP):
            yield Piece(table.slice(start, min(_STEP, chunk.stop - start)).collect())
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InvalidData(f"{path} cannot be read: {error}") from None


def fingerprint(plan: Plan, chunks: list[Chunk]) -> str:
    """Changes when the plan, the functions or the files do."""
    folder = Path(plan.folder)
    found = hashlib.sha256(msgspec.json.encode(plan))
    code = folder / f"{plan.module.replace('.', '/')}.py"
    if code.is_file():
        found.update(code.read_bytes())
    for chunk in chunks:
        found.update(f"{without_password(chunk.url)} {chunk.start} {chunk.stop}".encode())
        address = Address(chunk.url, folder)
        if address.scheme in _FILES:
            status = (folder / address.rest).stat()
            found.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return found.hexdigest()

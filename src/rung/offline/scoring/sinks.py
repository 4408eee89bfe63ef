"""Where results go: one file, a folder of parts or of pictures, or a table of a database (`tables`).

A sink makes what it is given durable, and says in a mark what it has then; the journal makes that count. On going on it
takes back whatever lies beyond the mark. Nobody sees a file before it is whole.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from rung.domain.errors import InvalidData, StorageFull
from rung.offline.scoring.reading import ROW
from rung.offline.scoring.results import CONTENT
from rung.store.folders import sync_folder

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Appended",
    "Parts",
    "Pictures",
    "Sink",
    "appended",
    "draft_of",
    "place_of",
    "replace",
    "synced",
]


class Sink(Protocol):
    """Takes the results of a run, in order.

    Guarantees:
        1. What `write` returned from is durable; its mark says what there is then.
        2. `begin` with the mark of a commit leaves exactly what had been written up to it.
        3. After `finish` the result is there as a whole; calling it again, in another process too, does no harm.
    """

    def begin(self, mark: Any) -> None:
        """Go on after this mark; None: from the beginning."""
        ...

    def write(self, number: int, rows: "pl.DataFrame") -> Any:
        """Write the rows of the commit of this number, from 1, and return the mark."""
        ...

    def finish(self) -> None:
        """All rows have been written: show the result."""
        ...

    def close(self) -> None:
        """Give connections back, whether it is finished or not; twice is no error."""
        ...


class Appended:
    """One file of text that grows: CSV, or JSON lines."""

    def __init__(self, target: Path, folder: Path, encode: "Callable[[pl.DataFrame, bool], bytes]") -> None:
        self._target, self._draft = target, folder / "rows"
        self._encode = encode

    def begin(self, mark: Any) -> None:
        """Cut off what was not committed."""
        with _room(self._draft), self._draft.open("ab") as file:
            file.truncate(mark or 0)
            os.fsync(file.fileno())
        sync_folder(self._draft.parent)

    def write(self, number: int, rows: "pl.DataFrame") -> Any:
        """Append the rows; the mark is the length of the file."""
        with _room(self._draft), self._draft.open("ab") as file:
            file.write(self._encode(rows, file.tell() == 0))
            file.flush()
            os.fsync(file.fileno())
            return file.tell()

    def finish(self) -> None:
        """Give the file its name."""
        if self._draft.exists():
            replace(self._draft, self._target)

    def close(self) -> None:
        """There is nothing to give back."""


def appended(suffix: str) -> "Callable[[pl.DataFrame, bool], bytes] | None":
    """How rows become bytes of a file that grows; None for files that do not. The flag: whether they are the first."""
    if suffix in (".csv", ".tsv"):
        separator = "," if suffix == ".csv" else "\t"
        return lambda rows, first: _flat(rows).write_csv(include_header=first, separator=separator).encode()
    if suffix in (".jsonl", ".ndjson"):
        return lambda rows, _: rows.write_ndjson().encode()
    return None


def _flat(rows: "pl.DataFrame") -> "pl.DataFrame":
    """Lists as JSON text: CSV has no lists."""
    import orjson
    import polars as pl

    lists = [column.name for column in rows if isinstance(column.dtype, pl.List)]
    made = {name: pl.Series([orjson.dumps(one).decode() for one in rows[name].to_list()]) for name in lists}
    return rows.with_columns(**made)


class Parts:
    """Parquet: a numbered part for each commit. They become one file at the end, or stay as they are."""

    def __init__(self, target: Path, folder: Path, *, one_file: bool) -> None:
        self._target, self._one_file = target, one_file
        self._parts = folder if one_file else target

    def begin(self, mark: Any) -> None:
        """Remove parts that were not committed."""
        self._parts.mkdir(parents=True, exist_ok=True)
        for path in [*self._parts.glob("part-*.parquet"), *self._parts.glob(".part-*")]:
            if path.name.startswith(".") or int(path.stem.removeprefix("part-")) > (mark or 0):
                path.unlink()
        sync_folder(self._parts)

    def write(self, number: int, rows: "pl.DataFrame") -> Any:
        """Write the part of this number, which is the mark."""
        path = self._parts / f"part-{number:06d}.parquet"
        with _room(path):
            draft = draft_of(path)
            rows.write_parquet(draft, statistics=False)
            synced(draft)
            replace(draft, path)
        return number

    def finish(self) -> None:
        """Put the parts together, a few rows at a time."""
        import polars as pl

        parts = sorted(self._parts.glob("part-*.parquet"))
        if not self._one_file or not parts:
            return
        draft = self._parts / "whole.parquet"
        with _room(draft):
            pl.scan_parquet(parts).sink_parquet(draft, maintain_order=True)
            synced(draft)
            replace(draft, self._target)

    def close(self) -> None:
        """There is nothing to give back."""


class Pictures:
    """A folder with a file for each row, called as the source's file is."""

    def __init__(self, target: Path, suffix: str) -> None:
        self._target, self._suffix = target, suffix

    def begin(self, mark: Any) -> None:
        """Files that were not committed are written anew: a file is whole or not there, so they do no harm."""
        self._target.mkdir(parents=True, exist_ok=True)

    def write(self, number: int, rows: "pl.DataFrame") -> Any:
        """Write these files."""
        folders = set()
        paths = rows["path"] if "path" in rows.columns else [str(one) for one in rows[ROW]]
        for name, content in zip(paths, rows[CONTENT], strict=True):
            path = self._target / place_of(name, self._suffix)
            folders.add(path.parent)
            with _room(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = draft_of(path)
                draft.write_bytes(content)
                synced(draft)
                draft.replace(path)
        for folder in folders:
            sync_folder(folder)
        return number

    def finish(self) -> None:
        """They are there."""

    def close(self) -> None:
        """There is nothing to give back."""


def place_of(name: str, suffix: str) -> PurePosixPath:
    """Where the answer to the file `name` goes, relative to the folder of answers.

    Another kind of picture keeps its suffix before ours, so that `a.png` and `a.jpg` are not answered in one file.

    Raises:
        InvalidData: the name leads elsewhere.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise InvalidData(f"{name!r} is no place within a folder of answers")
    return path if path.suffix.lower() == suffix else path.with_name(path.name + suffix)


def draft_of(path: Path) -> Path:
    """What a file is called until it is whole."""
    return path.with_name(f".{path.name}.draft")


def replace(draft: Path, path: Path) -> None:
    """Give a whole file its name, for good."""
    draft.replace(path)
    sync_folder(path.parent)


def synced(path: Path) -> None:
    """Bring a file to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _room(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFull(f"{path} cannot be written: {error.strerror or error}; then go on with --resume") from None

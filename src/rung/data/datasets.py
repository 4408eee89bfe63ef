"""Dataset versions: rows taken in once, kept as Parquet parts found by their sha256, never changed.

    datasets/NAME/parts/3f2a....parquet          rows
    datasets/NAME/versions/000000000003.json     the third version: columns, parts, where the source has been read to
    datasets/NAME/refused/DIGEST.json            rows that were refused on the way to a version

A version counts when its file is there; files are created and never replaced. Whoever takes in rows writes parts
first, so that a process that is killed leaves parts that nobody names and the versions as they were.
"""

import hashlib
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rung.data.sources import open_source, without_password
from rung.data.spool import Spool, column_kinds
from rung.domain.datasets import DatasetVersion, Kind, Part, Piece, Quarantined
from rung.domain.errors import Conflict, InvalidData, NotFound
from rung.domain.names import check_name
from rung.ports import BlobStore, RowSource
from rung.settings.project import DataSection

if TYPE_CHECKING:
    import polars as pl

__all__ = ["divided", "frame", "ingest", "keep", "latest", "load", "quarantined", "read", "scan", "versions"]

_ROWS = 100_000
"""Rows of a part, at most."""
_BYTES = 64 << 20
"""Bytes of a part, about."""
_KEPT_REFUSED = 1000


def ingest(
    store: BlobStore,
    name: str,
    section: DataSection,
    folder: Path,
    *,
    keep_going: Callable[[], bool] = lambda: True,
) -> DatasetVersion:
    """Take in what the source has beyond the last version; the same version again where that is nothing.

    A source that cannot go on from a cursor is read whole: equal content is an equal digest, and no new version.

    Raises:
        InvalidData: it is empty, unreadable, or broke off; the versions are as they were.
        Conflict: somebody else took in rows at the same time.
    """
    check_name(name)
    source = open_source(section.source, folder)
    where = without_password(section.source)
    # Versions that were put together of several sources stand between.
    before = next((one for one in reversed(versions(store, name)) if one.source == where), latest(store, name))
    goes_on = source.incremental and before is not None and before.source == where
    pieces = _pieces(source, before.cursor if goes_on and before else "", keep_going)
    taken = _Taken(store, name, section.source)
    taken.take(source, pieces, before if goes_on else None)
    old = before.parts if goes_on and before else ()
    if not taken.parts and goes_on and before and not taken.refused:
        source.keep(before.cursor)
        return before
    if not taken.parts and not old:
        what = (
            f": all {len(taken.refused)} rows were refused, the first because {taken.refused[0].reason}"
            if taken.refused
            else ""
        )
        raise InvalidData(f"there is no row in {where}{what}")
    version = _version(name, section.source, taken, before, (*old, *taken.parts), goes_on=goes_on)
    if before is not None and version.digest == before.digest and version.cursor == before.cursor:
        return before
    _commit(store, version, taken.refused)
    source.keep(version.cursor)
    return version


def keep(store: BlobStore, name: str, rows: "pl.DataFrame", *, source: str, split: str = "") -> DatasetVersion:
    """Make a version of rows that were put together from others; the same again for equal rows.

    `source` says from what, `split` names the column that divides them.

    Raises:
        Conflict: somebody else took in rows at the same time.
    """
    check_name(name)
    before = latest(store, name)
    taken = _Taken(store, name, source)
    taken.keep(rows)
    version = _version(name, source, taken, before, tuple(taken.parts), goes_on=False)
    version = msgspec.structs.replace(version, split=split)
    same = next((one for one in versions(store, name) if one.digest == version.digest), None)
    if same is None:
        _commit(store, version, [])
    return same or version


def divided(section: DataSection, version: DatasetVersion) -> DataSection:
    """The section as it holds for a version, which may say itself how its rows are divided."""
    return msgspec.structs.replace(section, split=version.split) if version.split else section


def read(url: str, folder: Path) -> "pl.DataFrame":
    """All good rows of a source, without keeping them. Raises as `ingest` does."""
    import polars as pl

    source = open_source(url, folder)
    with Spool(without_password(url), known={}) as spool:
        for piece in source.read(""):
            spool.add(piece)
        rows = list(spool.frames())
    return pl.concat(rows) if rows else pl.DataFrame()


def latest(store: BlobStore, name: str) -> DatasetVersion | None:
    """The newest version, if there is one."""
    keys = [blob.key for blob in store.list(f"datasets/{name}/versions")]
    return _decode(store, keys[-1]) if keys else None


def versions(store: BlobStore, name: str) -> list[DatasetVersion]:
    """All versions, oldest first."""
    return [_decode(store, blob.key) for blob in store.list(f"datasets/{name}/versions")]


def load(store: BlobStore, name: str, digest: str) -> DatasetVersion:
    """The version of a digest, or of the beginning of one.

    Raises:
        NotFound: there is none, or several.
    """
    found = {one.digest: one for one in versions(store, name) if one.digest.startswith(digest)}
    if len(found) != 1:
        how = "several versions" if found else "no version"
        raise NotFound(f"there is {how} {digest[:12]} of the data of {name}; rung data list {name} shows them")
    return next(iter(found.values()))


def quarantined(store: BlobStore, name: str, digest: str) -> list[Quarantined]:
    """Rows that were refused on the way to a version, the first 1,000."""
    try:
        return msgspec.json.decode(store.get(f"datasets/{name}/refused/{digest}.json"), type=list[Quarantined])
    except NotFound:
        return []


def frame(
    store: BlobStore, version: DatasetVersion, columns: Sequence[str] | None = None, *, cache: Path | None = None
) -> "pl.DataFrame":
    """All rows of a version, in the order in which they came in.

    `cache` is a folder on this machine for the rows as one Arrow file, which is mapped into memory and not read: made
    from checked parts at the first call, and as fast as that format from then on. It may be removed at any time.

    Raises:
        InvalidData: a part is gone or damaged.
    """
    import polars as pl

    if cache is not None:
        found = _mapped(cache / version.name, version, columns)
        if found is not None:
            return found
    parts = list(_read(store, version, columns if cache is None else None))
    whole = pl.concat(parts, how="vertical_relaxed") if parts else pl.DataFrame()
    if cache is None:
        return whole
    _keep_mapped(cache / version.name, version, whole)
    return whole if columns is None else whole.select(columns)


def scan(
    store: BlobStore, version: DatasetVersion, columns: Sequence[str] | None = None, *, rows: int = 10_000
) -> Iterator["pl.DataFrame"]:
    """All rows of a version, `rows` at a time; no more than one part is held."""
    for part in _read(store, version, columns):
        for start in range(0, part.height, rows):
            yield part[start : start + rows]


def _read(store: BlobStore, version: DatasetVersion, columns: Sequence[str] | None) -> Iterator["pl.DataFrame"]:
    import polars as pl

    for part in version.parts:
        try:
            content = store.get(_key(version.name, part.sha256))
        except NotFound:
            raise InvalidData(
                f"data {version.digest[:12]} of {version.name} has lost a part: {part.sha256[:12]}"
            ) from None
        if hashlib.sha256(content).hexdigest() != part.sha256:
            raise InvalidData(f"data {version.digest[:12]} of {version.name} has a damaged part: {part.sha256[:12]}")
        yield pl.read_parquet(io.BytesIO(content), columns=list(columns) if columns is not None else None)


def _mapped(folder: Path, version: DatasetVersion, columns: Sequence[str] | None) -> "pl.DataFrame | None":
    import polars as pl

    rows = pl.scan_ipc(folder / f"{version.digest}.arrow")
    try:
        found = rows.select(list(columns) if columns is not None else pl.all()).collect()
    except (OSError, pl.exceptions.PolarsError):
        return None
    # Cut short by a full disk, it would have lost rows.
    return found if found.height == version.rows else None


def _keep_mapped(folder: Path, version: DatasetVersion, rows: "pl.DataFrame") -> None:
    """Write the file and remove those of other versions; where it cannot be written, that is no reason to fail."""
    draft = folder / f".{version.digest}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for other in folder.glob("*.arrow"):
            other.unlink(missing_ok=True)
        rows.rechunk().write_ipc(draft, compression="uncompressed")
        draft.replace(folder / f"{version.digest}.arrow")
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


class _Taken:
    """What one read of a source gave."""

    def __init__(self, store: BlobStore, name: str, url: str) -> None:
        self._store, self._name, self._where = store, name, without_password(url)
        self.parts: list[Part] = []
        self.columns: dict[str, Kind] = {}
        self.refused: list[Quarantined] = []
        self.cursor = ""

    def take(self, source: RowSource, pieces: Iterator[Piece], before: DatasetVersion | None) -> None:
        """Read all pieces, then write their rows as parts: a source that breaks off leaves nothing."""
        known = before.columns if before is not None else {}
        with Spool(self._where, known=known) as spool:
            for piece in pieces:
                spool.add(piece)
            for rows in spool.frames():
                self.keep(rows, known)
            self.refused, self.cursor = spool.refused, spool.cursor

    def keep(self, rows: "pl.DataFrame", known: Mapping[str, Kind] | None = None) -> None:
        """Write rows as parts."""
        self.columns = self.columns or column_kinds(rows, known or {})
        step = max(1, min(_ROWS, int(rows.height * _BYTES / max(1, rows.estimated_size()))))
        for start in range(0, rows.height, step):
            self._write(rows[start : start + step])

    def _write(self, rows: "pl.DataFrame") -> None:
        buffer = io.BytesIO()
        rows.write_parquet(buffer, compression="zstd")
        content = buffer.getvalue()
        part = Part(hashlib.sha256(content).hexdigest(), rows.height, len(content))
        self._store.put(_key(self._name, part.sha256), content)
        self.parts.append(part)


def _pieces(source: RowSource, cursor: str, keep_going: Callable[[], bool]) -> Iterator[Piece]:
    for piece in source.read(cursor):
        if not keep_going():
            raise InvalidData("taking in rows was stopped; nothing was kept")
        yield piece


def _version(
    name: str, url: str, taken: _Taken, before: DatasetVersion | None, parts: tuple[Part, ...], *, goes_on: bool
) -> DatasetVersion:
    columns = before.columns if goes_on and before is not None else taken.columns
    identity = msgspec.json.encode([columns, [part.sha256 for part in parts]], order="deterministic")
    earlier = before.quarantined if goes_on and before is not None else 0
    return DatasetVersion(
        name=name,
        digest=hashlib.sha256(identity).hexdigest(),
        columns=columns,
        parts=parts,
        source=without_password(url),
        cursor=taken.cursor or (before.cursor if goes_on and before is not None else ""),
        quarantined=earlier + len(taken.refused),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        parent=before.digest if before is not None else "",
    )


def _commit(store: BlobStore, version: DatasetVersion, refused: list[Quarantined]) -> None:
    if refused:
        store.put(
            f"datasets/{version.name}/refused/{version.digest}.json", msgspec.json.encode(refused[:_KEPT_REFUSED])
        )
    number = len(list(store.list(f"datasets/{version.name}/versions"))) + 1
    try:
        store.put(f"datasets/{version.name}/versions/{number:012}.json", msgspec.json.encode(version), create=True)
    except Conflict:
        raise Conflict(f"somebody else took in data of {version.name} at the same time; do it again") from None


def _key(name: str, sha256: str) -> str:
    return f"datasets/{name}/parts/{sha256}.parquet"


def _decode(store: BlobStore, key: str) -> DatasetVersion:
    try:
        return msgspec.json.decode(store.get(key), type=DatasetVersion)
    except msgspec.MsgspecError as error:
        raise InvalidData(f"{key} cannot be read: {error}") from None

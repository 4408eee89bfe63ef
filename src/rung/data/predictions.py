"""The prediction log as tables: from segments to Parquet, small files into large ones, old ones away; and reading.

Plain functions, each of which may be killed anywhere and run again. One at a time changes the tables of a store
(`exclusive` on this machine, the key of the job beyond it); anybody may read meanwhile.
"""

import os
import time as clock
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rung.data.columns import KEYS, TABLES, Table, date_of, frame, gap_of, schema, table_of
from rung.data.parts import Part, State, commit, current, empty, part_key, read_part, sweep, write_part
from rung.domain.errors import NotFound
from rung.jobs.context import JobContext
from rung.ports import BlobStore
from rung.store.blobs import open_store
from rung.store.segments import SegmentReader, exclusive, places_of, segment_files

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Converted", "compact", "convert", "maintain", "retain", "scan", "trim"]

_ROWS = 50_000
"""Records in one step of a conversion."""
_BYTES = 64 << 20
"""Bytes of inputs, outputs and bodies in one step of a conversion, about."""
_COMPACT_ROWS = 500_000
"""Rows above which a part is left as it is."""
_KEEP_SECONDS = 3600.0
_TRIES = 5


class Converted(msgspec.Struct):
    """What a conversion did."""

    records: int = 0
    parts: int = 0
    damaged: int = 0
    """Places in segments that hold no record."""
    position: str = ""


def convert(
    log: Path, store: BlobStore, *, rows: int = _ROWS, keep_going: Callable[[], bool] = lambda: True
) -> Converted:
    """Turn what the log holds beyond the last conversion into Parquet, in steps of about `rows` records.

    Raises:
        Conflict: somebody else is at it.
    """
    done = Converted()
    with exclusive(log):
        state = current(store)
        sweep(store, state)
        reader = SegmentReader(log, state.place)
        for records in _steps(reader, rows):
            state = _convert_step(store, state, reader, records, done)
            if not keep_going():
                break
    done.position = state.position
    return done


def _steps(reader: SegmentReader, rows: int) -> Iterator[list[Any]]:
    """Records in lists that fit into memory; the reader stands behind each list when it is handed out."""
    records: list[Any] = []
    size = 0
    for _, record in reader:
        records.append(record)
        size += _weight(record)
        if len(records) >= rows or size >= _BYTES:
            yield records
            records, size = [], 0
    if records or reader.damage:
        yield records


def _weight(record: Any) -> int:
    body, value = getattr(record, "body", None), getattr(record, "value", None)
    tensors = [getattr(record, name, None) or {} for name in ("inputs", "outputs")]
    size = sum(len(one[2]) if isinstance(one, list) else len(one.data) for packed in tensors for one in packed.values())
    return size + len(body or b"") + (len(str(value)) if value is not None else 0)


def _convert_step(store: BlobStore, state: State, reader: SegmentReader, records: list[Any], done: Converted) -> State:
    damage, reader.damage = reader.damage, []
    now = clock.time()
    groups: dict[tuple[Table, str, str], list[Any]] = {}
    for record in records:
        table = table_of(record)
        model = "" if table == "gaps" else record.model
        groups.setdefault((table, model, date_of(record.time)), []).append(record)
    for one in damage:
        groups.setdefault(("gaps", "", date_of(now)), []).append(gap_of(one, now))
    position = reader.position
    parts = []
    for (table, model, date), group in groups.items():
        key = part_key(table, model, date, state.position, position)
        found = frame(table, group)
        if table in KEYS:
            found = found.unique(list(KEYS[table]), keep="first", maintain_order=True)
        parts.append(write_part(store, key, table, model, date, found))
    done.records += len(records)
    done.parts += len(parts)
    done.damaged += len(damage)
    return commit(store, state, position=position, add=parts)


def trim(log: Path, store: BlobStore, *, keep_seconds: float = _KEEP_SECONDS, now: float | None = None) -> int:
    """Delete segments that are in Parquet and older than `keep_seconds`; return how many.

    The last file of each replica stays: its number is what the next follows.

    Raises:
        Conflict: somebody else converts or erases.
    """
    before = (clock.time() if now is None else now) - keep_seconds
    removed = 0
    with exclusive(log):
        places = places_of(current(store).place)
        files = segment_files(log)
        for file, following in zip(files, [*files[1:], None], strict=True):
            last = following is None or following.replica != file.replica
            if not last and file.number < places.get(file.replica, (0, 0))[0]:
                with suppress(FileNotFoundError):
                    if file.path.stat().st_mtime < before:
                        os.unlink(file.path)  # noqa: PTH108 - a segment is a file of ours
                        removed += 1
    return removed


def compact(log: Path, store: BlobStore, *, rows: int = _COMPACT_ROWS) -> int:
    """Join the parts of each model and day that has several; return how many files there are fewer.

    Raises:
        Conflict: somebody else changes the tables.
    """
    import polars as pl

    fewer = 0
    with exclusive(log):
        state = current(store)
        sweep(store, state)
        groups: dict[tuple[Table, str, str], list[Part]] = {}
        for part in state.parts:
            if part.rows < rows:
                groups.setdefault((part.table, part.model, part.date), []).append(part)
        for (table, model, date), parts in sorted(groups.items()):
            chosen = _first(parts, rows)
            if len(chosen) < 2:
                continue
            found = pl.concat([read_part(store, part) for part in chosen])
            if table in KEYS:
                found = found.unique(list(KEYS[table]), keep="first", maintain_order=True)
            key = part_key(table, model, date, *(part.key for part in chosen))
            joined = write_part(store, key, table, model, date, found.sort("time", maintain_order=True))
            state = commit(store, state, add=[joined], remove=chosen)
            fewer += len(chosen) - 1
    return fewer


def _first(parts: list[Part], rows: int) -> list[Part]:
    chosen: list[Part] = []
    for part in parts:
        if chosen and sum(one.rows for one in chosen) + part.rows > rows:
            break
        chosen.append(part)
    return chosen


def retain(log: Path, store: BlobStore, days: int, *, model: str | None = None, now: float | None = None) -> int:
    """Delete what is older than so many whole days; return how many rows went.

    Segments go with `trim`; those of a day that old are long in Parquet.

    Raises:
        Conflict: somebody else changes the tables.
    """
    today = datetime.fromtimestamp(clock.time() if now is None else now, UTC).date()
    first = (today - timedelta(days=days)).isoformat()
    with exclusive(log):
        state = current(store)
        old = [part for part in state.parts if part.date < first and model in (None, part.model)]
        if old:
            commit(store, state, remove=old)
    return sum(part.rows for part in old)


def scan(
    store: BlobStore,
    log: Path | None,
    model: str | None = None,
    *,
    table: Table = "predictions",
    since: float = 0.0,
    until: float = float("inf"),
    columns: Sequence[str] | None = None,
) -> "pl.DataFrame":
    """All rows of a table with `since <= time < until`, in Parquet or still in segments, each once, by time.

    Args:
        store: where the Parquet files lie.
        log: folder of the segments; None leaves out what is not converted.
        model: of which model; None for all.
        table: see `columns`.
        since: seconds since the epoch.
        until: the same.
        columns: only these; `time` and the key are read in any case.
    """
    if table not in TABLES:
        raise NotFound(f"the log has no table {table!r:.40}; there are {', '.join(TABLES)}")
    for _ in range(_TRIES):
        # A part may be replaced between the state and its reading: then the state has a successor.
        with suppress(NotFound):
            return _scan(store, log, model, table, since, until, columns)
    return _scan(store, log, model, table, since, until, columns)


def _scan(
    store: BlobStore,
    log: Path | None,
    model: str | None,
    table: Table,
    since: float,
    until: float,
    columns: Sequence[str] | None,
) -> "pl.DataFrame":
    import polars as pl

    asked = {"time", *KEYS.get(table, ()), *(columns or ())}
    wanted = None if columns is None else [name for name in schema(table) if name in asked]
    state = current(store)
    frames = [empty(table, wanted)]
    frames += [
        read_part(store, part, wanted).select(frames[0].columns)
        for part in state.parts
        if part.table == table and model in (None, part.model) and part.latest >= since and part.earliest < until
    ]
    if log is not None:
        fresh = [
            record
            for _, record in SegmentReader(log, state.place)
            if table_of(record) == table and model in (None, getattr(record, "model", ""))
        ]
        frames.append(frame(table, fresh).select(frames[0].columns))
    found = pl.concat(frames).filter(pl.col("time") >= since, pl.col("time") < until)
    if table in KEYS:
        found = found.unique(list(KEYS[table]), keep="first", maintain_order=True)
    return found.sort("time", maintain_order=True)


def maintain(context: JobContext) -> dict[str, Any]:
    """The job that keeps the tables: convert, trim, join small files, delete old rows.

    Arguments: `{"log": FOLDER, "store": URL, "days": {MODEL: DAYS} | DAYS, "keep_seconds": SECONDS}`; without `days`
    nothing is deleted. Give it a key, so that one runs at a time.
    """
    arguments = context.arguments
    log, store = Path(arguments["log"]), open_store(arguments["store"])
    done = convert(log, store, keep_going=lambda: not context.should_stop())
    trimmed = trim(log, store, keep_seconds=float(arguments.get("keep_seconds", _KEEP_SECONDS)))
    fewer = compact(log, store)
    days = arguments.get("days") or {}
    limits = days.items() if isinstance(days, dict) else [(None, days)]
    gone = sum(retain(log, store, int(limit), model=model) for model, limit in limits)
    return {
        "records": done.records,
        "damaged": done.damaged,
        "segments_deleted": trimmed,
        "parts_joined": fewer,
        "rows_expired": gone,
    }

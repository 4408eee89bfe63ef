"""Which Parquet files make up the tables of the log: a small table format over a blob store.

    predictions/MODEL/date=2026-01-31/part-0f3a....parquet      what there is
    log-state/000000000042.json                                 which of it counts, and how far the log is converted

A file counts when the last state names it. States are created, never changed: of two writers that start from the
same one, the second gets a `Conflict` and has done nothing. Files that no state names are what a killed run left;
the next run removes them.
"""

import hashlib
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from rung.data.columns import TABLES, Table, frame, schema
from rung.ports import BlobStore
from rung.store.segments import Position

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Part", "State", "commit", "current", "empty", "part_key", "read_part", "sweep", "write_part"]

_STATES = "log-state"
_KEPT_STATES = 16


class Part(msgspec.Struct, frozen=True):
    """One Parquet file: rows of one model and one UTC day."""

    key: str
    table: Table
    model: str
    date: str
    rows: int
    earliest: float
    latest: float


class State(msgspec.Struct, frozen=True):
    """Everything that counts, at one moment."""

    number: int = 0
    position: str = ""
    """Up to here the segments are in the parts."""
    parts: tuple[Part, ...] = ()

    @property
    def place(self) -> Position | None:
        """`position`, as readers of segments take it."""
        return Position(self.position) if self.position else None


def current(store: BlobStore) -> State:
    """The last state; an empty one before the first conversion."""
    keys = [blob.key for blob in store.list(_STATES)]
    return msgspec.json.decode(store.get(keys[-1]), type=State) if keys else State()


def commit(
    store: BlobStore,
    before: State,
    *,
    position: str | None = None,
    add: Iterable[Part] = (),
    remove: Iterable[Part] = (),
) -> State:
    """Make the next state, then delete what it no longer names.

    Raises:
        Conflict: somebody else has changed the tables since `before`; nothing was changed now.
    """
    removed = set(remove)
    parts = tuple(part for part in before.parts if part not in removed) + tuple(add)
    after = State(before.number + 1, before.position if position is None else position, parts)
    store.put(f"{_STATES}/{after.number:012d}.json", msgspec.json.encode(after), create=True)
    store.delete(part.key for part in removed)
    old = [blob.key for blob in store.list(_STATES)][:-_KEPT_STATES]
    store.delete(old)
    return after


def sweep(store: BlobStore, state: State) -> int:
    """Delete the files that the state does not name; return how many. For the one who changes the tables."""
    named = {part.key for part in state.parts}
    stray = [blob.key for table in TABLES for blob in store.list(table) if blob.key not in named]
    store.delete(stray)
    return len(stray)


def part_key(table: Table, model: str, date: str, *identity: str) -> str:
    """Key of a part; the same `identity` (what it is made of) gives the same key."""
    name = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:20]
    return "/".join(filter(None, (table, model, f"date={date}", f"part-{name}.parquet")))


def write_part(store: BlobStore, key: str, table: Table, model: str, date: str, rows: "pl.DataFrame") -> Part:
    """Write rows (at least one) as the part `key`, whole or not at all."""
    buffer = io.BytesIO()
    rows.write_parquet(buffer, compression="zstd")
    store.put(key, buffer.getvalue())
    earliest, latest = rows["time"].min(), rows["time"].max()
    assert isinstance(earliest, float)
    assert isinstance(latest, float)
    return Part(key, table, model, date, rows.height, earliest, latest)


def read_part(store: BlobStore, part: Part, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """The rows of a part, with the columns of today: what an older rung did not write is null.

    Raises:
        NotFound: a newer state has replaced it.
    """
    import polars as pl

    data = io.BytesIO(store.get(part.key))
    kinds: dict[str, Any] = schema(part.table)
    wanted = [name for name in kinds if columns is None or name in columns]
    there = set(pl.read_parquet_schema(data))
    data.seek(0)
    rows = pl.read_parquet(data, columns=[name for name in wanted if name in there])
    missing = [pl.lit(None, kinds[name]).alias(name) for name in wanted if name not in there]
    return rows.with_columns(missing).select(wanted) if missing else rows.select(wanted)


def empty(table: Table, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """A table without rows."""
    rows = frame(table, [])
    return rows if columns is None else rows.select(list(columns))

"""Erasing a unit: every row of a person, out of Parquet and segments, proved by reading everything again."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rung.data.columns import Table
from rung.data.parts import Part, State, commit, current, part_key, read_part, sweep, write_part
from rung.domain.errors import InvalidInput, RungError
from rung.domain.records import FeedbackRecord, PredictionRecord, Record, ShadowRecord
from rung.ports import BlobStore
from rung.store.segments import blank_out, exclusive, read

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Erased", "erase"]


class Erased(msgspec.Struct):
    """What was removed."""

    rows: int = 0
    """From Parquet."""
    records: int = 0
    """From segments; what was in both counts in both."""
    parts: int = 0
    """Files written anew or deleted."""


def erase(log: Path, store: BlobStore, unit: str) -> Erased:
    """Remove all that a unit asked, was answered and was said of its answers.

    Killed half-way it is finished by running it again. What the unit asks from now on, and what is still in the
    buffer of a running replica (a second of requests), is not covered: stop sending first, or erase again.

    Raises:
        InvalidInput: the unit is empty.
        Conflict: somebody else converts or erases.
        RungError: something is left, which was looked for afterwards.
    """
    if not unit:
        raise InvalidInput("say which unit to erase: an empty one stands for requests without a unit", field="unit")
    done = Erased()
    with exclusive(log):
        state = current(store)
        # Files that a killed run left, and no state names, may hold the unit too.
        sweep(store, state)
        ids = _ids(log, store, state, unit)
        state = _rewrite(store, state, unit, ids, done)
        sweep(store, state)
        done.records = blank_out(log, lambda record: _concerns(record, unit, ids))
        left = _ids(log, store, current(store), unit)
        left |= {record.id for _, record in read(log) if isinstance(record, FeedbackRecord) and record.id in ids}
        left |= {
            identity
            for part in current(store).parts
            if part.table == "feedback"
            for identity in ids.intersection(read_part(store, part, ["id"])["id"])
        }
    if left:
        raise RungError(f"{len(left)} predictions of the unit are still there after the erasure: run it again")
    return done


def _ids(log: Path, store: BlobStore, state: State, unit: str) -> set[str]:
    """Ids of the unit's predictions, wherever they are."""
    import polars as pl

    ids = {
        record.id
        for _, record in read(log)
        if isinstance(record, PredictionRecord | ShadowRecord) and record.unit == unit
    }
    for part in state.parts:
        if part.table in ("predictions", "shadows"):
            ids.update(read_part(store, part, ["id", "unit"]).filter(pl.col("unit") == unit)["id"].to_list())
    return ids


def _rewrite(store: BlobStore, state: State, unit: str, ids: set[str], done: Erased) -> State:
    for part in state.parts:
        if part.table == "gaps":
            continue
        rows = read_part(store, part)
        kept = _without(rows, part.table, unit, ids)
        if kept.height == rows.height:
            continue
        done.rows += rows.height - kept.height
        done.parts += 1
        added: list[Part] = []
        if kept.height:
            # The name must not tell of whom: a key is seen by more people than a row.
            key = part_key(part.table, part.model, part.date, part.key, str(state.number))
            added = [write_part(store, key, part.table, part.model, part.date, kept)]
        state = commit(store, state, add=added, remove=[part])
    return state


def _without(rows: "pl.DataFrame", table: Table, unit: str, ids: set[str]) -> "pl.DataFrame":
    import polars as pl

    mine = pl.col("id").is_in(list(ids))
    return rows.filter(~(mine if table == "feedback" else mine | (pl.col("unit") == unit)))


def _concerns(record: Record, unit: str, ids: set[str]) -> bool:
    if isinstance(record, PredictionRecord | ShadowRecord):
        return record.unit == unit or record.id in ids
    return isinstance(record, FeedbackRecord) and record.id in ids

"""The prediction log from a time on, wherever it lies by now: first what is in Parquet, then what is in segments."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from rung.data import parts
from rung.data.columns import Table
from rung.domain.errors import NotFound
from rung.domain.records import FeedbackRecord, PredictionRecord, Record, ShadowRecord
from rung.ports import BlobStore
from rung.store.segments import Position

if TYPE_CHECKING:
    from rung.data.parts import Part

__all__ = ["converted"]

_COLUMNS: dict[Table, tuple[type[Any], Sequence[str]]] = {
    "predictions": (
        PredictionRecord,
        (
            *("id", "time", "model", "version", "arm", "epoch", "unit", "total", "error", "blame", "propensity"),
            *("flags", "output_digest", "input_digest", "predicted"),
        ),
    ),
    "shadows": (ShadowRecord, [field.name for field in msgspec.structs.fields(ShadowRecord)]),
    "feedback": (FeedbackRecord, [field.name for field in msgspec.structs.fields(FeedbackRecord)]),
}


def converted(data: BlobStore | None, model: str, since: float) -> tuple[Position | None, Iterator[Record]]:
    """What of a model's log is in Parquet by now, and the position in the segments at which the rest begins.

    Args:
        data: Where the Parquet files lie; None for a log that is never converted.
        model: Its name.
        since: Predictions and copies made earlier are left out, in seconds since the epoch; feedback is not.
    """
    if data is None:
        return None, iter(())
    state = parts.current(data)
    chosen = [
        part
        for part in state.parts
        if part.model == model and part.table in _COLUMNS and (part.table == "feedback" or part.latest >= since)
    ]
    return state.place, _rows(data, state, chosen, since)


def _rows(data: BlobStore, state: parts.State, chosen: list["Part"], since: float) -> Iterator[Record]:
    # Predictions first: feedback waits for its prediction in limited room.
    order = list(_COLUMNS)
    for part in sorted(chosen, key=lambda one: (order.index(one.table), one.earliest)):
        kind, columns = _COLUMNS[part.table]
        try:
            rows = parts.read_part(data, part, columns)
        except NotFound:
            # Joined with others since; it holds the same rows as those that took its place.
            yield from _instead(data, state, part, since)
            continue
        for row in rows.iter_rows(named=True):
            if part.table == "feedback" or row["time"] >= since:
                yield _record(kind, row)


def _instead(data: BlobStore, before: parts.State, gone: "Part", since: float) -> Iterator[Record]:
    """The parts that took the place of one: rows that were read already change no sum over units when read again."""
    known = {part.key for part in before.parts}
    state = parts.current(data)
    fresh = [
        part
        for part in state.parts
        if part.key not in known and (part.table, part.model, part.date) == (gone.table, gone.model, gone.date)
    ]
    if fresh:
        yield from _rows(data, state, fresh, since)


def _record(kind: type[Any], row: dict[str, Any]) -> Any:
    fields = {name: value for name, value in row.items() if value is not None}
    if kind is FeedbackRecord and isinstance(fields.get("value"), str | bytes):
        fields["value"] = msgspec.json.decode(fields["value"])
    return kind(**fields)

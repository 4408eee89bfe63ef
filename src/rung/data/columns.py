"""Tables of the prediction log: which columns each has, and how records become rows.

| table | a row is | its key |
| --- | --- | --- |
| predictions | one answer or error | id |
| shadows | one copy answered by a candidate | id, candidate |
| feedback | one event | id, event |
| gaps | a start or end of a replica's log, records lost, bytes damaged | none |
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from rung.domain.records import (
    FeedbackRecord,
    MarkRecord,
    PredictionRecord,
    Record,
    ShadowRecord,
    ShedRecord,
)
from rung.store.segments import Damage

if TYPE_CHECKING:
    import polars as pl

__all__ = ["KEYS", "TABLES", "Table", "date_of", "frame", "gap_of", "schema", "table_of"]

Table = Literal["predictions", "shadows", "feedback", "gaps"]
TABLES: tuple[Table, ...] = ("predictions", "shadows", "feedback", "gaps")
KEYS: dict[Table, tuple[str, ...]] = {
    "predictions": ("id",),
    "shadows": ("id", "candidate"),
    "feedback": ("id", "event"),
}

_KINDS: dict[type, Table] = {
    PredictionRecord: "predictions",
    ShadowRecord: "shadows",
    FeedbackRecord: "feedback",
    ShedRecord: "gaps",
    MarkRecord: "gaps",
}
_RECORDS: dict[Table, type[Any]] = {
    "predictions": PredictionRecord,
    "shadows": ShadowRecord,
    "feedback": FeedbackRecord,
}


class _Gap(msgspec.Struct):
    """A row of `gaps`."""

    time: float
    model: str = ""
    replica: str = ""
    kind: str = ""
    """open, close, shed, torn, corrupt, unknown."""
    count: int = 0
    """Records lost, or bytes of a damaged place."""
    reason: str = ""
    seconds: float = 0.0
    """Of records that may be lost at most, where a run did not close."""


def table_of(record: Record) -> Table:
    """The table that a record belongs to."""
    return _KINDS[type(record)]


def date_of(time: float) -> str:
    """The UTC day of a time in seconds since the epoch, as in 2026-01-31."""
    return datetime.fromtimestamp(time, UTC).date().isoformat()


def gap_of(damage: Damage, now: float) -> _Gap:
    """A row that tells of bytes that hold no record."""
    return _Gap(now, "", damage.path.parent.name, damage.kind, damage.end - damage.start, damage.path.name)


def schema(table: Table) -> "dict[str, pl.DataType]":
    """Column -> its type."""
    import polars as pl

    summary = pl.List(pl.Struct({"name": pl.String, "mean": pl.Float64, "least": pl.Float64, "greatest": pl.Float64}))
    types: dict[Any, Any] = {str: pl.String, float: pl.Float64, int: pl.Int64, bool: pl.Boolean, bytes: pl.Binary}
    special: dict[str, Any] = {"output_summary": summary, "inputs": pl.Binary, "outputs": pl.Binary, "body": pl.Binary}
    special |= {"kind": pl.String, "value": pl.String}
    fields = msgspec.structs.fields(_RECORDS.get(table, _Gap))
    return {field.name: special.get(field.name) or types[field.type] for field in fields}


def frame(table: Table, records: Sequence[Any]) -> "pl.DataFrame":
    """Records of one table as rows, in order."""
    import polars as pl

    rows = [_gap(record) for record in records] if table == "gaps" else records
    kinds = schema(table)
    columns = {name: [_cell(name, getattr(row, name)) for row in rows] for name in kinds}
    return pl.DataFrame(columns, schema=kinds)


def _cell(name: str, value: Any) -> Any:
    convert = _CELLS.get(name)
    return value if convert is None or value is None else convert(value)


def _summary(value: dict[str, tuple[float, float, float]]) -> list[dict[str, Any]]:
    return [{"name": name, "mean": row[0], "least": row[1], "greatest": row[2]} for name, row in value.items()]


_CELLS: dict[str, Callable[[Any], Any]] = {
    "output_summary": _summary,
    "inputs": msgspec.msgpack.encode,
    "outputs": msgspec.msgpack.encode,
    "value": lambda value: msgspec.json.encode(value).decode(),
}


def _gap(record: Any) -> _Gap:
    if isinstance(record, ShedRecord):
        return _Gap(record.time, record.model, "", "shed", record.count, record.reason)
    if isinstance(record, MarkRecord):
        reason = "" if record.clean else "the run before did not close its log"
        return _Gap(record.time, "", record.replica, record.kind, 0, reason, record.lost)
    assert isinstance(record, _Gap)
    return record

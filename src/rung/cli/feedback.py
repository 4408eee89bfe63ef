"""Bodies of `rung feedback`: labels into the log, and what is there."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from rung.cli.places import Places
from rung.cli.printing import print_json, print_table
from rung.data import feedback
from rung.data.importing import import_feedback, rows_of
from rung.domain.errors import ConfigurationError
from rung.store.segment_writer import SegmentWriter

__all__ = ["Columns", "coverage", "import_labels", "list_events"]

_SHOWN = 10


class Columns(msgspec.Struct, frozen=True):
    """Names of the columns that hold an event's fields; empty where there is none."""

    id: str
    label: str = ""
    score: str = ""
    correction: str = ""
    mask: str = ""
    time: str = ""
    source: str = ""
    event: str = ""


def import_labels(
    where: Places, source: str, columns: Columns, *, query: str, source_name: str, models: list[str], as_json: bool
) -> bool:
    """Import a file or the rows of a query; whether every row was good.

    Raises:
        ConfigurationError: there is no key here, or the source cannot be read.
        InvalidInput: the source has no such column.
    """
    keyring = where.keyring()
    if keyring is None:
        raise ConfigurationError(f"there is no key {where.key}: run this in the folder of the project that answered")
    named = {field: column for field, column in msgspec.structs.asdict(columns).items() if column}
    if not {"label", "score", "correction", "mask"} & set(named):
        raise ConfigurationError("say which column holds what: --label-column, --score-column, ...")
    rows = rows_of(source, named, query=query, source_name=source_name)
    writer = SegmentWriter(where.log, replica="import")
    writer.open()
    try:
        done = import_feedback(rows, keyring, {*where.models(), *models}, writer, where.log, where.store())
    finally:
        writer.close()
    if as_json:
        print_json(done)
    else:
        print(f"{done.read} rows: {done.taken} taken, {done.known} known already, {done.reasons.total()} refused")
        for number, reason in done.refused[:_SHOWN]:
            print(f"    row {number}: {reason}")
        if done.reasons.total() > _SHOWN:
            print(f"    ... and {done.reasons.total() - _SHOWN} more (--json has the first {len(done.refused)})")
    return not done.reasons


def list_events(where: Places, model: str, prediction: str, limit: int, *, as_json: bool) -> None:
    """The last events, newest first, each with its place among those of its prediction."""
    found = feedback.versions(where.store(), where.log, model or None, prediction=prediction or None)
    rows = found.sort("received", descending=True).head(limit).to_dicts()
    if as_json:
        print_json(rows)
    elif not rows:
        print("no feedback yet")
    else:
        head = ["received", "model", "version", "arm", "kind", "value", "delay", "counts", "source", "prediction"]
        print_table(head, [_event(row) for row in rows])


def _event(row: dict[str, Any]) -> list[str]:
    value = row["value"] if len(row["value"]) <= 40 else f"{row['value'][:37]}..."
    place = "yes" if row["counts"] else f"no ({row['number']} of {row['of']})"
    facts = [row["model"], str(row["version"]), row["arm"] or "-", row["kind"], value, f"{row['delay']:.0f} s", place]
    return [_when(row["received"]), *facts, row["source"] or "-", row["id"]]


def coverage(where: Places, model: str, *, as_json: bool) -> None:
    """How many answers of each arm have feedback, and how late it came."""
    rows = feedback.coverage(where.store(), where.log, model).to_dicts()
    if as_json:
        print_json(rows)
        return
    if not rows:
        print(f"nothing of {model} is logged here")
        return
    cells = [
        [
            row["arm"] or "-",
            str(row["version"]),
            str(row["answers"]),
            str(row["labelled"]),
            "-" if row["coverage"] is None else f"{row['coverage']:.1%}",
            "-" if row["delay_median"] is None else f"{row['delay_median']:.0f} s",
            "-" if row["delay_90"] is None else f"{row['delay_90']:.0f} s",
            str(row["conflicts"]),
            str(row["unlogged"]),
        ]
        for row in rows
    ]
    head = ["arm", "version", "answers", "labelled", "coverage", "median delay", "90 %", "conflicts", "unlogged"]
    print_table(head, cells)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")[:19]

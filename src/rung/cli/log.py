"""Bodies of `rung log`: the tables of the prediction log, by hand."""

from pathlib import Path

import msgspec

from rung.cli.places import Places
from rung.cli.printing import print_json, print_table
from rung.data import erasure, predictions
from rung.data.parts import current
from rung.offline import forgetting
from rung.settings.file import FILE, project_here
from rung.store.segments import SegmentReader, segment_files

__all__ = ["convert", "erase", "stats"]


def convert(where: Places, *, as_json: bool) -> None:
    """Turn what the segments hold into Parquet. Raises `Conflict`: somebody else is at it."""
    done = predictions.convert(where.log, where.store())
    fewer = predictions.compact(where.log, where.store())
    if as_json:
        print_json({"records": done.records, "damaged": done.damaged, "parts_joined": fewer})
        return
    print(f"{done.records} records converted, {fewer} files joined")
    if done.damaged:
        print(f"{done.damaged} places in segments hold no record: rung log stats names them")


def erase(where: Places, unit: str, *, as_json: bool) -> None:
    """Remove a unit from log and tables, and in a project what it asked later. Raises `Conflict`: somebody else is at
    it.
    """
    if Path(FILE).exists():
        done, requests = forgetting.erase(where.log, where.store(), project_here().project.store, unit)
    else:
        done, requests = erasure.erase(where.log, where.store(), unit), 0
    if as_json:
        print_json(msgspec.to_builtins(done) | {"requests": requests})
        return
    later = f", {requests} requests that were asked later" if requests else ""
    print(f"erased: {done.rows} rows in {done.parts} files, {done.records} records in segments{later}; none is left")


def stats(where: Places, *, as_json: bool) -> None:
    """How much there is of which model, and what is known to be missing."""
    state = current(where.store())
    files = segment_files(where.log)
    reader = SegmentReader(where.log, state.place)
    waiting = sum(1 for _ in reader)
    tables: dict[tuple[str, str], list[int]] = {}
    for part in state.parts:
        tally = tables.setdefault((part.table, part.model), [0, 0])
        tally[0] += part.rows
        tally[1] += 1
    gaps = predictions.scan(where.store(), where.log, table="gaps").to_dicts()
    gaps = [gap for gap in gaps if gap["count"] or gap["seconds"]]
    size = sum(file.path.stat().st_size for file in files)
    if as_json:
        found = [{"table": t, "model": m, "rows": rows, "files": n} for (t, m), (rows, n) in sorted(tables.items())]
        print_json({"tables": found, "segments": len(files), "bytes": size, "waiting": waiting, "gaps": gaps})
        return
    print(f"{len(files)} segments, {size} bytes in {where.log}; {waiting} records wait to be converted")
    if tables:
        rows = [[t, m or "-", str(rows), str(n)] for (t, m), (rows, n) in sorted(tables.items())]
        print_table(["table", "model", "rows", "files"], rows)
    for gap in gaps:
        print(f"missing: {gap['kind']} {gap['count'] or ''} {gap['model']} {gap['reason']}".rstrip())

"""A rollout that is older than its segments: what is in Parquet counts the same."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from rung.data.predictions import convert, trim
from rung.domain.records import FeedbackRecord, PredictionRecord, ShadowRecord
from rung.domain.releases import LADDER, Release
from rung.fleet.controller import gather
from rung.fleet.evidence import Evidence, Snapshot
from rung.fleet.past import converted
from rung.fleet.simulate import released
from rung.store.blobs import DiskStore
from rung.store.segment_writer import SegmentWriter
from rung.store.segments import segment_files


def test_what_was_converted_and_deleted_counts_once_and_as_before(
    tmp_path: Path, predict: Callable[..., PredictionRecord], units_of: Callable[[Release, str], Iterator[str]]
) -> None:
    release = released(LADDER, 3)
    log, data = tmp_path / "log", DiskStore(tmp_path / "data")
    records: list[object] = []
    for arm in ("stable", "canary", "baseline"):
        for number, unit in enumerate(islice(units_of(release, arm), 60)):
            error = {"error": "ModelError", "blame": "server"} if number % 7 == 0 else {}
            one = predict(release, arm, unit, output_digest=b"o", input_digest=unit.encode(), **error)
            records.append(one)
            records.append(FeedbackRecord(f"e{one.id}", one.id, one.time + 5, one.time + 5, "score", {"a": 1}))
            value = FeedbackRecord(
                f"f{one.id}", one.id, one.time + 5, one.time + 5, "score", 0.5, "", "model", 1, arm, one.time
            )
            records.append(value)
            copy = ShadowRecord(one.id, one.time, "model", 1, 2, release.epoch, unit, difference=0.5, computed=0.01)
            records.append(copy)
    half = len(records) // 2
    for part in (records[:half], records[half:]):
        writer = SegmentWriter(log, replica="one")
        writer.open()
        writer.commit(part).result(timeout=20)
        writer.close()
        if part is not records[half:]:
            convert(log, data)
    before = _snapshot(release, log, data)
    convert(log, data)
    assert trim(log, data, keep_seconds=0.0) > 0
    assert len(segment_files(log)) == 1
    after = _snapshot(release, log, data)
    assert after == before
    assert after.arm("canary").units == 60
    assert after.arm("canary").mature.quality.mean == 0.5
    assert (after.copies, after.unequal) == (180, 180)
    position, rows = converted(data, "another", 0.0)
    assert position is not None
    assert list(rows) == []
    assert converted(None, "model", 0.0)[0] is None


def _snapshot(release: Release, log: Path, data: DiskStore) -> Snapshot:
    evidence = Evidence(release, maturity=1.0)
    for record in gather(log, data, "model", 1_700_000_000.0):
        evidence.feed(record)
    return evidence.snapshot(1_800_000_600.0)

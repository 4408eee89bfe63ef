"""A project's log and store, and a replica that writes what a test wants."""

import pytest

from rung.domain.identity import Keyring
from rung.domain.records import FeedbackRecord, PredictionRecord, ShadowRecord
from rung.store.blobs import DiskStore
from rung.store.segment_writer import SegmentWriter

DAY = 86_400.0
NOON = 1_700_049_600.0
"""2023-11-15 12:00 UTC."""
KEYRING = Keyring(bytes(32))


class Project:
    def __init__(self, folder):
        self.log = folder / "log"
        self.store = DiskStore(folder / "data")

    def write(self, *records, replica="r0", close=True, **options):
        writer = SegmentWriter(self.log, replica=replica, **options)
        writer.open()
        for record in records:
            assert writer.append(record)
        writer.commit([]).result(30)
        if close:
            writer.close()
        return writer

    def keys_of(self, table="predictions"):
        return [blob.key for blob in self.store.list(table)]

    def bytes_of_everything(self):
        files = [path for path in self.log.parent.rglob("*") if path.is_file()]
        return b"".join(path.read_bytes() for path in files)


def prediction(number, time=NOON, model="m", arm="stable", version=1, **fields):
    fields.setdefault("unit", f"u{number % 3}")
    identity = Keyring(bytes(32), number).mint(model, version, arm, 1)(time)
    return PredictionRecord(identity, time, model, version, arm, 1, **fields)


def feedback(about, value, time=None, event=None, kind="label", **fields):
    when = about.time + 60 if time is None else time
    return FeedbackRecord(
        event or f"e-{value}-{when}",
        about.id,
        when,
        when,
        kind,
        value,
        model=about.model,
        version=about.version,
        arm=about.arm,
        predicted=about.time,
        **fields,
    )


def shadow(about, candidate=2, **fields):
    return ShadowRecord(about.id, about.time, about.model, about.version, candidate, unit=about.unit, **fields)


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)

"""A model's log in a project's folder, and what triggers and alerts are told of it."""

import time

import msgspec
import numpy as np
import orjson
import pytest

from rung.catalog import models
from rung.domain.identity import Keyring
from rung.domain.packing import pack
from rung.domain.records import PredictionRecord
from rung.loop.measuring import last, measure
from rung.settings.project import ProjectSettings
from rung.store.blobs import DiskStore
from rung.store.segment_writer import SegmentWriter
from rung.testing import models_tasks


class Place:
    def __init__(self, folder, **drift):
        self.folder = folder
        section = {"retrain": {"on": ["labels:10"]}, "drift": drift}
        self.project = msgspec.convert({"models": {"m": section}}, ProjectSettings)
        path = models_tasks._save(
            folder / "line.onnx",
            "line (float[N, 2] x) => (float[N, 1] y) { y = MatMul(x, weight) }",
            {"weight": np.array([[2.0], [1.0]], np.float32)},
        )
        models.register(DiskStore(folder / ".rung/repository"), path, name="m")

    def answered(self, *answers, door="predict"):
        """Requests of [1, 1], whose answer is 3."""
        writer = SegmentWriter(self.folder / ".rung/log", replica="r0")
        writer.open()
        start = time.time() - 1_000
        for number, said in enumerate(answers):
            writer.append(
                PredictionRecord(
                    Keyring(bytes(32), number).mint("m", 1, "", 1)(start + number),
                    start + number,
                    "m",
                    1,
                    body=orjson.dumps([[1, 1]]),
                    media="application/json",
                    door=door,
                    outputs=pack({"y": np.array([[said]], np.float32)}),
                    output_summary={"y": (said, said, said)},
                )
            )
        writer.commit([]).result(30)
        writer.close()

    def measure(self):
        found = measure(self.project, self.folder, "m", time.time())
        assert last(DiskStore(self.folder / ".rung/data"), "m").seen == found.seen, "the control plane reads the same"
        return found


def test_what_answers_as_it_did_has_no_skew(tmp_path):
    place = Place(tmp_path, replay=50)
    place.answered(*[3.0] * 20)
    found = place.measure()
    assert found.seen.skew == 0
    assert found.skew["compared"] == 20
    assert "skew" not in found.seen.evidence


def test_what_answers_otherwise_is_told_with_the_least_that_its_share_can_be(tmp_path):
    place = Place(tmp_path, replay=10)
    place.answered(*[3.0] * 30, *[4.0] * 5)
    found = place.measure()
    assert found.seen.skew == pytest.approx(0.187, abs=0.001)  # Clopper-Pearson's bound for 5 of 10
    assert found.seen.evidence["skew"].startswith("5 of 10 requests, at least 18.71%: output y[0, 0] of ")
    assert found.seen.evidence["skew"].endswith(" was 4 and is 3 (version 1)")


def test_nothing_is_answered_again_unless_somebody_asks_for_it(tmp_path):
    place = Place(tmp_path)
    place.answered(4.0)
    found = place.measure()
    assert (found.seen.skew, found.skew) == (None, {})


def test_what_cannot_be_answered_again_is_told_and_the_rest_is_measured(tmp_path, monkeypatch):
    place = Place(tmp_path, replay=10)
    place.answered(3.0, door="")
    found = place.measure()
    assert found.seen.skew is None
    assert found.seen.evidence["skew"].startswith(
        "none of 1 requests could be compared; 1: they came in by another door"
    )

    def fail(*_args, **_more):
        raise RuntimeError("a bug of the model's own")

    monkeypatch.setattr("rung.training.skew.replay", fail)
    found = place.measure()
    assert found.seen.evidence["skew"] == "requests cannot be answered again: a bug of the model's own"
    assert found.seen.labels == 0


def test_a_model_that_nobody_has_asked_has_no_figures(tmp_path):
    found = Place(tmp_path, replay=5).measure()
    assert (found.seen.skew, found.seen.labels, found.seen.labelled, found.quality) == (None, 0, 0, {})
    assert "skew" not in found.seen.evidence, "nothing is wrong"

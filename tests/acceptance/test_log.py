"""The prediction log as its users meet it: ids, feedback, trace, erasure, and what a crash or a full disk costs."""

import os
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import numpy as np
import orjson
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from rung.domain.records import FeedbackRecord, MarkRecord, PredictionRecord, ShedRecord
from rung.store.segments import SegmentReader, read
from rung.testing import models

KIND = {"content-type": "application/octet-stream"}
ROW = np.full(16, 0.5, np.float32).tobytes()


def ask(client, unit="alice", **headers):
    answer = client.post("/predict/tiny", content=ROW, headers={**KIND, "rung-unit": unit, **headers})
    assert answer.status_code == 200
    return answer.headers["rung-prediction-id"]


def metrics(client):
    page = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert page.headers["content-type"].startswith("application/openmetrics-text")
    return [sample for family in text_string_to_metric_families(page.text) for sample in family.samples]


def value(client, name, **labels):
    return sum(s.value for s in metrics(client) if s.name == name and labels.items() <= s.labels.items())


def eventually(check, seconds=20.0):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not come about in time"
        threading.Event().wait(0.05)


def test_what_was_asked_is_answered_again_as_it_was_by_whichever_door_it_came(serve, rung, tmp_path):
    assert rung("models", "register", models.tiny(tmp_path / "tiny.onnx"), "-r", "here").returncode == 0
    served = serve(tmp_path / "here", "--log", "log", env={"RUNG_LOG_INPUTS": "both", "RUNG_LOG_OUTPUTS": "tensors"})
    with httpx2.Client(base_url=served.url) as client:
        (spec,) = client.get("/v2/models/tiny").json()["inputs"]
        row = np.frombuffer(ROW, np.float32).tolist()
        for _ in range(3):
            ask(client)
        one = {"name": spec["name"], "datatype": "FP32", "shape": [1, len(row)], "data": row}
        assert client.post("/v2/models/tiny/infer", json={"inputs": [one]}).status_code == 200

    def replayed():
        done = rung("drift", "tiny", "--replay", 10, "-r", "here", "--log", "log", "--data", "data", "--json")
        return orjson.loads(done.stdout)["skew"] if done.returncode == 0 else {"compared": 0}

    eventually(lambda: replayed()["compared"] == 4)
    found = replayed()
    assert (found["mismatched"], found["exact"], found["skipped"]) == (0, 4, {})
    assert found["prepared"] == 3, "what came to /predict was prepared anew as well"


def test_from_an_answer_to_its_label_its_trail_and_its_erasure(serve, rung, tmp_path):
    served = serve(models.tiny(tmp_path / "tiny.onnx"), "--log", "log", env={"RUNG_LOG_INPUTS": "body"})
    flags = ("--log", "log", "--data", "data")
    with httpx2.Client(base_url=served.url) as client:
        ids = [ask(client, unit) for unit in ("alice", "bob", "alice")]
        assert len(set(ids)) == 3
        said = client.post("/feedback", json={"id": ids[0], "label": "cat", "source": "zoo"})
        assert said.status_code == 200
        again = client.post("/feedback", json={"id": ids[0], "label": "cat", "source": "zoo"})
        assert again.json() == said.json()
        forged = ids[0][:-4] + ("AAAA" if ids[0][-4:] != "AAAA" else "BBBB")
        for unknown in (forged, "nonsense"):
            refused = client.post("/feedback", json={"id": unknown, "label": "cat"})
            assert refused.status_code == 404
            assert "no prediction" in refused.json()["error"]
        bad = client.post("/predict/tiny", content=b"abc", headers=KIND)
        assert bad.status_code == 400
        exemplars = [s.exemplar.labels["prediction_id"] for s in metrics(client) if s.exemplar]
        assert set(exemplars) <= set(ids)
        assert exemplars
        assert value(client, "rung_arm_completed_total", model="tiny") == 3

    trail = orjson.loads(rung("trace", ids[0], *flags, "--json").stdout)
    assert trail["verified"]
    assert trail["identity"]["model"] == "tiny"
    assert trail["prediction"]["unit"] == "alice"
    assert [event["value"] for event in trail["feedback"]] == ['"cat"']
    shown = rung("trace", ids[0], *flags).stdout
    for part in ("verified", "tiny", "queued", "unit alice", "latest version answered", '"cat" by zoo'):
        assert part in shown
    assert rung("trace", forged, *flags).returncode == 2

    (tmp_path / "labels.csv").write_text(f"id,label\n{ids[1]},dog\n{forged},dog\n")
    imported = rung("feedback", "import", "labels.csv", "--label-column", "label", *flags)
    assert imported.returncode == 1
    assert "2 rows: 1 taken, 0 known already, 1 refused" in imported.stdout
    assert "dog" in rung("feedback", "list", "tiny", *flags).stdout
    coverage = orjson.loads(rung("feedback", "coverage", "tiny", *flags, "--json").stdout)
    assert [(row["answers"], row["labelled"]) for row in coverage] == [(3, 2)]

    assert "records converted" in rung("log", "convert", *flags).stdout
    erased = rung("log", "erase", "alice", *flags)
    assert erased.returncode == 0, erased.stderr
    with httpx2.Client(base_url=served.url) as client:
        ask(client, "bob")
    assert served.end() == 0
    for path in [*(tmp_path / "log").rglob("*"), *(tmp_path / "data").rglob("*")]:
        assert not path.is_file() or b"alice" not in path.read_bytes()
    assert "no record" in rung("trace", ids[0], *flags).stdout
    assert "unit bob" in rung("trace", ids[1], *flags).stdout
    stats = orjson.loads(rung("log", "stats", *flags, "--json").stdout)
    assert {"table": "predictions", "model": "tiny", "rows": 1, "files": 1} in stats["tables"]


def test_killed_it_keeps_what_it_acknowledged_and_says_what_may_be_lost(serve, tmp_path):
    artifact = models.tiny(tmp_path / "tiny.onnx")
    acknowledged, answered = [], []
    for _ in range(3):
        served = serve(artifact, "--log", "log")
        with httpx2.Client(base_url=served.url) as client:
            for number in range(20):
                prediction = ask(client)
                answered.append((prediction, time.monotonic()))
                said = client.post("/feedback", json={"id": prediction, "score": number})
                acknowledged += said.json()["events"]
        served.process.kill()
        served.process.wait()
        killed = time.monotonic()
        reader = SegmentReader(tmp_path / "log")
        records = [record for _, record in reader]
        assert {r.event for r in records if isinstance(r, FeedbackRecord)} >= set(acknowledged)
        found = {r.id for r in records if isinstance(r, PredictionRecord)}
        # What is older than the window is there; what was answered within it may be.
        assert {prediction for prediction, at in answered if at < killed - 1.0} <= found
        assert not [one for one in reader.damage if one.kind == "corrupt"]
    served = serve(artifact, "--log", "log")
    eventually(lambda: any(line.get("action") == "log_unclean" for line in served.log()))
    assert served.end() == 0
    marks = [r for _, r in read(tmp_path / "log") if isinstance(r, MarkRecord)]
    assert [(mark.kind, mark.clean) for mark in marks] == [
        ("open", True),
        ("open", False),
        ("open", False),
        ("open", False),
        ("close", True),
    ]
    assert all(mark.lost == 1.0 for mark in marks if not mark.clean)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of one mebibyte, which only root may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_costs_records_and_no_answer_and_is_told(serve, small_disk, tmp_path):
    environment = {"RUNG_LOG_INPUTS": "body", "RUNG_LOG_OUTPUTS": "tensors", "RUNG_LOG_BUFFER": str(256 << 10)}
    served = serve(models.tiny(tmp_path / "tiny.onnx"), "--log", small_disk / "log", env=environment)
    filler = small_disk / "filler"
    with httpx2.Client(base_url=served.url) as client:
        ids = [ask(client)]
        assert client.post("/feedback", json={"id": ids[0], "label": 1}).status_code == 200
        with filler.open("wb") as file, suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(4096))
        refused = client.post("/feedback", json={"id": ids[0], "label": "long" * 5000})
        assert refused.status_code == 503
        assert "No space left" in refused.json()["error"]
        rows = {**KIND, "rung-unit": "alice"}
        for _ in range(1000):
            answer = client.post("/predict/tiny", content=ROW * 64, headers=rows)
            assert answer.status_code == 200
            ids.append(answer.headers["rung-prediction-id"])
        assert value(client, "rung_log_failing") == 1
        shed = value(client, "rung_log_shed_total", model="tiny")
        filler.unlink()
        eventually(lambda: value(client, "rung_log_failing") == 0, 10.0)
        assert client.post("/feedback", json={"id": ids[0], "label": 3}).status_code == 200
        shed = value(client, "rung_log_shed_total", model="tiny")
    assert served.end() == 0
    reader = SegmentReader(small_disk / "log")
    records = [record for _, record in reader]
    found = {r.id for r in records if isinstance(r, PredictionRecord)}
    assert not [one for one in reader.damage if one.kind != "torn"]
    assert sum(r.count for r in records if isinstance(r, ShedRecord)) == shed
    # Every answer is in the log or counted.
    assert len(set(ids) - found) == shed
    assert {r.value for r in records if isinstance(r, FeedbackRecord)} >= {1, 3}

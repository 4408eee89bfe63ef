"""What operators see: counters that agree with what was sent, times that add up, logs that can be read by programs."""

import re

import httpx2
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rung.testing import models

KIND = {"content-type": "application/octet-stream"}
ROW = np.full(16, 0.5, np.float32).tobytes()


@pytest.fixture
def client(serve, tmp_path):
    with httpx2.Client(base_url=serve(models.tiny(tmp_path / "tiny.onnx")).url) as client:
        yield client


def samples(client: httpx2.Client) -> dict[str, float]:
    """`name{labels}` -> value, read as Prometheus reads it."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = {}
    for family in text_string_to_metric_families(answer.text):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_counters_agree_with_what_was_sent(client):
    before = samples(client)
    for rows in (1, 2, 3):
        assert client.post("/predict/tiny", content=ROW * rows, headers=KIND).status_code == 200
    assert client.post("/predict/tiny", content=ROW[:-1], headers=KIND).status_code == 400
    assert client.get("/nowhere").status_code == 404
    after = samples(client)
    grown = {name: value - before.get(name, 0.0) for name, value in after.items() if value != before.get(name)}
    labels = "model=tiny,version=1"
    assert grown[f"rung_inference_rows_total{{{labels}}}"] == 6
    assert grown[f"nv_inference_count{{{labels}}}"] == 6
    assert grown[f"rung_model_calls_total{{{labels}}}"] == grown[f"nv_inference_exec_count{{{labels}}}"] == 3
    assert grown[f"nv_inference_request_success{{{labels}}}"] == 3
    for part in ("request", "queue", "compute"):
        assert grown[f"rung_{part}_duration_seconds_count{{{labels}}}"] == 3
        assert grown[f"rung_{part}_duration_seconds_bucket{{le=+Inf,{labels}}}"] == 3
    # The page that is being made has not been counted yet; the one before it has.
    assert grown["rung_http_replies_total{status=200}"] == 4
    assert grown["rung_http_replies_total{status=400}"] == 1
    assert grown["rung_http_replies_total{status=404}"] == 1
    assert after["rung_http_connections"] == 1
    assert after["rung_ready"] == 1
    assert after[f"rung_requests_in_flight{{{labels}}}"] == 0


def test_buckets_are_cumulative(client):
    for _ in range(20):
        client.post("/predict/tiny", content=ROW, headers=KIND)
    buckets = [
        value for name, value in samples(client).items() if name.startswith("rung_request_duration_seconds_bucket")
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 20


@pytest.mark.parametrize("door", ["raw", "rows", "open inference"])
def test_the_parts_of_a_request_sum_to_its_whole(client, door):
    timed = {"rung-timing": "1"}
    body = {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}]}
    answer = {
        "raw": lambda: client.post("/predict/tiny", content=ROW, headers=KIND | timed),
        "rows": lambda: client.post("/predict/tiny", json=[[0.5] * 16], headers=timed),
        "open inference": lambda: client.post("/v2/models/tiny/infer", json=body, headers=timed),
    }[door]()
    parts = {name: float(ms) for name, ms in re.findall(r"([\w]+);dur=([\d.]+)", answer.headers["server-timing"])}
    total = parts.pop("total")
    assert {"parse", "queue", "compute", "encode"} <= parts.keys()
    assert 0 < parts["compute"] < total < 1000
    assert sum(parts.values()) == pytest.approx(total, abs=0.001)


@pytest.mark.parametrize("wanted", [True, False])
def test_every_log_line_is_an_event_and_requests_are_logged_only_when_asked_for(serve, tmp_path, wanted):
    served = serve(models.tiny(tmp_path / "tiny.onnx"), *(["--access-log"] if wanted else []))
    with httpx2.Client(base_url=served.url) as client:
        client.post("/predict/tiny", content=ROW, headers=KIND)
        client.get("/no\r\nwhere?token=secret".replace("\r\n", "%0d%0a"))
    assert served.end() == 0
    lines = served.log()
    assert len(lines) == len(served.stderr().splitlines())
    assert all(line["action"] and line["level"] and line["timestamp"] for line in lines)
    assert {"available", "drain", "stopped"} <= {line["action"] for line in lines}
    access = [(line["method"], line["path"], line["status"]) for line in lines if line["action"] == "access"]
    assert access == ([("POST", "/predict/tiny", 200), ("GET", "/no\r\nwhere", 404)] if wanted else [])
    assert "secret" not in served.stderr()

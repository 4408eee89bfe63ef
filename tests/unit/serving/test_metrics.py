import asyncio

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from rung.domain.errors import ModelError
from rung.domain.predictions import Request
from rung.serving.assembly import ManagerOptions
from rung.serving.manager import Manager
from rung.serving.metrics import collect
from rung.telemetry import Metrics

LABELS = {"model": "m", "version": "3"}


@pytest.fixture
def page(source):
    """The metrics after four answered requests of six rows and one poisoned one: samples by name."""
    source.offer("m", 3)

    async def run():
        manager = Manager([source], ManagerOptions())
        await manager.open()
        try:
            predict = manager.find("m").predict
            for rows in (1, 2, 1, 2):
                await predict(Request({"x": np.ones((rows, 2), np.float32)}, rows))
            with pytest.raises(ModelError):
                await predict(Request({"x": np.full((1, 2), 2e30, np.float32)}))
            media, text = Metrics([lambda: collect(manager.servables())]).render()
            assert b"text/plain" in media or b"openmetrics" in media
            return text.decode()
        finally:
            await manager.close()

    samples = {}
    for family in text_string_to_metric_families(asyncio.run(run())):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    return samples


def only(page, name, **labels):
    found = [value for have, value in page[name] if have == LABELS | labels]
    assert len(found) == 1, (name, page[name])
    return found[0]


def test_counts(page):
    assert only(page, "rung_inference_rows_total") >= 6
    assert only(page, "rung_request_failures_total", error="ModelError") == 1
    assert only(page, "rung_requests_in_flight") == 0
    assert sum(value for _, value in page["rung_batches_released_total"]) == only(page, "rung_model_calls_total")


@pytest.mark.parametrize("part", ["request", "queue", "compute"])
def test_histograms_are_true_ones(page, part):
    name = f"rung_{part}_duration_seconds"
    buckets = [(float(labels["le"]), value) for labels, value in page[f"{name}_bucket"]]
    assert buckets == sorted(buckets)
    assert [value for _, value in buckets] == sorted(value for _, value in buckets), "cumulated"
    assert buckets[-1] == (float("inf"), 4)
    assert only(page, f"{name}_count") == 4
    assert only(page, f"{name}_sum") >= 0


def test_triton_s_names(page):
    assert only(page, "nv_inference_request_success") == 4
    assert only(page, "nv_inference_count") >= 6
    assert only(page, "nv_inference_request_failure", reason="BACKEND") == 1
    assert only(page, "nv_inference_pending_request_count") == 0
    assert only(page, "nv_inference_request_duration_us") > 0


def test_tf_serving_s_names(page):
    counts = {labels["status"]: value for labels, value in page[":tensorflow:serving:request_count"]}
    assert counts == {"OK": 4, "INTERNAL": 1}
    buckets = [(float(labels["le"]), value) for labels, value in page[":tensorflow:serving:request_latency_bucket"]]
    assert buckets[0][0] == 10, "microseconds"
    assert buckets[-1] == (float("inf"), 4)
    assert {labels["model_name"] for labels, _ in page[":tensorflow:serving:runtime_latency_bucket"]} == {"m"}
    assert page[":tensorflow:serving:request_latency_sum"][0][1] > 0

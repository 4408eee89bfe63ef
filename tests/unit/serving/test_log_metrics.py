import errno
from types import SimpleNamespace

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from rung.domain.records import PredictionRecord
from rung.serving.log import ArmRecorder, PredictionLog
from rung.serving.log_metrics import collect
from rung.telemetry import Metrics


def values(families):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def recorder():
    arm = ArmRecorder()
    for number, seconds in enumerate((0.0004, 0.0004, 0.2)):
        arm.fresh.append(PredictionRecord(f"id-{number}", 1.7e9, "m", 3, "canary", total=seconds))
    arm.requests, arm.errors["ModelError", "server"] = 1, 1
    return arm


def test_arms_are_told_apart_and_link_to_predictions(tmp_path):
    log = PredictionLog(tmp_path, bytes(32), replica="r0")
    logged = SimpleNamespace(name="m", version=3, arms={"canary": recorder()})
    shown = SimpleNamespace(logged=[logged], writer=log.writer, feedback={("m", "label"): 2})
    media, page = Metrics([lambda: collect(shown)]).render(
        b"application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    )
    assert media.startswith(b"application/openmetrics-text")
    families = list(text_string_to_metric_families(page.decode()))
    found = values(families)
    arm = (("arm", "canary"), ("model", "m"), ("version", "3"))
    assert found["rung_arm_completed_total", arm] == 4
    assert found["rung_arm_errors_total", tuple(sorted([*arm, ("blame", "server"), ("error", "ModelError")]))] == 1
    assert found["rung_arm_duration_seconds_count", arm] == 3
    assert found["rung_feedback_events_total", (("kind", "label"), ("model", "m"))] == 2
    exemplars = {
        sample.labels["le"]: sample.exemplar
        for family in families
        for sample in family.samples
        if sample.name == "rung_arm_duration_seconds_bucket" and sample.exemplar
    }
    assert {le: one.labels["prediction_id"] for le, one in exemplars.items()} == {"0.0005": "id-1", "0.25": "id-2"}
    assert exemplars["0.25"].value == 0.2


def test_the_plain_format_shows_the_same_without_exemplars(tmp_path):
    log = PredictionLog(tmp_path, bytes(32), replica="r0")
    shown = SimpleNamespace(
        logged=[SimpleNamespace(name="m", version=3, arms={"canary": recorder()})], writer=log.writer, feedback={}
    )
    media, page = Metrics([lambda: collect(shown)]).render()
    assert media.startswith(b"text/plain")
    assert b'rung_arm_duration_seconds_count{arm="canary",model="m",version="3"} 3.0' in page
    assert b"id-1" not in page


def test_what_is_shed_and_what_the_disk_says(tmp_path, monkeypatch):
    log = PredictionLog(tmp_path, bytes(32), replica="r0", buffer_bytes=300)
    log.writer.append(PredictionRecord("a", 1.0, "m", 1), 200)
    log.writer.append(PredictionRecord("b", 1.0, "m", 1), 200)
    found = values(collect(log))
    assert found["rung_log_shed_total", (("model", "m"), ("reason", "buffer full"))] == 1
    assert found["rung_log_buffer_bytes", ()] == 200
    assert found["rung_log_failing", (("reason", ""),)] == 0
    log.writer.error = f"disk: {errno.errorcode[errno.ENOSPC]}"
    assert values(collect(log))["rung_log_failing", (("reason", "disk: ENOSPC"),)] == 1

import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rung.domain.alerts import AlertRule
from rung.loop.alert_rules import RULES
from rung.loop.exposition import Gains, Sample, read
from rung.loop.prometheus import PANELS, dashboard, queries, rule_file
from rung.loop.watching import of_metrics
from rung.testing import models

OBJECTIVES = {"tiny": 0.05, "other": 0.0}


def expressions() -> list[str]:
    return [*queries(RULES, OBJECTIVES).values(), *(query for panel in PANELS for query in panel.queries.values())]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a replica with a prediction log answers with at `/metrics`, after a request and a failed one."""
    folder = tmp_path_factory.mktemp("replica")
    models.tiny(folder / "tiny.onnx")
    models.poison(folder / "poison.onnx")
    command = [
        sys.executable,
        "-m",
        "rung",
        "serve",
        "tiny.onnx",
        "poison.onnx",
        "--log",
        "log",
        "--port",
        "0",
        "--json",
    ]
    with (folder / "err").open("wb") as errors:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors)
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        body = json.dumps([[0.5] * 16]).encode()
        kind = {"content-type": "application/json"}
        poison = b"[[2e30, 0, 0, 0]]"
        for model, sent in (("tiny", body), ("tiny", b"[[1]]"), *[("poison", poison)] * 5):
            request = urllib.request.Request(f"{url}/predict/{model}", sent, kind)
            try:
                urllib.request.urlopen(request, timeout=30).close()
            except urllib.error.HTTPError as error:
                error.close()
        with urllib.request.urlopen(f"{url}/metrics", timeout=30) as reply:
            yield reply.read().decode()
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def test_every_metric_that_is_named_is_exported(page: str) -> None:
    """By its samples, or by its type where nothing was counted yet."""
    there = set(re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)) | {one.name for one in read(page)}
    named = {name for text in expressions() for name in re.findall(r"\b(?:rung|process)_\w+", text)}
    assert named >= {"rung_request_failures_total", "rung_log_shed_total", "rung_ready", "process_start_time_seconds"}
    assert named - there == set()


def test_and_has_the_labels_that_are_asked_for(page: str) -> None:
    buckets = [one for one in read(page) if one.name == "rung_request_duration_seconds_bucket"]
    assert buckets
    assert all(one.labels.keys() == {"model", "version", "le"} for one in buckets)


def test_what_rung_itself_makes_of_it(page: str) -> None:
    gains = (Gains(300), Gains(600))
    of_metrics([], {"tiny": 0.05}, 0.0, gains, 0.0)
    none = [("r", Sample(one.name, one.labels, 0.0)) for one in read(page)]
    of_metrics(none, {"tiny": 0.05}, 0.0, gains, 1.0)
    found = of_metrics([("r", one) for one in read(page)], {"tiny": 50.0}, 0.0, gains, 2.0)
    values = {one.metric: one.value for one in found if one.labels.get("model") != "poison"}
    assert next(one.value > 0.05 for one in found if one.labels == {"model": "poison"})  # type: ignore[operator]
    assert values == {"log_failing": 0.0, "log_lost": 0.0, "error_share": 0.0, "shed_share": 0.0, "slow_share": 0.0}


def test_failures_of_a_model_are_one_group(page: str) -> None:
    found = [one for one in read(page) if one.name == "rung_exceptions_total"]
    assert [(one.value, one.labels["type"], one.labels["version"]) for one in found] == [
        (5.0, "ModelError", "poison 1")
    ]
    assert found[0].labels["place"].startswith("rung.")


def test_the_rule_file_says_what_the_rules_say() -> None:
    [group] = yaml.safe_load(rule_file(RULES, OBJECTIVES))["groups"]
    by_name = {one["alert"]: one for one in group["rules"]}
    assert by_name.keys() == {
        "RungErrors",
        "RungLatency",
        "RungShed",
        "RungProcessDown",
        "RungProcessRestarts",
        "RungLogLost",
        "RungLogFailing",
    }
    errors = by_name["RungErrors"]
    assert errors["labels"] == {"severity": "critical", "cause": "serving"}
    assert "> 0.01" in errors["expr"]
    assert "{{ $labels.model }}" in errors["annotations"]["summary"]
    assert by_name["RungProcessDown"]["for"] == "15s"
    assert 'model="tiny"' in by_name["RungLatency"]["expr"]
    assert "other" not in by_name["RungLatency"]["expr"]


def test_a_changed_rule_and_one_of_ones_own() -> None:
    own = AlertRule(name="my-errors", metric="error_share", above=0.2, labels={"model": 'a"b'}, says='"quoted": {x}')
    [group] = yaml.safe_load(rule_file([own], {}))["groups"]
    [rule] = group["rules"]
    assert 'model="a\\"b"' in rule["expr"]
    assert "> 0.2" in rule["expr"]


def test_brackets_are_balanced() -> None:
    for text in expressions():
        for opening, closing in ("()", "[]", "{}"):
            assert text.count(opening) == text.count(closing), text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(rule_file(RULES, OBJECTIVES))
    checked = subprocess.run(
        ["promtool", "check", "rules", "rules.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_dashboard_has_a_panel_for_each() -> None:
    board = json.loads(dashboard("rung: p"))
    assert [panel["title"] for panel in board["panels"]] == [panel.title for panel in PANELS]
    assert len({panel["id"] for panel in board["panels"]}) == len(PANELS)
    assert all(panel["targets"] for panel in board["panels"])

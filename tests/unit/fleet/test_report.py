"""What `rung experiment` and `rung selftest stats` show of a log that is there."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
import pytest

from rung.catalog import releases
from rung.cli import experiment as bodies
from rung.domain.errors import Conflict, InvalidInput
from rung.domain.records import FeedbackRecord, PredictionRecord
from rung.domain.releases import Release
from rung.fleet.policy import read_policy
from rung.fleet.report import as_json, as_text, observe
from rung.fleet.selftest import climb_ladder, quiet, replay_guards
from rung.store.blobs import DiskStore
from rung.store.segment_writer import SegmentWriter

POLICY = read_policy({"guard": ["errors", {"metric": "latency", "ratio": 2.0}, "quality"], "maturity": 0.001})
UnitsOf = Callable[[Release, str], Iterator[str]]
Predict = Callable[..., PredictionRecord]


class Project:
    def __init__(self, folder: Path, predict: Predict, units_of: UnitsOf) -> None:
        self.store = DiskStore(folder / "repository")
        self.log = folder / "log"
        self._predict, self._units_of = predict, units_of
        for version in (1, 2):
            self.store.put(f"m/{version}/model.onnx", b"made up")

    def answer(self, release: Release, units: dict[str, int], **canary: object) -> None:
        """Answer so many units of each arm, and say of each that it was right."""
        rng = np.random.default_rng(1)
        began = datetime.fromisoformat(release.at).timestamp()
        writer = SegmentWriter(self.log, replica="one")
        writer.open()
        for arm, count in units.items():
            for number, unit in enumerate(islice(self._units_of(release, arm), count)):
                fields = canary if arm in ("canary", "v2") else {}
                values = {"time": began + 60 * number / count, "total": float(rng.uniform(0.01, 0.02))} | fields
                one = self._predict(release, arm, unit, **values)
                writer.append(one)
                when = one.time + 0.0001
                writer.append(FeedbackRecord(one.id, one.id, when, when, "score", True, "", "m", 1, arm, one.time))
        writer.close()


@pytest.fixture
def project(tmp_path: Path, predict: Predict, units_of: UnitsOf) -> Project:
    return Project(tmp_path, predict, units_of)


def test_a_rollout_is_shown_with_counts_intervals_labels_and_time_to_decide(project: Project, tmp_path: Path) -> None:
    release = releases.rollout(project.store, "m", 2, ladder=(25.0, 100.0), by="ann")
    project.answer(release, {"stable": 600, "canary": 300, "baseline": 300})
    now = datetime.fromisoformat(release.at).timestamp() + 61
    report = observe(project.store, project.log, "m", POLICY, now=now)
    found = json.loads(orjson.dumps(as_json(report)))
    assert found["arms"]["canary"]["units"] == 300
    assert found["arms"]["canary"]["labels"]["coverage"] == 1.0
    assert [one["outcome"] for one in found["guards"]] == ["inconclusive", "pass", "inconclusive"]
    errors = found["guards"][0]
    # Nobody failed in 300 units: some 700 show that not 1 % more do.
    assert 1.5 < errors["more"] < 4
    assert errors["seconds"] == pytest.approx((errors["more"] - 1) * 61, rel=1e-3)
    assert found["next"]["action"] == "wait"
    text = as_text(report)
    for part in ("version 2 at 25 %", "0.00 % [0.00, 1.22]", "100.00 % [98.78, 100.00] of mature", "no mismatch seen"):
        assert part in text
    assert "could decide with" in text


def test_a_picture_is_drawn(project: Project, tmp_path: Path) -> None:
    from rung.fleet.plot import draw

    release = releases.rollout(project.store, "m", 2, ladder=(25.0, 100.0), by="ann")
    rules = {guard.name: guard.rule for guard in POLICY.guards}
    empty = observe(project.store, project.log, "m", POLICY)
    with pytest.raises(InvalidInput, match="nothing to draw"):
        draw(empty, rules, tmp_path / "a.png")
    project.answer(release, {"stable": 100, "canary": 150, "baseline": 150})
    report = observe(project.store, project.log, "m", POLICY)
    draw(report, rules, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidInput, match=r"\.png or \.svg"):
        draw(report, rules, tmp_path / "a.gif")


def test_a_split_is_an_experiment_too(project: Project) -> None:
    release = releases.split(project.store, "m", {1: 90, 2: 10}, by="ann")
    project.answer(release, {"v1": 900, "v2": 100}, error="ModelError", blame="server")
    report = observe(project.store, project.log, "m", POLICY)
    assert report.action is None
    assert report.guards[0].verdict.outcome == "fail"
    assert "a split, version 1 90 %, version 2 10 %" in as_text(report)


def test_what_is_over_is_still_shown(project: Project) -> None:
    with pytest.raises(Conflict, match="no experiment"):
        releases.release(project.store, "m", 1, by="ann")
        observe(project.store, project.log, "m", POLICY)
    release = releases.rollout(project.store, "m", 2, ladder=(25.0, 100.0), by="ann")
    project.answer(release, {"canary": 40, "baseline": 40, "stable": 80}, flags=1)
    releases.rollback(project.store, "m", by="ann")
    report = observe(project.store, project.log, "m", POLICY)
    assert (report.over, report.action) == (True, None)
    assert "WIRE: " in as_text(report)


def test_the_commands_print_for_people_and_programs(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    release = releases.rollout(project.store, "m", 2, ladder=(25.0, 100.0), by="ann")
    project.answer(release, {"stable": 500, "canary": 200, "baseline": 200})
    where = bodies.Where(str(tmp_path / "repository"), str(tmp_path / "log"))
    bodies.experiment("m", where, "", tmp_path / "picture.svg", as_json=False)
    assert "picture: " in capsys.readouterr().out
    bodies.experiment("m", where, "", None, as_json=True)
    assert json.loads(capsys.readouterr().out)["model"] == "m"
    bodies.stats("m", where, bodies.Chance(10, 0.02, 1), as_json=False)
    printed = capsys.readouterr().out
    assert "errors: 500 units" in printed
    assert "Whole simulated rollouts, errors at 2 % of units" in printed


def test_quiet_traffic_is_replayed(predict: Predict) -> None:
    """A/A on a log of the user's own: false alarms within alpha, and what 15 points of harm look like."""
    rng = np.random.default_rng(2)
    release = _quiet_release()
    records: list[PredictionRecord | FeedbackRecord] = []
    for number in range(1_500):
        bad = {"error": "ModelError", "blame": "server"} if rng.random() < 0.05 else {}
        one = predict(release, "stable", f"u{number}", total=float(rng.lognormal(-4, 0.5)), **bad)
        records.append(one)
        if number % 3 == 0:
            score = float(rng.random() < 0.8)
            records.append(FeedbackRecord(one.id, one.id, one.time, one.time, "score", score, "", "model"))
    values = quiet(records, "model")
    assert len(values.errors) == 1_500
    assert 450 < len(values.quality) <= 500
    policy = read_policy({"guard": [{"metric": "errors", "tolerance": 0.15}, "latency", "quality", "corrections"]})
    found = {one.name: one for one in replay_guards(policy, values, rng=rng, runs=20)}
    for one in found.values():
        assert one.false_alarms is not None
        assert one.false_alarms.fired <= 1
    assert found["errors"].power is not None
    assert found["errors"].power.rate > 0.8
    assert replay_guards(policy, quiet(records[:50], "model"), rng=rng)[0].note.endswith("at least 400 are needed")


def _quiet_release() -> Release:
    from rung.fleet.simulate import released

    return released((5.0, 100.0))


def test_the_ladder_is_tested_with_the_plan_that_is_used() -> None:
    found = climb_ladder(read_policy({}), 0.05, 0.3, rng=np.random.default_rng(3), runs=5, looks=10)
    assert (found.taken_back.count, found.early.count, found.promoted.count) == (5, 5, 0)

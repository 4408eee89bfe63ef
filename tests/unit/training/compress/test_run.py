"""From a version to a smaller one, through the gate; refused ones leave the repository as it was."""

import msgspec
import pytest

from rung.catalog import bundles, models
from rung.domain.errors import ConfigurationError
from rung.testing.models import tiny
from rung.training.compress import latency, run
from rung.training.compress.plans import Wanted
from rung.training.compress.report import REPORT, Latency, Report, table_of
from rung.training.compress.run import compress


@pytest.fixture(autouse=True)
def _short_latency(monkeypatch):
    monkeypatch.setattr(latency, "_SECONDS", 0.05)


def go(project, version=1, **wanted):
    return compress(
        project.store, "digits", version, Wanted(**wanted), settings=project.settings, folder=project.folder
    )


def everything(project):
    return sorted(blob.key for blob in project.store.list(""))


def test_a_smaller_version_with_report_and_lineage(project):
    outcome = go(project, freeze=True, int8="static", max_drop=0.02)

    assert outcome.registered == 2
    assert models.verify(project.store, "digits", 2).ok
    old, digest = bundles.read_version(project.store, "digits", 1)
    new = bundles.read_manifest(project.store, "digits", 2)
    assert new.lineage.parent == digest
    assert new.lineage.data == old.lineage.data
    assert (new.task, new.labels, new.transforms, new.signature, new.description) == (
        *(old.task, old.labels, old.transforms, old.signature, old.description),
    )
    report = msgspec.json.decode(project.store.get(f"digits/2/{REPORT}"), type=Report)
    assert report == outcome.report
    assert report.ratio >= 3.5
    assert report.metric == "accuracy"
    assert report.after.value == new.metrics["accuracy"] > 0.9
    assert report.difference.low <= report.after.value - report.before.value <= report.difference.high
    assert report.verdict.outcome == "pass"
    assert "validation" in report.held_out
    assert [one.name for one in report.slices] == [f"digit = {digit}" for digit in range(10)]
    assert {one.rows for one in report.latency} == {1, 32}
    assert "digit = 3" in "\n".join(table_of(report))


def test_a_drop_that_is_too_large_is_refused_and_nothing_changes(project):
    before = everything(project)
    outcome = go(project, prune=0.97, max_drop=0.005)
    assert outcome.registered == 0
    assert outcome.report.verdict.outcome == "fail"
    assert "over the limit" in outcome.why
    assert any(one.worse for one in outcome.report.slices)
    assert everything(project) == before


def test_what_so_few_rows_cannot_show_is_refused_too(project):
    before = everything(project)
    outcome = go(project, int8="dynamic", max_drop=0.0)
    assert outcome.registered == 0
    assert outcome.report.verdict.outcome == "inconclusive"
    assert "not a pass" in outcome.why
    assert everything(project) == before


def test_a_budget_is_met_with_the_least_harm(project):
    outcome = go(project, budget=200_000, max_drop=0.02)
    assert outcome.report.name == "freeze, int8 static"
    assert outcome.report.size_after <= 200_000
    assert outcome.tried == (f"freeze: {outcome.report.steps[0].size:,} bytes are over the budget of 200,000.",)


def test_a_budget_that_cannot_be_met_says_how_near_it_came(project):
    before = everything(project)
    outcome = go(project, int8="dynamic", budget=1000)
    assert outcome.registered == 0
    assert f"{outcome.smallest:,} bytes" in outcome.why
    assert 180_000 < outcome.smallest < 200_000
    assert everything(project) == before


def test_a_frozen_graph_that_is_slower_is_taken_back(project, monkeypatch):
    def slow(*_graphs, **_rest):
        return (Latency(1, 1e-3, 2e-3, 2.0, 1.9, 2.1, 6),)

    monkeypatch.setattr(run.latency, "measure", slow)
    before = everything(project)
    outcome = go(project, freeze=True)
    assert outcome.registered == 0
    assert "slower: 2.00 times" in outcome.why
    assert everything(project) == before

    outcome = go(project, freeze=True, int8="dynamic", max_drop=0.02)
    assert [(step.name, step.kept) for step in outcome.report.steps] == [("freeze", False), ("int8 dynamic", True)]
    assert any("slower than the original" in note for note in outcome.report.notes)


def test_a_frozen_graph_that_answers_otherwise_is_taken_back(project, monkeypatch):
    from rung.training.compress.prune import sparsify

    monkeypatch.setattr(run, "freeze", lambda graph: sparsify(graph, 0.5)[0])
    outcome = go(project, freeze=True)
    assert outcome.registered == 0
    assert "times the tolerance" in outcome.why


def test_without_data_agreement_is_shown_and_called_that(project, tmp_path):
    models.register(project.store, tiny(tmp_path / "model.onnx"), name="tiny", task="classification")
    outcome = compress(
        project.store,
        "tiny",
        1,
        Wanted(int8="dynamic", max_drop=0.1),
        settings=project.settings,
        folder=project.folder,
    )
    report = outcome.report
    assert report.metric == "agreement"
    assert "made-up" in report.held_out
    assert any("says little of real ones" in note for note in report.notes)
    assert report.after.low < report.after.value <= 1


def test_rows_of_another_source_count(project):
    text = (project.folder / "digits.csv").read_text().splitlines()
    (project.folder / "later.csv").write_text("\n".join([text[0], *text[1200:]]))
    outcome = go(project, freeze=True, int8="dynamic", max_drop=0.03, source="csv:later.csv")
    assert outcome.registered == 2
    assert outcome.report.held_out == "all rows of csv:later.csv"
    assert outcome.report.after.rows == len(text) - 1200


def test_only_onnx_can_be_compressed(project, tmp_path):
    (tmp_path / "prices.csv").write_text("item,price\napple,1.5\npear,2.0\n")
    (tmp_path / "prices.csv.signature.json").write_text('{"key": ["item"]}')
    models.register(project.store, tmp_path / "prices.csv", name="prices", runtime="table")
    with pytest.raises(ConfigurationError, match="only ONNX"):
        compress(project.store, "prices", 1, Wanted(freeze=True), settings=project.settings, folder=project.folder)

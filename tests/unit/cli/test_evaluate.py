"""A project in a folder of its own: its data taken in, a version of known lineage, and the real command."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from rung.catalog import models
from rung.cli import app
from rung.data import datasets
from rung.domain.errors import InvalidData, NotFound
from rung.domain.models import Lineage, Step, Transforms
from rung.settings.file import project_here
from rung.store.blobs import open_store
from rung.testing import models_tasks
from rung.training import latency

Run = Callable[..., Result]

PROJECT = """
[models.line]
task = "regression"
metric = "mae"

[models.line.data]
source = "csv:rows.csv"
label = "y"
key = ["id"]
ignore = ["id", "town"]
slices = ["town"]
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(latency, "_CALLS", 10)
    # Loggers of this process would go on writing to the runner's stream.
    monkeypatch.setattr("rung.cli.evaluate.configure_logs", lambda **_: None)
    Path("rung.toml").write_text(PROJECT)
    rng = random.Random(1)
    lines = []
    for number in range(600):
        a, town = rng.uniform(-3, 3), rng.choice(["north", "south"])
        lines.append(f"{number},{a:.4f},{town},{2 * a + rng.gauss(0, 0.3 if town == 'north' else 0.9):.4f}")
    Path("rows.csv").write_text("id,a,town,y\n" + "\n".join(lines) + "\n")
    Path("others.csv").write_text("id,a,town,y\n" + "\n".join(f"1000{line}" for line in lines[:50]) + "\n")

    project = project_here()
    version = datasets.ingest(open_store(project.project.data), "line", project.models["line"].dataset, tmp_path)
    store = open_store(project.project.repository)
    steps = Transforms((Step("tabular.columns", {"columns": [{"name": "a"}]}),), (Step("regression.value"),))
    for factor in (2.0, 2.6):
        path = models_tasks._save(
            tmp_path / "line.onnx",
            "line (float[N, 1] x) => (float[N, 1] y) { y = MatMul(x, weight) }",
            {"weight": np.array([[factor]], np.float32)},
        )
        lineage = Lineage(data={"line": version.digest})
        models.register(store, path, name="line", task="regression", transforms=steps, lineage=lineage)

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["evaluate", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def test_the_holdout_of_what_it_was_trained_on(run: Run) -> None:
    lines = run("line", "1").stdout.splitlines()

    assert lines[0].startswith("line version 1: regression of ")
    assert lines[0].endswith("of 600 rows, by hash of id")
    assert lines[1].startswith("mae 0.")
    text = "\n".join(lines)
    assert "town = south" in text
    assert "worse" in text
    assert "rows in both" in text
    assert "artifact: " in text
    assert lines[-1] == "written: .rung/scorecards/line/1/scorecard.html"
    written = {path.name for path in Path(".rung/scorecards/line/1").iterdir()}
    assert written == {"scorecard.json", "scorecard.html", "residuals.png", "slices.png"}


def test_against_another_version_as_json(run: Run) -> None:
    card = json.loads(run("line", "--against", "1", "--json").stdout)

    assert card["version"] == 2
    assert card["trained_on"] == [card["dataset"]]
    difference = card["comparison"]["differences"][0]
    assert (difference["figure"]["name"], difference["standing"]) == ("mae", "worse")
    assert {one["rule"]: one["outcome"] for one in card["checks"]}["rows in both"] == "pass"
    assert not Path(".rung/scorecards").exists()


def test_another_source_in_another_folder(run: Run, tmp_path: Path) -> None:
    run("line", "1", "--source", "csv:others.csv", "--out", "card")

    card = json.loads((tmp_path / "card" / "scorecard.json").read_text())
    assert (card["rows"], card["held_out"], card["split"]) == (50, "all rows of csv:others.csv", "all")
    assert {one["rule"]: one["outcome"] for one in card["checks"]}["rows in both"] == "pass"
    # Nothing of it was kept as data of the model.
    assert len(datasets.versions(open_store(".rung/data"), "line")) == 1


def test_rows_that_it_was_trained_on_are_found_in_another_source(run: Run) -> None:
    card = json.loads(run("line", "1", "--source", "csv:rows.csv", "--json").stdout)
    check = next(one for one in card["checks"] if one["rule"] == "rows in both")
    assert check["outcome"] == "fail"
    assert 400 < check["evidence"]["found"] < 600


def test_what_is_not_there(run: Run) -> None:
    with pytest.raises(NotFound, match="no version 7 of line"):
        run("line", "7")
    with pytest.raises(NotFound, match="no model circle"):
        run("circle")
    Path("rung.toml").write_text(PROJECT + "test = 0\nvalidation = 0\n")
    with pytest.raises(InvalidData, match="no row falls into the split 'test'"):
        run("line", "1")

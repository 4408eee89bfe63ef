import importlib
from types import SimpleNamespace

import msgspec
import pytest

from rung.app.handlers import HANDLERS, SUBMITTED, erase, train, verify
from rung.catalog import models as catalog
from rung.domain.errors import InvalidInput, TrainingFailed
from rung.domain.runs import RunSpec
from rung.settings.file import load_project
from rung.store.blobs import DiskStore
from rung.testing.models import tiny
from rung.training import runs
from rung.training.run import train_model


def context(kind, **arguments):
    return SimpleNamespace(arguments=arguments, job=SimpleNamespace(kind=kind))


def test_every_row_names_a_function():
    for handler in HANDLERS.values():
        module, _, name = handler.target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    assert set(SUBMITTED) <= set(HANDLERS)


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "rung.toml").write_text("[project]\nrepository = 'here'")
    catalog.register(DiskStore(tmp_path / "here"), tiny(tmp_path / "tiny.onnx"), name="tiny")
    monkeypatch.chdir(tmp_path)


def test_a_version_is_verified(project):
    found = verify(context("models.verify", model="tiny"))

    assert (found["version"], found["examples"], found["problem"]) == (1, 2, "")


@pytest.mark.parametrize("arguments", [{}, {"model": 1}, {"model": "tiny", "path": "/"}])
def test_other_arguments_are_refused(project, arguments):
    with pytest.raises(InvalidInput, match=r"models\.verify"):
        verify(context("models.verify", **arguments))


def test_a_unit_of_which_nothing_is_known_is_erased(project):
    assert erase(context("predictions.erase", unit="u-1"))["rows"] == 0
    with pytest.raises(InvalidInput):
        erase(context("predictions.erase", unit="u-1", log="/etc"))


def training(tmp_path, **arguments):
    """One try at a job that trains, and all that it said."""
    said = []
    made = context("models.train", **arguments)
    made.job.id, made.job.created = 7, 1.5
    made.progress = lambda fraction, note: said.append((fraction, note))
    made.should_stop = lambda: False
    return made, said


TRAINED = """
[project]
repository = 'here'

[models.cups]
task = "regression"
train = "cups:train"
data = { source = "csv:cups.csv", label = "y" }
params = { fail = false, depth = 2 }
"""

CUPS = """
from sklearn.tree import DecisionTreeRegressor


def train(ctx):
    x, y = ctx.data.arrays("train")
    if not (ctx.folder / "tried").exists():
        (ctx.folder / "tried").touch()
        if ctx.params.fail:
            raise ConnectionError("once")
    ctx.report(rmse=0.5)
    return DecisionTreeRegressor(max_depth=ctx.params.depth, random_state=ctx.seed).fit(x, y)
"""


@pytest.fixture
def cups(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    (tmp_path / "rung.toml").write_text(TRAINED)
    (tmp_path / "cups.py").write_text(CUPS)
    (tmp_path / "cups.csv").write_text("x,y\n" + "".join(f"{i},{i * 2}\n" for i in range(60)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_however_often_a_job_is_tried_it_makes_one_run_and_one_version(cups):
    job, said = training(cups, model="cups", set={"fail": True})
    with pytest.raises(TrainingFailed, match="ConnectionError: once"):
        train(job)
    found = train(job)
    assert (found["name"], found["version"], found["metrics"]) == ("cups-1", 1, {"rmse": 0.5})
    assert ("step 0  rmse 0.5") in [note for _, note in said]

    # Its worker was killed before it could say so: the answer is the same, and nothing is done again.
    assert train(job) == found
    assert [entry.version for entry in catalog.list_models(DiskStore(cups / "here"))] == [1]
    assert [run.name for run in runs.list_runs(cups)] == ["cups-1"]

    # Killed between registering and writing that down, it finds the version that is there.
    folder = cups / ".rung" / "runs" / "cups-1"
    (folder / "result.json").unlink()
    resumed = msgspec.json.decode((folder / "state.json").read_bytes())
    (folder / "state.json").write_bytes(msgspec.json.encode({**resumed, "ended": "killed"}))
    spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=RunSpec)
    again = train_model(load_project(cups), cups, spec, resume="cups-1")
    assert again.version == 1
    assert [entry.version for entry in catalog.list_models(DiskStore(cups / "here"))] == [1]


def test_a_run_that_was_killed_before_it_was_described_is_described_when_it_goes_on(cups):
    job, _ = training(cups, model="cups", set={"fail": True})
    with pytest.raises(TrainingFailed):
        train(job)
    folder = cups / ".rung" / "runs" / "cups-1"
    for name in ("environment.json", "code.json", "code.tar.gz"):
        (folder / name).unlink()
    assert train(job)["version"] == 1
    assert {"environment.json", "code.json", "code.tar.gz"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, r"models\.train"),
        ({"model": "cup"}, "no model 'cup'"),
        ({"model": "cups", "set": {"dept": 3}}, "did you mean depth"),
        ({"model": "cups", "set": {"depth": "deep"}}, "depth is 2, and 'deep' is no whole number"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused_before_a_run_begins(cups, arguments, words):
    with pytest.raises(InvalidInput, match=words):
        train(training(cups, **arguments)[0])
    assert runs.list_runs(cups) == []

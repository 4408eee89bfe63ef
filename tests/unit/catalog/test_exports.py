"""Folders that are written for MLflow, read back by the importer; `tests/clients` holds them against MLflow itself."""

import json
from pathlib import Path

import numpy as np
import pytest

from rung.catalog import models
from rung.catalog.exports import export_mlflow
from rung.catalog.graphs import register_graph
from rung.catalog.imports import import_models
from rung.catalog.models import show
from rung.domain.errors import BundleError, Conflict, InvalidInput, NotFound
from rung.domain.models import Graph, Node, Step, Transforms
from rung.runtimes.mlflow import MlflowRuntime, read_mlmodel
from rung.store.blobs import DiskStore
from rung.testing import models as small


@pytest.fixture(autouse=True)
def _scale_runtime():
    """The real runtimes, and not those that this folder's other tests see."""


@pytest.fixture
def store(tmp_path):
    """A repository with one ONNX model, `half`, that halves its input."""
    store = DiskStore(tmp_path / "repository")
    small.scale(tmp_path / "half.onnx", 0.5)
    models.register(store, tmp_path / "half.onnx", name="half")
    return store


def test_what_was_exported_is_imported_and_answers_the_same(store, tmp_path):
    written = export_mlflow(store, "half", None, tmp_path / "out" / "half")
    assert (written.name, written.version, written.flavor) == ("half", 1, "onnx")
    assert sorted(path.name for path in written.folder.iterdir()) == [
        "MLmodel",
        "half.onnx",
        "python_env.yaml",
        "requirements.txt",
    ]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["half"], "nothing is left beside it"

    other = DiskStore(tmp_path / "other")
    report = import_models(other, str(written.folder))
    assert [(one.name, one.runtime) for one in report.imported] == [("half", "mlflow")]
    assert show(other, "half").signature == show(store, "half").signature
    model = MlflowRuntime().load(written.folder, models.LoadOptions())
    (given,) = model.signature.inputs
    answer = model.predict({given.name: np.full((2, *given.shape[1:]), 3.0, np.float32)})
    model.close()
    np.testing.assert_array_equal(next(iter(answer.values())), 1.5)

    # And once more, as it came.
    again = export_mlflow(other, "half", 1, tmp_path / "again")
    assert again.flavor == "mlflow"
    assert (again.folder / "MLmodel").read_bytes() == (written.folder / "MLmodel").read_bytes()


def test_signature_and_needs_are_written_down(store, tmp_path):
    folder = export_mlflow(store, "half", 1, tmp_path / "half").folder
    declared = read_mlmodel(folder)
    (given,) = show(store, "half").signature.inputs
    assert json.loads(declared["signature"]["inputs"]) == [
        {"type": "tensor", "name": given.name, "tensor-spec": {"dtype": "float32", "shape": list(given.shape)}}
    ]
    assert declared["metadata"]["rung"] == {"name": "half", "version": 1, "task": ""}
    needs = [line.partition("==")[0] for line in (folder / "requirements.txt").read_text().splitlines()]
    assert needs == ["mlflow", "onnx", "onnxruntime"]


def test_steps_around_the_model_are_said_to_stay_behind(store, tmp_path):
    steps = Transforms(output=(Step("classification.top_k", {"k": 1}),))
    models.register(store, tmp_path / "half.onnx", name="steps", labels=("a", "b", "c", "d"), transforms=steps)
    left = export_mlflow(store, "steps", None, tmp_path / "steps").left
    assert "step after the model: classification.top_k" in [one.what for one in left]


def test_folder_that_holds_something_is_left_alone(store, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(Conflict, match="holds something already"):
        export_mlflow(store, "half", None, tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert export_mlflow(store, "half", None, tmp_path / "empty").folder == tmp_path / "empty"


def test_graph_has_no_flavor(store, tmp_path):
    register_graph(store, Graph("sequence", (Node("half"),)), name="graph")
    with pytest.raises(InvalidInput, match="graph version 1 is a graph of models, which MLflow has no flavor for"):
        export_mlflow(store, "graph", None, tmp_path / "graph")


def test_version_that_is_not_there_or_damaged_writes_nothing(store, tmp_path):
    with pytest.raises(NotFound):
        export_mlflow(store, "half", 2, tmp_path / "out")
    path = Path(tmp_path, "repository/half/1/half.onnx")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError):
        export_mlflow(store, "half", 1, tmp_path / "out")
    assert not (tmp_path / "out").exists()

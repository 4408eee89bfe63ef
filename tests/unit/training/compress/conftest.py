"""A small network that was really trained, as an exporter would write it down, and its project."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

WIDTH = 384
LEARNED = 1000


class Digits(NamedTuple):
    """Rows, labels, and the network with nodes that only training needs."""

    pixels: Any
    labels: Any
    model: Any

    def right(self, model: Any) -> float:
        """Share of the rows that were not learned from that a graph gets right."""
        from rung.training.compress.graph import outputs_of

        (found,) = outputs_of(model, [{"pixels": self.pixels[LEARNED:]}])["digit"]
        return float((found.argmax(1) == self.labels[LEARNED:]).mean())

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Some of the rows that were learned from, one a batch."""
        return [{"pixels": self.pixels[row : row + 1]} for row in range(256)]


@pytest.fixture(scope="session")
def digits() -> Digits:
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    net = MLPClassifier((WIDTH, WIDTH), max_iter=7, tol=1e-1, n_iter_no_change=100, random_state=0)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.fit(pixels[:LEARNED], labels[:LEARNED])
    return Digits(pixels, labels, written(net.coefs_, net.intercepts_))


def written(weights: Any, biases: Any) -> Any:
    """Linear, batch normalisation, Relu, dropout; then layers as MatMul and Add; the last as Gemm."""
    rng = np.random.default_rng(0)
    scale, mean = rng.uniform(0.5, 2, WIDTH), rng.normal(size=WIDTH)
    constants = {
        # So that what follows the normalisation is what was trained.
        "w0": weights[0] / scale,
        "b0": biases[0] / scale + mean,
        "scale": scale,
        "shift": np.zeros(WIDTH),
        "mean": mean,
        "var": np.ones(WIDTH) - 1e-5,
        "w1": weights[1],
        "b1": biases[1].reshape(1, -1),
        "w2": weights[2].T,
        "b2": biases[2],
        "half": np.array(2.0),
        "unit": np.array(0.5),
    }
    nodes = [
        helper.make_node("Gemm", ["pixels", "w0", "b0"], ["h0"]),
        helper.make_node("BatchNormalization", ["h0", "scale", "shift", "mean", "var"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        helper.make_node("Dropout", ["h2"], ["h3"]),
        helper.make_node("Identity", ["h3"], ["h4"]),
        helper.make_node("MatMul", ["h4", "w1"], ["h5"]),
        helper.make_node("Add", ["h5", "b1"], ["h6"]),
        helper.make_node("Relu", ["h6"], ["h7"]),
        helper.make_node("Mul", ["half", "unit"], ["one"]),
        helper.make_node("Mul", ["h7", "one"], ["h8"]),
        helper.make_node("Gemm", ["h8", "w2", "b2"], ["h9"], transB=1),
        helper.make_node("Softmax", ["h9"], ["digit"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("digit", TensorProto.FLOAT, ["n", 10])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


class Project(NamedTuple):
    """A folder with data and version 1 of `digits`."""

    folder: Path
    store: Any
    settings: Any


TOML = """
[models.digits]
task = "classification"
metric = "accuracy"
[models.digits.data]
source = "csv:digits.csv"
label = "digit"
split = "split"
slices = ["digit"]
"""


@pytest.fixture
def project(tmp_path: Path, digits: Digits) -> Project:
    from rung.catalog.models import register
    from rung.data import datasets
    from rung.domain.models import Lineage
    from rung.settings.file import load_project
    from rung.store.blobs import open_store

    (tmp_path / "rung.toml").write_text(TOML)
    lines = [",".join([*(f"p{place}" for place in range(64)), "digit", "split"])]
    for place, (row, label) in enumerate(zip(digits.pixels, digits.labels, strict=True)):
        split = "train" if place < LEARNED else "validation"
        lines.append(",".join([*(f"{value:g}" for value in row), str(label), split]))
    (tmp_path / "digits.csv").write_text("\n".join(lines))
    settings = load_project(tmp_path)
    data = open_store(str(tmp_path / settings.project.data))
    version = datasets.ingest(data, "digits", settings.models["digits"].dataset, tmp_path)
    store = open_store(str(tmp_path / settings.project.repository))
    (tmp_path / "model.onnx").write_bytes(digits.model.SerializeToString())
    register(
        store,
        tmp_path / "model.onnx",
        name="digits",
        task="classification",
        labels=tuple("0123456789"),
        description="reads digits",
        lineage=Lineage(source="run digits-1", data={"digits": version.digest}),
    )
    return Project(tmp_path, store, settings)

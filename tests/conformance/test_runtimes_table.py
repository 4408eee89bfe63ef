"""Lookup tables and MLflow folders against the conformance suite of a runtime."""

import numpy as np
import polars as pl
import pytest

from rung.runtimes.mlflow import MlflowRuntime
from rung.runtimes.table import TableRuntime
from rung.testing import models
from rung.testing.runtimes import RuntimeCase, RuntimeConformance

ROWS = np.arange(12, dtype="<f4").reshape(3, 4)
VECTORS = np.array([[0.5, 1.5], [2.5, 3.5], [4.5, 5.5]], "<f4")


class TableConformance(RuntimeConformance):
    runtime = TableRuntime()

    def test_a_failure_is_a_model_error_and_passes(self):
        """A table answers every key: one that it lacks is answered with `found` false."""


class TestTableOfVectors(TableConformance):
    @pytest.fixture(params=["parquet", "arrow", "csv"])
    def case(self, request, tmp_path):
        artifact = tmp_path / f"vectors.{request.param}"
        frame = pl.DataFrame({"id": [30, 10, 20], "a": VECTORS[:, 0], "b": VECTORS[:, 1]})
        write = {"parquet": frame.write_parquet, "arrow": frame.write_ipc, "csv": frame.write_csv}
        write[request.param](artifact)
        bad = {name: tmp_path / f"{name}.{request.param}" for name in ("empty", "cut", "missing", "binary")}
        bad["empty"].write_bytes(b"")
        bad["cut"].write_bytes(artifact.read_bytes()[: len(artifact.read_bytes()) // 2])
        bad["binary"].write_bytes(bytes(range(256)) * 9)
        bad["folder"] = tmp_path
        expected = {"vector": VECTORS, "found": np.ones(3, bool)}
        return RuntimeCase(artifact, {"key": np.array([30, 10, 20])}, expected, {}, bad)


class TestTableOfRecords(TableConformance):
    @pytest.fixture(params=["parquet", "feather", "csv"])
    def case(self, request, tmp_path):
        artifact = tmp_path / f"records.{request.param}"
        frame = pl.DataFrame(
            {"city": ["Köln", "Bonn", "Ulm"], "count": [3, 1, 2], "price": [0.5, 1.0, 2.0], "open": [True, False, True]}
        )
        write = {"parquet": frame.write_parquet, "feather": frame.write_ipc, "csv": frame.write_csv}
        write[request.param](artifact)
        (tmp_path / "one.csv").write_text("key\na\n")
        keys = np.array(["Köln".encode(), b"Ulm", b"Bonn", b"Paris"], object)
        expected = {
            "count": np.array([3, 2, 1, 0], "<i8"),
            "price": np.array([0.5, 2, 1, 0], "<f8"),
            "open": np.array([True, True, False, False]),
            "found": np.array([True, True, True, False]),
        }
        return RuntimeCase(artifact, {"key": keys}, expected, {}, {"one column": tmp_path / "one.csv"})


class TestMlflow(RuntimeConformance):
    runtime = MlflowRuntime()

    @pytest.fixture
    def case(self, tmp_path):
        folder = tmp_path / "model"
        folder.mkdir()
        models.poison(folder / "model.onnx")
        (folder / "MLmodel").write_text("flavors:\n  onnx:\n    data: model.onnx\n  python_function:\n    data: x\n")
        bad = {name: tmp_path / name for name in ("no-mlmodel", "code", "outside", "absent", "yaml")}
        for name, path in bad.items():
            path.mkdir()
            texts = {
                "code": "flavors: {python_function: {loader_module: os}}",
                "outside": "flavors: {onnx: {data: ../model/model.onnx}}",
                "absent": "flavors: {onnx: {data: model.onnx}}",
                "yaml": "flavors: !!python/object/apply:os.system [true]",
            }
            if name in texts:
                (path / "MLmodel").write_text(texts[name])
        poison = ROWS.copy()
        poison[1, 0] = 2e30
        return RuntimeCase(folder, {"x": ROWS}, {"y": ROWS * 2}, {"x": poison}, bad)

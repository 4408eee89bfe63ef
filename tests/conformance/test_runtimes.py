"""Each runtime against the conformance suite of its port."""

import numpy as np
import pytest

from rung.ports import LoadOptions
from rung.runtimes.onnx import OnnxRuntime
from rung.runtimes.python import PythonRuntime
from rung.testing import models
from rung.testing.runtimes import RuntimeCase, RuntimeConformance

ROWS = np.arange(12, dtype="<f4").reshape(3, 4)


class TestOnnx(RuntimeConformance):
    runtime = OnnxRuntime()

    @pytest.fixture
    def case(self, tmp_path):
        artifact = models.poison(tmp_path / "double.onnx")
        whole = artifact.read_bytes()
        bad = {name: tmp_path / f"{name}.onnx" for name in ("empty", "text", "cut", "missing")}
        bad["empty"].write_bytes(b"")
        bad["text"].write_text("this is no model")
        bad["cut"].write_bytes(whole[: len(whole) // 2])
        bad["folder"] = tmp_path
        poison = ROWS.copy()
        poison[1, 0] = 2e30
        return RuntimeCase(artifact, {"x": ROWS}, {"y": ROWS * 2}, {"x": poison}, bad)


class TestOnnxText(RuntimeConformance):
    runtime = OnnxRuntime()

    @pytest.fixture
    def case(self, tmp_path):
        artifact = models.string_identity(tmp_path / "text.onnx")
        words = np.array([[b"one", "zwei µ".encode()], [b"", b"b'3'"], [b"a\x00b", b"c"]], object)
        poison = np.array([[b"\xff", b""]], object)
        (tmp_path / "empty.onnx").write_bytes(b"")
        bad = {"empty": tmp_path / "empty.onnx"}
        return RuntimeCase(artifact, {"INPUT0": words}, {"OUTPUT0": words}, {"INPUT0": poison}, bad)


PYTHON = """
class Doubler:
    inputs = {"x": ("FP32", [-1, 4])}
    outputs = {"y": ("FP32", [-1, 4])}
    lanes = LANES

    def predict(self, x):
        if (x > 1e30).any():
            raise ValueError("too large")
        return {"y": x * 2}


class Broken(Doubler):
    def load(self):
        raise OSError("no weights")


class Undeclared:
    def predict(self, x):
        return {}
"""


class TestPython(RuntimeConformance):
    runtime = PythonRuntime()

    @pytest.fixture(params=[1, 2])
    def case(self, request, tmp_path):
        (tmp_path / "doubler.py").write_text(PYTHON.replace("LANES", str(request.param)))
        options = LoadOptions(threads=2, trusted=True, search_path=str(tmp_path))
        poison = ROWS.copy()
        poison[1, 0] = 2e30
        bad = {name: f"doubler:{name}" for name in ("Broken", "Undeclared", "Absent")}
        bad |= {"no such module": "nowhere:Doubler", "no such file": "nowhere.py:Doubler", "no class": "doubler"}
        return RuntimeCase("doubler:Doubler", {"x": ROWS}, {"y": ROWS * 2}, {"x": poison}, bad, options)

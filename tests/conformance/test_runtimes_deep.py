"""PyTorch, TensorFlow and LiteRT against the conformance suite, with answers from the frameworks themselves."""

import numpy as np
import pytest

from rung.runtimes.litert import LiteRTRuntime
from rung.runtimes.tensorflow import TensorFlowRuntime
from rung.runtimes.torch import TorchRuntime
from rung.testing import models_deep as models
from rung.testing.runtimes import RuntimeCase, RuntimeConformance

ROWS = np.arange(12, dtype="<f4").reshape(3, 4)
POISON = ROWS.copy()
POISON[1, 0] = 2e30


def broken(folder, whole, suffix):
    """Files that carry the suffix and are no model."""
    bad = {name: folder / f"{name}{suffix}" for name in ("empty", "text", "cut", "missing")}
    bad["empty"].write_bytes(b"")
    bad["text"].write_text("this is no model")
    bad["cut"].write_bytes(whole[: len(whole) // 2])
    return bad | {"folder": folder}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("deep")


class OfOneProcess(RuntimeConformance):
    """The tests of one class ask one process: starting one takes seconds."""

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, case):
        model = cls.runtime.load(case.artifact, case.options)
        yield model
        model.close()


class TestTorchExported(OfOneProcess):
    runtime = TorchRuntime()

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, folder):
        torch = pytest.importorskip("torch")
        artifact = models.exported(folder / "double.pt2")
        expected = models.torch_module()(torch.from_numpy(ROWS.copy())).numpy()
        bad = broken(folder, artifact.read_bytes(), ".pt2")
        return RuntimeCase(artifact, {"x": ROWS}, {"output_0": expected}, {"x": POISON}, bad)


class TestTorchScript(OfOneProcess):
    runtime = TorchRuntime()

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, folder):
        torch = pytest.importorskip("torch")
        artifact = models.torchscript(folder / "double.ts")
        expected = models.torch_module()(torch.from_numpy(ROWS.copy())).numpy()
        bad = broken(folder, artifact.read_bytes(), ".ts")
        bad["no shapes"] = models.torchscript(folder / "bare.ts", "")
        bad["checkpoint"] = folder / "checkpoint.pt"
        torch.save({"weight": torch.ones(3)}, bad["checkpoint"])
        return RuntimeCase(artifact, {"x": ROWS}, {"output_0": expected}, {"x": POISON}, bad)


class TestTensorFlow(OfOneProcess):
    runtime = TensorFlowRuntime()

    @pytest.fixture(scope="class")
    @classmethod
    def case(cls, folder):
        pytest.importorskip("tensorflow")
        artifact, expected = models.saved_model(folder / "double")
        (folder / "cut").mkdir()
        (folder / "cut" / "saved_model.pb").write_bytes((artifact / "saved_model.pb").read_bytes()[:-100])
        bad = {"no variables": folder / "cut", "missing": folder / "nowhere", "folder": folder}
        return RuntimeCase(artifact, {"x": ROWS}, {"y": expected}, {"x": POISON}, bad)


class TestLiteRT(RuntimeConformance):
    runtime = LiteRTRuntime()

    @pytest.fixture(scope="class", params=[-1, 3])
    @classmethod
    def case(cls, request, folder):
        interpreter = pytest.importorskip("ai_edge_litert.interpreter")
        artifact = models.litert(folder / f"double{request.param}.tflite", request.param)
        framework = interpreter.Interpreter(str(artifact))
        framework.resize_tensor_input(0, ROWS.shape)
        framework.allocate_tensors()
        framework.set_tensor(0, ROWS)
        framework.invoke()
        expected = framework.get_tensor(framework.get_output_details()[0]["index"])
        bad = broken(folder, artifact.read_bytes(), ".tflite")
        bad["custom"] = models.litert(folder / "custom.tflite", custom="Dance")
        return RuntimeCase(artifact, {"x": ROWS}, {"y": expected}, {"x": POISON}, bad)

"""The functions that a user writes: training repeats, the exported file answers as torch does."""

import io
import tomllib
from pathlib import Path

import dataset
import model
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from rung.domain.predictions import Payload


@pytest.fixture(scope="module")
def drawn():
    return dataset._drawn("a test")


@pytest.fixture(scope="module")
def trained(drawn):
    torch.set_num_threads(1)
    return train(drawn)


def train(drawn, report=lambda _progress: None):
    return model.train(
        drawn.select("fluo_256", "train")[:8], drawn.select("fluo_256", "val")[:1], steps=8, report=report
    )


def test_training_learns_reports_and_repeats(drawn, trained):
    reports = []
    again = train(drawn, reports.append)

    assert [report.step for report in reports] == list(range(1, 9))
    assert reports[-1].loss < reports[0].loss
    assert 0 <= reports[-1].iou <= 1
    for one, two in zip(trained.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_the_exported_file_answers_as_torch_does_for_any_batch(drawn, trained, tmp_path):
    path = model.export(trained, tmp_path / "model.onnx")
    images = model.prepare(drawn.select("fluo_256", "test")[:3])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    for batch in (1, 3):
        (answer,) = session.run(None, {"image": images[:batch]})
        with torch.inference_mode():
            expected = trained(torch.from_numpy(images[:batch])).numpy()
        np.testing.assert_allclose(answer, expected, atol=1e-3)
        assert answer.shape == (batch, 1, 256, 256)

    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    assert graph.opset_import[0].version >= 17
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert str(Path(model.__file__).parent).encode() not in path.read_bytes()


def test_training_sees_what_serving_sees(drawn):
    (sample,) = drawn.select("stained_256x320", "test")[:1]
    prepared = model.pipeline().prepare(Payload("image", sample.image))

    np.testing.assert_array_equal(model.prepare([sample]), prepared.inputs["image"])
    assert prepared.inputs["image"].shape == (1, 3, 256, 256)


def test_a_mask_is_measured_at_the_original_size():
    tall = np.zeros((512, 300, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(tall).save(buffer, "PNG")
    truth = np.zeros((512, 300), np.uint8)
    truth[:100] = 1
    sample = dataset.Sample("a", "fluo_512x300", "test", buffer.getvalue(), truth)

    class Everywhere(model.UNet):
        def forward(self, images):
            return torch.ones(len(images), 1, 256, 256)

    assert model.evaluate(Everywhere(), [sample]) == [pytest.approx(100 / 512)]


@pytest.mark.parametrize(
    ("mask", "truth", "score"),
    [([[0, 0]], [[0, 0]], 1.0), ([[255, 0]], [[1, 1]], 0.5), ([[1, 0]], [[0, 1]], 0.0), ([[2, 9]], [[1, 1]], 1.0)],
)
def test_iou(mask, truth, score):
    assert model.iou(np.array(mask), np.array(truth)) == score


def test_the_project_file_names_functions_that_exist():
    project = tomllib.loads((Path(model.__file__).parent / "rung.toml").read_text())
    for key in ("train", "data"):
        module, _, function = project["models"]["nuclei"][key].partition(":")
        assert module == "model"
        assert callable(getattr(model, function))

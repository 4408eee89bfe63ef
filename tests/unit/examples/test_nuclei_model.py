"""The functions that a user writes: training repeats, the exported file answers as torch does."""

import io
import tomllib
from pathlib import Path

import dataset
import model
import numpy as np
import onnx
import onnxruntime
import polars as pl
import pytest
import torch
from PIL import Image

from rung.domain.datasets import DatasetVersion
from rung.domain.predictions import Payload
from rung.domain.runs import RunSpec
from rung.settings.project import DataSection
from rung.training.checkpoints import Checkpoints
from rung.training.context import Context, Watch
from rung.training.events import Reported
from rung.training.feeding import Feed
from rung.training.trained import write

EPOCHS = 3


@pytest.fixture(scope="module")
def drawn():
    return dataset._drawn("a test")


@pytest.fixture(scope="module")
def table(drawn):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "find", lambda: drawn)
        return pl.DataFrame(list(model.rows()))


@pytest.fixture(scope="module")
def trained(table, tmp_path_factory):
    return train(table, tmp_path_factory.mktemp("run"))


def train(table, folder):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    parts = {"train": table.filter(split="train")[:16], "validation": table.filter(split="validation")[:1]}
    version = DatasetVersion("nuclei", "", dict.fromkeys(table.columns, "text"), ())
    events = []
    context = Context(
        RunSpec("nuclei", "model:train", params={"epochs": EPOCHS, "rate": 5e-3}),
        Feed(version, parts, DataSection(label="mask", split="split")),
        Watch("val_iou", minimize=False),
        Checkpoints(folder / "checkpoints"),
        folder=folder,
        device="cpu",
        tell=events.append,
    )
    made = model.train(context)
    context.end()
    return made, [event for event in events if isinstance(event, Reported)]


def test_training_learns_reports_and_repeats(table, trained, tmp_path):
    first, reports = trained
    again, _ = train(table, tmp_path)

    assert [report.step for report in reports] == [2 * EPOCHS]
    assert 0 <= reports[0].metrics["val_iou"] <= 1
    assert len(first.golden) == 3
    for one, two in zip(first.model.state_dict().values(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_the_exported_file_answers_as_torch_does_for_any_batch(table, trained, tmp_path):
    made, _ = trained
    path = write(made, tmp_path)
    images = model.prepare(table.filter(split="test")["image"][:3].to_list())
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    for batch in (1, 3):
        (answer,) = session.run(None, {"image": images[:batch]})
        with torch.inference_mode():
            expected = made.model.eval()(torch.from_numpy(images[:batch])).numpy()
        np.testing.assert_allclose(answer, expected, atol=1e-3)
        assert answer.shape == (batch, 1, 256, 256)

    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    assert graph.opset_import[0].version >= 17
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert str(Path(model.__file__).parent).encode() not in path.read_bytes()


def test_the_rows_hold_what_was_found(drawn, table):
    assert table["split"].unique().sort().to_list() == ["test", "train", "validation"]
    assert set(table["domain"]) == {"fluo_256"}
    sample = drawn.select("fluo_256", "test")[0]
    row = table.row(by_predicate=pl.col("id") == sample.id, named=True)
    assert row["image"] == sample.image
    np.testing.assert_array_equal(model._mask(row["mask"]), sample.mask)


def test_training_sees_what_serving_sees(drawn):
    (sample,) = drawn.select("stained_256x320", "test")[:1]
    prepared = model.pipeline().prepare(Payload("image", sample.image))

    np.testing.assert_array_equal(model.prepare([sample.image]), prepared.inputs["image"])
    assert prepared.inputs["image"].shape == (1, 3, 256, 256)


def test_a_mask_is_measured_at_the_original_size():
    def png(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    truth = np.zeros((512, 300), np.uint8)
    truth[:100] = 255
    part = pl.DataFrame({"image": [png(np.zeros((512, 300, 3), np.uint8))], "mask": [png(truth)]})

    class Everywhere(model.UNet):
        def forward(self, images):
            return torch.ones(len(images), 1, 256, 256)

    assert model.evaluate(Everywhere(), part) == [pytest.approx(100 / 512)]


@pytest.mark.parametrize(
    ("mask", "truth", "score"),
    [([[0, 0]], [[0, 0]], 1.0), ([[255, 0]], [[1, 1]], 0.5), ([[1, 0]], [[0, 1]], 0.0), ([[2, 9]], [[1, 1]], 1.0)],
)
def test_iou(mask, truth, score):
    assert model.iou(np.array(mask), np.array(truth)) == score


def test_the_project_file_names_functions_that_exist():
    project = tomllib.loads((Path(model.__file__).parent / "rung.toml").read_text())
    settings = project["models"]["nuclei"]
    for name in (settings["train"], settings["data"]["source"]):
        module, _, function = name.partition(":")
        assert module == "model"
        assert callable(getattr(model, function))

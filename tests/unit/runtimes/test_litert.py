"""LiteRT files: rows, datatypes, lanes, and a real model that finds people."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rung.catalog.artifacts import recognise
from rung.domain.errors import BundleError
from rung.domain.tensors import TensorSpec
from rung.ports import LoadOptions
from rung.runtimes.litert import LiteRTRuntime
from rung.testing import models_deep as models

pytest.importorskip("ai_edge_litert")
BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[4] / "shared" / "data"
ROWS = np.arange(12, dtype="<f4").reshape(3, 4)


@pytest.fixture
def load():
    loaded = []

    def load(path):
        model = LiteRTRuntime().load(path, LoadOptions(threads=2))
        loaded.append(model)
        return model

    yield load
    for model in loaded:
        model.close()


@pytest.fixture
def selfies():
    """The folder with the segmentation model and its picture."""
    asked = os.environ.get("RUNG_DATA")
    places = [
        *(
            [Path(asked), Path(asked, "selfie_segmentation"), Path(asked).parent / "selfie_segmentation"]
            if asked
            else []
        )
    ]
    for place in [*places, BESIDE_THE_REPOSITORY / "selfie_segmentation"]:
        if (place / "selfie_segmentation.tflite").is_file():
            return place
    pytest.skip("there is no folder selfie_segmentation in RUNG_DATA or beside the repository")


@pytest.mark.data
def test_a_model_of_one_picture_takes_many(load, selfies):
    model = load(selfies / "selfie_segmentation.tflite")
    (x,), (y,) = model.signature.inputs, model.signature.outputs
    assert (x.shape, y.shape) == ((-1, 256, 256, 3), (-1, 256, 256, 1))
    assert model.signature.batched
    with Image.open(selfies / "astronaut.png") as image:
        pixels = np.asarray(image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR), "<f4") / 255
    with Image.open(selfies / "astronaut_expected_mask_256.png") as image:
        expected = np.asarray(image.convert("L")) > 127
    pictures = np.stack([pixels, np.flip(pixels, 1), np.zeros_like(pixels)])
    answer = model.predict({x.name: pictures})[y.name][..., 0]
    assert (answer[0] > 0.5).mean() == pytest.approx(0.545, abs=0.01)
    assert ((answer[0] > 0.5) == expected).mean() > 0.999
    np.testing.assert_allclose(model.predict({x.name: pictures[1:2]})[y.name][0, ..., 0], answer[1], atol=1e-4)


def test_any_number_of_rows_in_any_order(load, tmp_path):
    model = load(models.litert(tmp_path / "double.tflite"))
    assert model.signature.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert model.signature.outputs == (TensorSpec("y", "FP32", (-1, 4)),)
    assert model.signature.batched
    for rows in (1, 7, 2, 1, 64, 3):
        x = np.arange(4 * rows, dtype="<f4").reshape(rows, 4)
        assert model.predict({"x": x})["y"].tolist() == (x * 2).tolist()


def test_one_row_that_is_not_built_in_becomes_many(load, tmp_path):
    assert load(models.litert(tmp_path / "one.tflite", 1)).signature.batched


def test_a_fixed_number_of_rows_stays(load, tmp_path):
    model = load(models.litert(tmp_path / "three.tflite", 3))
    assert model.signature.inputs == (TensorSpec("x", "FP32", (3, 4)),)
    assert not model.signature.batched


def test_quantised_numbers_stay_as_they_are(load, tmp_path):
    model = load(models.litert(tmp_path / "int8.tflite", int8=True))
    assert [spec.datatype for spec in (*model.signature.inputs, *model.signature.outputs)] == ["INT8", "INT8"]
    x = np.array([[-128, 0, 5, 127], [1, 2, 3, 4]], "i1")
    assert model.predict({"x": x})["y"].tolist() == x.tolist()


def test_lanes_have_interpreters_of_their_own(load, tmp_path):
    model = load(models.litert(tmp_path / "double.tflite"))
    wrong = []

    def ask(number):
        x = np.full((1 + number, 4), number, "<f4")
        wrong.extend(1 for _ in range(300) if model.predict({"x": x})["y"].tolist() != (x * 2).tolist())

    callers = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_it_is_told_by_its_bytes(tmp_path):
    path = models.litert(tmp_path / "double.tflite").rename(tmp_path / "double.bin")
    assert recognise(path) == ("litert", path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "is no LiteRT model"),
        (lambda data: b"\x80\x04}\x94.", "is no LiteRT model"),
        (lambda data: data[: len(data) // 2], "cannot be loaded: The model is not a valid Flatbuffer"),
        (lambda data: data[:8] + b"\xff" * (len(data) - 8), "cannot be loaded: The model is not a valid Flatbuffer"),
    ],
)
def test_damaged_files_are_refused(load, tmp_path, change, words):
    path = tmp_path / "damaged.tflite"
    path.write_bytes(change(models.litert(tmp_path / "double.tflite").read_bytes()))
    with pytest.raises(BundleError, match=words):
        load(path)


def test_a_custom_operator_is_named(load, tmp_path):
    with pytest.raises(BundleError, match="custom operator Dance, which LiteRT does not have"):
        load(models.litert(tmp_path / "custom.tflite", custom="Dance"))

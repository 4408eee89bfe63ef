"""Answers of each kind of version as columns."""

import numpy as np
import polars as pl
import pytest

from rung.domain.errors import InvalidData
from rung.domain.models import Manifest, Step, Transforms
from rung.domain.tensors import Signature, TensorSpec
from rung.offline.scoring.results import CONTENT, files_of, first_only, series, shape_of
from rung.offline.scoring.sinks import appended, place_of
from rung.transforms.heads import Segmentation


def manifest(outputs: tuple[TensorSpec, ...], *steps: Step, batched: bool = True) -> Manifest:
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), outputs, batched=batched)
    return Manifest("m", 1, "onnx", signature, transforms=Transforms((), steps))


def test_tensors_are_a_column_for_each_output() -> None:
    outputs = (
        TensorSpec("one", "FP32", (-1, 1)),
        TensorSpec("two", "FP64", (-1, 2)),
        TensorSpec("word", "BYTES", (-1,)),
    )
    answers = shape_of(manifest(outputs))
    tensors = {
        "one": np.array([[1], [2]], np.float32),
        "two": np.array([[1.5, 2], [3, 4]]),
        "word": np.array([b"a", b"\xff"], object),
    }

    frame = pl.DataFrame(answers.columns([tensors], 2))

    assert frame.to_dict(as_series=False) == {"one": [1, 2], "two": [[1.5, 2], [3, 4]], "word": ["a", "\ufffd"]}
    assert frame.dtypes == [pl.Float32, pl.List(pl.Float64), pl.String]
    assert appended(".csv")(frame, True) == 'one,two,word\n1.0,"[1.5,2.0]",a\n2.0,"[3.0,4.0]",\ufffd\n'.encode()
    assert shape_of(manifest(outputs[:1])).value == "one"
    alone = shape_of(manifest((TensorSpec("y", "FP32", (3,)),), batched=False))
    assert alone.columns([{"y": np.array([1, 2, 3], np.float32)}], 1)[0].to_list() == [[1, 2, 3]]


def test_numbers_classes_and_all_else() -> None:
    number = shape_of(manifest((TensorSpec("y", "FP32", (-1, 1)),), Step("regression.value")))
    [column] = number.columns([np.float32(0.1), None], 2)
    assert (number.value, column.to_list(), column.dtype) == ("prediction", [np.float32(0.1), None], pl.Float32)
    [column] = number.columns([{"value": np.float64(2.5), "unit": "EUR"}], 1)
    assert column.to_list() == [2.5]

    classes = manifest((TensorSpec("y", "FP32", (-1, 3)),), Step("classification.top_k", {"k": 5}))
    assert first_only(classes).transforms.output[0].params["k"] == 1
    answers = shape_of(classes)
    label, score = answers.columns([[{"label": "a", "score": np.float32(0.9)}], []], 2)
    assert (answers.label, label.to_list(), score.to_list()) == ("label", ["a", None], [np.float32(0.9), None])

    other = shape_of(manifest((TensorSpec("y", "FP32", (-1, 3)),), Step("embedding.vector")))
    [column] = other.columns([{"vector": np.array([1, 2], np.float32)}], 1)
    assert column.name == "answer"
    assert "1.0" in column[0]


def test_arrays_are_columns_with_nothing_where_it_is_not_known() -> None:
    known = np.array([True, False])
    found = {"label": (np.array(["a", "b"], object), known), "score": (np.array([0.5, 0.1], np.float32), known)}
    frame = pl.DataFrame(series(found))
    assert frame.to_dict(as_series=False) == {"label": ["a", None], "score": [0.5, None]}
    assert frame.dtypes == [pl.String, pl.Float32]


def test_masks_become_files() -> None:
    answers = shape_of(manifest((TensorSpec("y", "FP32", (-1, 1, 4, 4)),), Step("segmentation.mask")))
    result = Segmentation(np.eye(4, dtype=np.uint8), ("cell",))
    assert '"pixels":4' in answers.columns([result], 1)[0][0]

    made = files_of(answers)

    assert made is not None
    files, suffix = made
    assert suffix == ".png"
    [column] = files.columns([result], 1)
    assert column.name == CONTENT
    assert column[0].startswith(b"\x89PNG")
    assert files_of(shape_of(manifest((TensorSpec("y", "FP32", (-1, 1)),), Step("regression.value")))) is None


def test_answers_to_two_files_are_two_files() -> None:
    names = ["a.png", "a.jpg", "b/a.PNG", "b/a.tif"]
    assert [str(place_of(name, ".png")) for name in names] == ["a.png", "a.jpg.png", "b/a.PNG", "b/a.tif.png"]
    for name in ("/etc/passwd", "../a.png", "a/../../b.png", ""):
        with pytest.raises(InvalidData, match="no place"):
            place_of(name, ".png")

"""What a user's class has to declare, and how its answers are checked."""

import numpy as np
import pytest

from rung.domain.errors import BundleError, ModelError
from rung.domain.tensors import Signature, TensorSpec
from rung.runtimes.python_child import check_answer, declared_by

FP32 = TensorSpec("y", "FP32", (-1, 2))
X = {"x": np.zeros((3, 2), "<f4")}


def signature(*outputs, batched=True):
    return Signature((TensorSpec("x", "FP32", (-1, 2)),), outputs or (FP32,), batched=batched)


def declare(**attributes):
    given = {"inputs": {"x": ("FP32", [-1, 4])}, "outputs": {"y": ("FP32", [-1])}, "predict": lambda self, x: None}
    given |= attributes
    return declared_by(type("Given", (), {name: value for name, value in given.items() if value is not None})())


def test_rows_are_independent_when_every_shape_begins_with_a_varying_size():
    assert declare().signature.batched
    assert declare().lanes == 1
    assert not declare(outputs={"y": ("FP32", [1])}).signature.batched
    assert not declare(batched=False).signature.batched
    assert declare(lanes=4).lanes == 4


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"inputs": None}, r"Given\.inputs has to be a dict"),
        ({"inputs": {}}, r"Given\.inputs has to be a dict"),
        ({"outputs": ["y"]}, r"Given\.outputs has to be a dict"),
        ({"inputs": {"x": "FP32"}}, r"\(datatype, shape\)"),
        ({"inputs": {"x": ("FP32", 4)}}, r"\(datatype, shape\)"),
        ({"inputs": {"x": ("float32", [4])}}, "there are .*FP32"),
        ({"inputs": {"x": ("FP32", [-2])}}, "-1 stands for"),
        ({"outputs": {"y": ("FP32", [1])}, "batched": True}, "begin with -1"),
        ({"lanes": 0}, "lanes is 0"),
        ({"lanes": "two"}, "lanes is 'two'"),
        ({"predict": None}, "no method predict"),
        ({"predict": lambda self, image: None}, r"does not take the inputs \['x'\]"),
        ({"predict": lambda self: None}, r"does not take the inputs \['x'\]"),
    ],
)
def test_a_wrong_declaration_is_refused(attributes, words):
    with pytest.raises(BundleError, match=words):
        declare(**attributes)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "returned NoneType; it has to return a dict"),
        (np.zeros((3, 2), "<f4"), "returned ndarray"),
        ({}, r"returned the outputs \[\]"),
        ({"z": 1}, r"\['z'\]; the class declares \['y'\]"),
        ({"y": np.zeros((3, 2), "<f4"), "z": 1}, r"\['y', 'z'\]"),
        ({"y": np.zeros((3, 2))}, "datatype FP64; the class declares FP32"),
        ({"y": np.zeros((3, 3), "<f4")}, r"shape \[3, 3\]; the class declares \[-1, 2\]"),
        ({"y": np.zeros((2, 2), "<f4")}, "2 rows for 3 rows"),
        ({"y": [[1, 2], [3]]}, "cannot be made an array"),
        ({"y": [["a", "b"]] * 3}, "datatype BYTES"),
        ({"y": None}, "BYTES"),
        ({"y": np.zeros((3, 2), complex)}, "complex"),
        ({"y": object()}, "BYTES"),
    ],
)
def test_a_wrong_answer_is_the_models_error(answer, words):
    with pytest.raises(ModelError, match=words):
        check_answer(answer, signature(), X)


def test_lists_and_numbers_are_converted():
    answer = check_answer({"y": [[1, 2.5]] * 3}, signature(), X)["y"]
    assert answer.dtype == np.float32
    assert answer.tolist() == [[1, 2.5]] * 3
    numbers = signature(TensorSpec("y", "INT32", ()), batched=False)
    assert check_answer({"y": 7}, numbers, X)["y"].dtype == np.int32
    with pytest.raises(ModelError, match="datatype FP64; the class declares INT32"):
        check_answer({"y": 7.5}, numbers, X)


@pytest.mark.parametrize("value", [["a", b"b", "c"], np.array(["a", "b", "c"]), np.array([b"a", b"b", b"c"])])
def test_text_becomes_bytes(value):
    answer = check_answer({"y": value}, signature(TensorSpec("y", "BYTES", (-1,))), X)["y"]
    assert answer.tolist() == [b"a", b"b", b"c"]
    assert answer.dtype == object


def test_text_keeps_its_zeros():
    value = [b"a\x00", "b\x00", b"\xff"]
    answer = check_answer({"y": value}, signature(TensorSpec("y", "BYTES", (-1,))), X)["y"]
    assert answer.tolist() == [b"a\x00", b"b\x00", b"\xff"]


def test_objects_that_are_no_text_are_refused():
    with pytest.raises(ModelError, match="float is neither text nor bytes"):
        check_answer({"y": np.array([1.0, "a", "b"], object)}, signature(TensorSpec("y", "BYTES", (-1,))), X)

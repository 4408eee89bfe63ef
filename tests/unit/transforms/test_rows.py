"""JSON values become exactly the tensors they say, or a refusal that names the row and the reason."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import InvalidInput
from rung.domain.tensors import DATATYPES, Signature, TensorSpec
from rung.transforms.rows import predictions_json, tensor_from, tensors_from_rows, tensors_from_text

X = TensorSpec("x", "FP32", (-1, 3))
Y = TensorSpec("y", "FP32", (-1, 2))


def signature(*inputs, outputs=(Y,), batched=True):
    return Signature(inputs, outputs, batched)


def test_rows_columns_and_objects_give_the_same_tensors():
    two = signature(X, TensorSpec("n", "INT64", (-1, 1)))
    columns = tensors_from_rows({"x": [[1, 2, 3], [4, 5, 6]], "n": [[7], [8]]}, two)
    rows = tensors_from_rows([{"x": [1, 2, 3], "n": [7]}, {"x": [4, 5, 6], "n": [8]}], two)
    for tensors in (columns, rows):
        assert tensors["x"].dtype == np.float32
        np.testing.assert_array_equal(tensors["x"], [[1, 2, 3], [4, 5, 6]])
        np.testing.assert_array_equal(tensors["n"], [[7], [8]])
    np.testing.assert_array_equal(tensors_from_rows([[1, 2.5, 3]], signature(X))["x"], [[1, 2.5, 3]])


def test_a_last_dimension_of_one_may_be_left_out():
    assert tensor_from([1, 2, 3], TensorSpec("x", "FP32", (-1, 1))).shape == (3, 1)
    assert tensor_from(["a", "b"], TensorSpec("x", "BYTES", (-1, 1))).tolist() == [[b"a"], [b"b"]]
    with pytest.raises(InvalidInput):
        tensor_from([1, 2, 3], X)


@pytest.mark.parametrize(
    ("value", "spec", "reason"),
    [
        ([[1, 2, 3], [1, 2]], X, r"'x', row 1: a list of 2 where 3 belong"),
        ([[1, 2, 3], [1, "2", 3]], X, r"row 1, element \[1\]: text where int belongs"),
        ([[1, 2, None]], X, r"row 0, element \[2\]: null"),
        ([[1, 2, {}]], X, r"row 0, element \[2\]: an object"),
        ([[1, 2, [3]]], X, r"row 0, element \[2\]: a list"),
        ([[True, False, True]], X, r"row 0, element \[0\]: true or false"),
        ([1, 2, 3], X, r"row 0: the number 1 where a list of 3 belongs"),
        ([[1e39, 2, 3]], X, r"row 0, element \[0\]: 1e\+39 is too large for FP32"),
        ([[1.5]], TensorSpec("n", "INT32", (-1, 1)), r"row 0, element \[0\]: 1.5 is no whole number"),
        ([[300]], TensorSpec("n", "UINT8", (-1, 1)), r"300 lies outside UINT8"),
        ([[-1]], TensorSpec("n", "UINT64", (-1, 1)), r"-1 lies outside UINT64"),
        ([[2**64]], TensorSpec("n", "UINT64", (-1, 1)), r"lies outside UINT64"),
        ([[2**63]], TensorSpec("n", "INT64", (-1, 1)), r"lies outside INT64"),
        ([[1]], TensorSpec("b", "BOOL", (-1, 1)), r"the number 1 where bool belongs"),
        ([["a", 1]], TensorSpec("t", "BYTES", (-1, 2)), r"row 0, element \[1\]: the number 1 is no text"),
        ([[["a"]]], TensorSpec("t", "BYTES", (-1, 1)), r"a list where text belongs"),
        ([[[1], [1, 2]]], TensorSpec("r", "FP32", (-1, -1, -1)), r"differ in length"),
    ],
)
def test_what_does_not_fit_is_named(value, spec, reason):
    with pytest.raises(InvalidInput, match=reason) as caught:
        tensor_from(value, spec)
    assert caught.value.field == spec.name


def test_fields_are_checked_by_name():
    two = signature(X, Y)
    with pytest.raises(InvalidInput, match="row 1 has no field 'y'"):
        tensors_from_rows([{"x": [1, 2, 3], "y": [1, 2]}, {"x": [1, 2, 3]}], two)
    with pytest.raises(InvalidInput, match="unknown field 'z'"):
        tensors_from_rows([{"x": [1, 2, 3], "y": [1, 2], "z": 1}], two)
    with pytest.raises(InvalidInput, match="row 1 is no object"):
        tensors_from_rows([{"x": [1, 2, 3], "y": [1, 2]}, 5], two)
    with pytest.raises(InvalidInput, match="2 inputs"):
        tensors_from_rows([[1]], two)
    with pytest.raises(InvalidInput, match="list of rows"):
        tensors_from_rows("abc", two)


def test_deep_nesting_is_refused():
    deep = 0
    for _ in range(1000):
        deep = [deep]
    with pytest.raises(InvalidInput):
        tensor_from(deep, X)


@pytest.mark.parametrize("datatype", ["INT8", "INT64", "UINT64", "UINT8", "INT32"])
def test_the_limits_of_integers_are_exact(datatype):
    limits = np.iinfo(DATATYPES[datatype])
    array = tensor_from([limits.min, limits.max], TensorSpec("n", datatype, (-1,)))
    assert array.tolist() == [limits.min, limits.max]


def test_text():
    text = signature(TensorSpec("t", "BYTES", (-1,)))
    assert tensors_from_text("größe", text)["t"].tolist() == ["größe".encode()]
    assert tensors_from_text(["a", "b"], text)["t"].tolist() == [b"a", b"b"]
    with pytest.raises(InvalidInput, match="no text"):
        tensors_from_text("a", signature(X))


def test_bf16_is_rounded_towards_zero_and_read_back():
    spec = TensorSpec("h", "BF16", (-1,))
    bits = tensor_from([1.0, -2.5, 3.14159], spec)
    assert bits.dtype == np.uint16
    answer = orjson.loads(predictions_json({"h": bits}, signature(spec, outputs=(spec,))))
    np.testing.assert_allclose(answer["predictions"], [1.0, -2.5, 3.14159], rtol=2**-7)


def test_answers_in_rows_and_by_name():
    outputs = {"y": np.array([[1, 2], [3, 4]], np.float32)}
    assert orjson.loads(predictions_json(outputs, signature(X))) == {"predictions": [[1, 2], [3, 4]]}
    outputs["label"] = np.array([b"cat", b"\xff"], object)
    answer = orjson.loads(predictions_json(outputs, signature(X, outputs=(Y, TensorSpec("label", "BYTES", (-1,))))))
    assert answer == {
        "predictions": [{"y": [1, 2], "label": "cat"}, {"y": [3, 4], "label": {"b64": "/w=="}}],
    }
    whole = predictions_json({"a": np.float64([1, 2]), "b": np.array(5)}, signature(X, batched=False))
    assert orjson.loads(whole) == {"predictions": {"a": [1, 2], "b": 5}}


def test_nan_and_infinity_are_written_as_null():
    outputs = {"y": np.array([[np.nan, np.inf], [-np.inf, 1]], np.float32)}
    assert orjson.loads(predictions_json(outputs, signature(X))) == {"predictions": [[None, None], [None, 1]]}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
    max_leaves=12,
)


@given(JSON, st.sampled_from(sorted(DATATYPES)), st.sampled_from([(-1,), (-1, 1), (-1, 2), (2, -1), (), (-1, -1, 1)]))
def test_anything_is_a_tensor_of_the_spec_or_refused(value, datatype, shape):
    spec = TensorSpec("x", datatype, shape)
    try:
        array = tensor_from(value, spec)
    except InvalidInput:
        return
    assert array.dtype == DATATYPES[datatype]
    assert spec.admits(array.shape)


def test_long_longs_of_onnxruntime_are_numbers_in_rows_of_several_outputs() -> None:
    signature = Signature((), (TensorSpec("label", "INT64", (-1,)), TensorSpec("p", "FP32", (-1, 2))))
    outputs = {"label": np.array([3], np.longlong), "p": np.array([[0.5, 0.5]], "<f4")}
    assert predictions_json(outputs, signature) == b'{"predictions":[{"label":3,"p":[0.5,0.5]}]}'

"""Tensors of every datatype survive both wire forms; what does not fit is refused by name."""

from contextlib import suppress
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from rung.domain.errors import InvalidInput, ModelError, NotAcceptable, RungError
from rung.domain.tensors import DATATYPES, TensorSpec
from rung.protocols.oip_tensors import BINARY_ONLY, from_binary, from_json, to_binary, to_json

NUMBERS = [name for name in DATATYPES if name != "BYTES"]
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)


def spec_of(datatype: str, array: Any) -> TensorSpec:
    return TensorSpec("t", datatype, tuple(-1 for _ in array.shape))


@st.composite
def arrays(draw: st.DrawFn, datatypes: list[str], *, finite: bool) -> tuple[str, Any]:
    datatype = draw(st.sampled_from(datatypes))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        count = int(np.prod(shape))
        element = st.text(max_size=6).map(str.encode) if finite else st.binary(max_size=6)
        array = np.empty(count, object)
        array[:] = draw(st.lists(element, min_size=count, max_size=count))
        return datatype, array.reshape(shape)
    dtype = DATATYPES[datatype]
    elements = {"allow_nan": not finite, "allow_infinity": not finite} if dtype.kind == "f" else None
    return datatype, draw(hnp.arrays(dtype, shape, elements=elements))


@given(arrays(list(DATATYPES), finite=False), st.integers(0, 9))
def test_binary_round_trip(case: tuple[str, Any], offset: int) -> None:
    datatype, array = case
    spec = spec_of(datatype, array)
    blob = bytes(to_binary(array, spec))
    back = from_binary(b"x" * offset + blob, offset, len(blob), spec, array.shape)
    assert back.dtype == array.dtype
    assert back.flags.aligned
    np.testing.assert_array_equal(back, array)


@given(arrays([name for name in DATATYPES if name not in BINARY_ONLY], finite=True), st.booleans())
def test_json_round_trip(case: tuple[str, Any], nested: bool) -> None:
    datatype, array = case
    spec = spec_of(datatype, array)
    text = to_json(array, spec)
    if nested and datatype != "BYTES":
        text = orjson.dumps(np.ascontiguousarray(array), option=orjson.OPT_SERIALIZE_NUMPY)
    elif nested:
        plain = np.array([item.decode() for item in array.ravel()] or [""], object)[: array.size]
        text = orjson.dumps(plain.reshape(array.shape).tolist())
    back = from_json(Raw(text), spec, array.shape)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


@given(st.binary(max_size=60), st.sampled_from(list(DATATYPES)), st.lists(st.integers(0, 4), max_size=3))
def test_any_bytes_give_a_tensor_or_a_refusal(blob: bytes, datatype: str, shape: list[int]) -> None:
    spec = TensorSpec("t", datatype, (-1,) * len(shape))
    with suppress(RungError):
        assert from_binary(blob, 0, len(blob), spec, tuple(shape)).shape == tuple(shape)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, st.sampled_from(list(DATATYPES)), st.lists(st.integers(0, 3), max_size=3))
def test_any_json_value_gives_a_tensor_or_a_refusal(value: Any, datatype: str, shape: list[int]) -> None:
    spec = TensorSpec("t", datatype, (-1,) * len(shape))
    try:
        text = orjson.dumps(value)
        array = from_json(Raw(text), spec, tuple(shape))
    except (RungError, orjson.JSONEncodeError):
        return
    assert array.shape == tuple(shape)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("UINT8", "[300]"),
        ("UINT8", "[-1]"),
        ("INT8", "[-129]"),
        ("INT32", "[2147483648]"),
        ("INT32", "[1.5]"),
        ("INT64", "[9223372036854775808]"),
        ("UINT64", "[18446744073709551616]"),
        ("UINT64", "[-1]"),
        ("INT32", "[true]"),
        ("FP32", "[true]"),
        ("FP32", '["1"]'),
        ("FP32", "[null]"),
        ("FP32", "[1e39]"),
        ("FP32", "[-3.4028235677973366e38]"),
        ("FP64", "[1e400]"),
        ("BOOL", "[1]"),
        ("BYTES", "[1]"),
        ("FP16", "[1.0]"),
        ("BF16", "[1.0]"),
        ("FP32", "1.0"),
        ("FP32", '{"a": 1}'),
        ("FP32", "[]"),
        ("FP32", "[1.0, 2.0]"),
        ("FP32", "[[1.0]]"),
    ],
)
def test_values_that_do_not_fit_one_element_are_refused_by_name(datatype: str, data: str) -> None:
    with pytest.raises(InvalidInput, match="'weights'") as caught:
        from_json(Raw(data.encode()), TensorSpec("weights", datatype, (1,)), (1,))
    assert caught.value.field == "weights"


@pytest.mark.parametrize("data", ["[[1,2],[3]]", "[[1,2,3,4]]", "[[1],[2],[3],[4]]", "[[1,2],3,4]", "[[[1,2],[3,4]]]"])
def test_nesting_has_to_follow_the_shape(data: str) -> None:
    with pytest.raises(InvalidInput, match="'t'"):
        from_json(Raw(data.encode()), TensorSpec("t", "INT32", (2, 2)), (2, 2))


def test_an_integer_counts_as_a_float() -> None:
    assert from_json(Raw(b"[1, 2.5]"), TensorSpec("t", "FP32", (2,)), (2,)).tolist() == [1.0, 2.5]


def test_the_largest_float_is_not_infinity() -> None:
    largest = float(np.finfo(np.float32).max)
    array = from_json(Raw(orjson.dumps([largest])), TensorSpec("t", "FP32", (1,)), (1,))
    assert array[0] == np.finfo(np.float32).max


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_not_written_as_json(value: float) -> None:
    with pytest.raises(NotAcceptable, match="binary_data_output"):
        to_json(np.array([0, value], np.float32), TensorSpec("t", "FP32", (2,)))


@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("FP16", np.zeros(1, np.float16)),
        ("BF16", np.zeros(1, np.uint16)),
        ("BYTES", np.array([b"\xff"], object)),
    ],
)
def test_what_json_cannot_carry_is_offered_as_binary(datatype: str, array: Any) -> None:
    with pytest.raises(NotAcceptable, match="binary_data_output"):
        to_json(array, TensorSpec("t", datatype, (1,)))


@pytest.mark.parametrize("write", [to_json, to_binary])
@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("FP32", np.zeros(1, np.float64)),
        ("BYTES", np.zeros(1, np.float64)),
        ("BYTES", np.array([3], object)),
        ("BYTES", np.array(["\ud800"], object)),
    ],
)
def test_an_output_unlike_the_signature_is_the_models_fault(write: Any, datatype: str, array: Any) -> None:
    with pytest.raises(ModelError, match="'t'"):
        write(array, TensorSpec("t", datatype, (1,)))


def test_text_of_any_kind_is_written_as_bytes_tensor() -> None:
    spec = TensorSpec("t", "BYTES", (2,))
    for array in (np.array(["a", "bc"]), np.array([b"a", b"bc"]), np.array(["a", b"bc"], object)):
        assert to_json(array, spec) == b'["a","bc"]'
        assert to_binary(array, spec) == b"\x01\0\0\0a\x02\0\0\0bc"


def test_views_are_written_in_row_major_order() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    spec = TensorSpec("t", "INT32", (3, 2))
    assert to_json(array, spec) == b"[0,3,1,4,2,5]"
    assert bytes(to_binary(array, spec)) == array.tobytes()


def test_large_tensors_are_handed_on_without_a_copy() -> None:
    array = np.zeros((2, 40_000), np.float32)
    view = to_binary(array, TensorSpec("t", "FP32", (2, 40_000)))
    assert isinstance(view, memoryview)
    assert len(view) == array.nbytes
    array[0, 0] = 1.0
    assert view[3] == 0x3F


def test_booleans_are_one_byte_of_zero_or_one() -> None:
    spec = TensorSpec("t", "BOOL", (2,))
    assert from_binary(b"\x01\x00", 0, 2, spec, (2,)).tolist() == [True, False]
    with pytest.raises(InvalidInput, match="neither 0 nor 1"):
        from_binary(b"\x01\x02", 0, 2, spec, (2,))

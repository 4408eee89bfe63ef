"""Nested lists in, tensors out, and back."""

import json
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rung.domain.errors import InvalidInput, ModelError, NotAcceptable
from rung.domain.tensors import DATATYPES, TensorSpec
from rung.protocols.json_tensors import (
    ABSENT,
    read_columns,
    read_examples,
    read_message,
    read_rows,
    write_columns,
    write_rows,
    write_tensor,
)


def spec(datatype="FP32", shape=(-1,), name="x"):
    return TensorSpec(name, datatype, shape)


def rows(text, *specs):
    return read_rows(read_message(b'{"instances":' + text.encode() + b"}").instances, specs)


def columns(text, *specs):
    return read_columns(read_message(b'{"inputs":' + text.encode() + b"}").inputs, specs)


def examples(text, *specs, context=None):
    shared = f'"context":{context},' if context else ""
    message = read_message(f'{{{shared}"examples":{text}}}'.encode())
    return read_examples(message.examples, message.context, specs)


@pytest.mark.parametrize("datatype", sorted(DATATYPES.keys() - {"BYTES", "BF16"}))
def test_every_datatype_goes_both_ways(datatype):
    dtype = DATATYPES[datatype]
    array = np.array([[0, 1], [1, 0]]).astype(dtype)
    if dtype.kind in "iu":
        array[0, 0], array[1, 1] = np.iinfo(dtype).min, np.iinfo(dtype).max
    elif dtype.kind == "f":
        array[0, 0], array[1, 1] = np.finfo(dtype).min, np.finfo(dtype).tiny
    text = write_tensor(array, spec(datatype, (-1, 2))).decode()
    back = rows(text, spec(datatype, (-1, 2)))["x"]
    assert back.dtype is dtype
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(columns(text, spec(datatype, (-1, 2)))["x"], array)


@given(npst.arrays(np.float32, npst.array_shapes(max_dims=3, max_side=4), elements=st.floats(width=32)))
def test_every_float_goes_both_ways(array):
    text = write_tensor(array, spec(shape=array.shape)).decode()
    np.testing.assert_array_equal(rows(text, spec(shape=array.shape))["x"], array)
    # What Python's own reader makes of it, which knows the bare words too.
    np.testing.assert_array_equal(np.array(json.loads(text), np.float32), array)


def test_a_scalar_needs_no_list():
    assert columns("2.5", spec(shape=()))["x"] == np.float32(2.5)
    assert write_columns([(spec(shape=()), np.array(2.5, np.float32))]) == b"2.5"
    assert write_columns([(spec(shape=()), np.array(np.nan, np.float32))]) == b"NaN"
    assert columns('{"b64":"YQ=="}', spec("BYTES", ()))["x"].item() == b"a"


def test_rows_are_objects_where_there_are_several_inputs():
    """The example of TF Serving's page."""
    found = rows(
        '[{"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},'
        ' {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]}]',
        spec("BYTES", (-1,), "tag"),
        spec("INT64", (-1, 5), "signal"),
        spec("FP32", (-1, 2, 2), "sensor"),
    )
    assert found["tag"].tolist() == [b"foo", b"bar"]
    assert found["signal"].tolist() == [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]]
    assert found["sensor"].tolist() == [[[1, 2], [3, 4]], [[4, 5], [6, 8]]]


def test_columns_need_no_rows_in_common():
    found = columns('{"a": [1, 2, 3], "b": [[1.5]], "more": 1}', spec("INT32", (-1,), "a"), spec("FP32", (-1, 1), "b"))
    assert found["a"].tolist() == [1, 2, 3]
    assert found["b"].tolist() == [[1.5]]


@pytest.mark.parametrize("row", ['{"x": NaN}', "NaN"])
def test_bare_words(row):
    found = rows(f"[{row}, {row.replace('NaN', '-Infinity')}, {row.replace('NaN', '1')}]", spec())["x"]
    np.testing.assert_array_equal(found, np.array([np.nan, -np.inf, 1], np.float32))


def test_bare_words_leave_texts_alone():
    found = columns('{"t": ["NaN", "Infinity"], "x": [NaN, 0.5]}', spec("BYTES", (-1,), "t"), spec())
    assert found["t"].tolist() == [b"NaN", b"Infinity"]
    assert rows('["NaN"]', spec("BYTES"))["x"].tolist() == [b"NaN"]


def test_bytes():
    found = rows('["a", {"b64": "/+A="}, {"b64": "/+A"}]', spec("BYTES"))["x"]
    assert found.tolist() == [b"a", b"\xff\xe0", b"\xff\xe0"]
    assert rows('[{"x": {"b64": "/+A="}}, {"x": "a"}]', spec("BYTES"))["x"].tolist() == [b"\xff\xe0", b"a"]
    array = np.array([[b"a", b"b"]], object)
    assert write_tensor(array, spec("BYTES", (-1, 2))) == b'[["a","b"]]'
    assert write_tensor(array, spec("BYTES", (-1, 2), "image_bytes")) == b'[[{"b64":"YQ=="},{"b64":"Yg=="}]]'
    mixed = np.array([b"a", b"\xff"], object)
    assert write_tensor(mixed, spec("BYTES")) == b'[{"b64":"YQ=="},{"b64":"/w=="}]', "all of them in one form"


def test_several_outputs():
    outputs = [
        (spec("BYTES", (-1,), "t"), np.array([b"a,b", b"c"], object)),
        (spec("FP32", (-1,), "s"), np.array([0.1, np.inf], np.float32)),
        (spec("INT8", (-1, 2), "m"), np.array([[1, 2], [3, 4]], np.int8)),
    ]
    assert write_rows(outputs) == b'[{"t":"a,b","s":0.1,"m":[1,2]},{"t":"c","s":Infinity,"m":[3,4]}]'
    assert write_columns(outputs) == b'{"t":["a,b","c"],"s":[0.1,Infinity],"m":[[1,2],[3,4]]}'


def test_outputs_without_common_rows_are_no_rows():
    one, two = (spec(name="a"), np.zeros(1, np.float32)), (spec(name="b"), np.zeros(2, np.float32))
    for outputs in ([one, two], [(spec(shape=()), np.array(1, np.float32))]):
        with pytest.raises(InvalidInput, match="send inputs in place of instances"):
            write_rows(outputs)


def test_examples():
    found = examples('[{"x": 1.0}, {"x": [2.0]}]', spec())["x"]
    assert found.tolist() == [1.0, 2.0]
    found = examples('[{"x": [1, 2]}]', spec(shape=(-1, 2, 1)), spec("BYTES", name="t"), context='{"t": "a"}')
    assert found["x"].tolist() == [[[1.0], [2.0]]]
    assert found["t"].tolist() == [b"a"]
    np.testing.assert_array_equal(examples('[{"x": NaN}, {"x": [1.0]}]', spec())["x"], np.float32([np.nan, 1]))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "no rows|nothing|x"),
        ('["a"]', "not FP32"),
        ("[true]", "not FP32"),
        ("[null]", "not FP32"),
        ("[[1]]", r"instances\[0\]"),
        ("[1e39]", "not FP32"),
        ("[1e39, NaN]", "out of range"),
        ("[1e999, NaN]", "out of range"),
        ('["a", NaN]', "not FP32"),
        ("1", "array"),
        ('{"x": [1]}', "array"),
        ('[{"y": 1}]', r"instances\[0\] has the keys \['y'\]"),
        ('[{"x": 1, "y": 1}]', "the model takes"),
        ('[{"x": 1}, 1]', r"instances\[1\]"),
        ('[{"x": 1}, {"x": [1]}]', r"instances\[1\]"),
        ('[{"x": NaN}, 1]', r"instances\[1\]"),
    ],
)
def test_rows_that_do_not_fit(text, says):
    if text == "[]":
        assert rows(text, spec())["x"].shape == (0,), "counted by whoever knows the model"
        return
    with pytest.raises(InvalidInput, match=says):
        rows(text, spec())


@pytest.mark.parametrize("text", ["[[1], [1, 2]]", "[[1], []]", "[[NaN], [1, 2]]"])
def test_uneven_lists_make_no_tensor(text):
    with pytest.raises(InvalidInput, match="makes no tensor"):
        rows(text, spec(shape=(-1, -1)))
    with pytest.raises(InvalidInput):
        rows(text.replace("1", '"a"').replace("NaN", '"b"'), spec("BYTES", (-1, -1)))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[{}]", "lacks the feature"),
        ("[]", "nothing"),
        ("[1]", r"examples\[0\]"),
        ('[{"x": [1, 2]}, {"x": [1]}]', "makes no tensor"),
        ('[{"x": [1, 2]}]', "2 values"),
        ('[{"x": [[1]]}]', "not FP32"),
    ],
)
def test_examples_that_do_not_fit(text, says):
    with pytest.raises(InvalidInput, match=says):
        examples(text, spec(shape=(-1, 3)))


def test_a_feature_stands_in_one_place():
    with pytest.raises(InvalidInput, match="context and in examples"):
        examples('[{"x": 1}]', spec(), context='{"x": 1}')
    with pytest.raises(InvalidInput, match="context"):
        examples('[{"x": 1}]', spec(), context="[1]")


@pytest.mark.parametrize("text", ['[{"b64": "!"}]', '[{"b64": 1}]', '[{"b64": "YQ==", "c": 1}]', r'["\ud800"]', "[1]"])
def test_bytes_that_are_none(text):
    with pytest.raises(InvalidInput):
        rows(text, spec("BYTES"))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"NaN", b"[NaN]", b'{"instances": NaN', b'{"signature_name": 1}', b"\xff", b'{"a":\xffNaN}'],
)
def test_bodies_that_are_none(body):
    with pytest.raises(InvalidInput):
        read_message(body)
    with pytest.raises(InvalidInput):
        read_message(b'{"signature_name": 1, "instances": [NaN]}')


@pytest.mark.parametrize("word", [b"", b",NaN"])
def test_deep_nesting_is_refused(word):
    def read():
        message = read_message(b'{"instances":' + b"[" * 100_000 + b"1" + b"]" * 100_000 + word + b"}")
        read_rows(message.instances, [spec()])

    with pytest.raises(InvalidInput):
        read()


def test_what_json_does_not_carry():
    with pytest.raises(InvalidInput, match="BF16"):
        rows("[1]", spec("BF16"))
    with pytest.raises(NotAcceptable, match="BF16"):
        write_tensor(np.zeros(1, np.uint16), spec("BF16"))
    with pytest.raises(ModelError):
        write_tensor(np.zeros(1, np.float64), spec())


@given(st.text(alphabet='[]{}",:1.ebx64NaNIfinty- ', max_size=40))
def test_no_body_breaks_it(text):
    for read in (rows, columns, examples):
        for datatype in ("FP32", "BYTES", "INT8"):
            with suppress(InvalidInput):
                read(text, spec(datatype, (-1, -1)))


def test_absent_is_itself():
    assert read_message(b"{}").instances is ABSENT

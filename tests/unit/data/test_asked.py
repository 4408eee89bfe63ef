import base64

import orjson
import pytest

from rung.data.asked import rows_of

PICTURE = b"\x89PNG\r\n\x1a\n and so on"


@pytest.mark.parametrize(
    ("asked", "rows"),
    [
        ([{"a": 1, "b": 2}], [{"a": 1, "b": 2}]),
        ({"a": 1, "b": 2}, [{"a": 1, "b": 2}]),
        ([[1, 2], [3, 4]], [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        ({"instances": [[1, 2]]}, [{"a": 1, "b": 2}]),
        ({"rows": [{"a": 1}, {"a": 2}]}, [{"a": 1}, {"a": 2}]),
        ({"a": [1, 3], "b": [2, 4]}, [{"a": 1, "b": 2}, {"a": 3, "b": 4}]),
        ({"inputs": {"a": [1], "b": [2]}}, [{"a": 1, "b": 2}]),
        (
            {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2, 3, 4]}]},
            [{"a": 1, "b": 2}, {"a": 3, "b": 4}],
        ),
        ({"text": ["one", "two"]}, [{"text": "one"}, {"text": "two"}]),
        ({"instances": [{"b64": base64.b64encode(b"xy").decode()}]}, [{"image": b"xy"}]),
        (["one"], [{"text": "one"}]),
    ],
)
def test_bodies_of_all_doors_are_rows(asked, rows):
    assert rows_of(orjson.dumps(asked), "application/json", ("a", "b")) == rows


def test_bodies_that_are_no_json():
    assert rows_of(PICTURE, "image/png", ()) == [{"image": PICTURE}]
    assert rows_of(PICTURE, "", ()) == [{"image": PICTURE}]
    assert rows_of("grüße".encode(), "text/plain", ("t",)) == [{"text": "grüße"}]
    assert rows_of(b"[7]", "application/json", ("x",)) == [{"x": 7}]


@pytest.mark.parametrize(
    ("body", "media", "said"),
    [
        (b"", "application/json", 'inputs = "body"'),
        (None, "", 'inputs = "body"'),
        (b"\x00\x01", "application/octet-stream", "is not read here"),
        (b"[]", "application/json", "no row"),
        (b"3", "application/json", "neither a list nor an object"),
        (b"[[1, 2, 3]]", "application/json", "does not fit 2 columns"),
    ],
)
def test_what_cannot_be_read_says_why(body, media, said):
    with pytest.raises(ValueError, match=said):
        rows_of(body, media, ("a", "b"))


def test_a_row_without_names_needs_some():
    with pytest.raises(ValueError, match="has no names"):
        rows_of(b"[[1, 2]]", "application/json", ())

"""Text becomes what the version takes, or the row is refused; and which columns a version is given."""

import polars as pl
import pytest

from rung.domain.errors import InvalidData
from rung.domain.models import Manifest, Step, Transforms
from rung.domain.tensors import Signature, TensorSpec
from rung.offline.scoring.wanted import Chosen, Wanted, choose, typed, wanted_of
from rung.transforms.pipeline import Pipeline


def manifest(inputs: tuple[TensorSpec, ...], *steps: Step) -> Manifest:
    signature = Signature(inputs, (TensorSpec("y", "FP32", (-1, 1)),))
    return Manifest("m", 1, "onnx", signature, transforms=Transforms(steps))


def wanted(inputs: tuple[TensorSpec, ...], *steps: Step) -> Wanted:
    found = manifest(inputs, *steps)
    return wanted_of(found, Pipeline.build(found))


def test_a_version_says_what_it_takes() -> None:
    columns = [
        {"name": "a"},
        {"name": "b", "type": "integer", "default": 1},
        {"name": "c", "type": "category", "categories": [1, 2]},
        {"name": "d", "type": "category", "categories": ["x"]},
        {"name": "e", "type": "boolean"},
    ]
    table = wanted((TensorSpec("x", "FP32", (-1, 5)),), Step("tabular.columns", {"columns": columns}))
    assert table.readings == {"a": "number", "b": "integer", "c": "integer", "d": "text", "e": "boolean"}
    assert (table.kind, table.arrays, table.optional) == ("rows", {"a", "b"}, {"b"})

    matrix = wanted((TensorSpec("x", "FP32", (-1, 4)),))
    assert (matrix.kind, matrix.width, matrix.flat, matrix.columns) == ("matrix", 4, False, ())
    assert wanted((TensorSpec("x", "FP32", (-1,)),)).flat
    named = wanted((TensorSpec("x", "FP64", (-1, 2), columns=("p", "q")),))
    assert named.readings == {"p": "number", "q": "number"}
    several = wanted((TensorSpec("n", "INT64", (-1, 1)), TensorSpec("t", "BYTES", (-1, 1))))
    assert (several.kind, several.readings) == ("rows", {"n": "integer", "t": "text"})
    assert wanted((TensorSpec("t", "BYTES", (-1,)),)).kind == "text"
    assert wanted((TensorSpec("x", "FP32", (-1, 3, 8, 8)),), Step("image.decode")).kind == "image"


def test_text_is_read_as_what_is_taken_and_what_is_none_is_refused() -> None:
    table = pl.DataFrame(
        {
            "a": ["1.5", " 2 ", "x", None, "1e3"],
            "b": ["1", "2", "3", "4", "5.0"],
            "e": ["true", "False", "yes", None, "TRUE"],
            "d": ["007", "x", "y", "z", ""],
            "n": [1, 2, 3, 4, 5],
        }
    )
    chosen = Chosen(tuple("abedn"), {"a": "number", "b": "integer", "e": "boolean", "d": "text", "n": "number"})

    made, good, refused = typed(table, chosen, "rows.csv", [2, 3, 4, 5, 6])

    assert made["a"].to_list() == [1.5, 2.0, None, None, 1000.0]
    assert made["b"].to_list() == [1, 2, 3, 4, 5]
    assert made["e"].to_list() == [True, False, None, None, True]
    assert made["d"].to_list() == ["007", "x", "y", "z", ""]
    assert good.to_list() == [True, True, False, True, True]
    assert [(one.row, one.reason) for one in refused] == [(4, "column a: 'x' is no number")]


def test_columns_are_found_or_it_is_said_which_is_missing() -> None:
    table = pl.DataFrame({"id": ["1"], "a": [1.0], "b": [2.0], "text": ["t"], "other": ["o"], "image": [b""]})
    rows = Wanted("rows", ("b", "a", "c"), {"a": "number", "b": "number", "c": "number"}, optional=frozenset("c"))
    assert choose(rows, table, (), (), "m").columns == ("b", "a")
    assert choose(Wanted("text"), table, (), (), "m").columns == ("text",)
    assert choose(Wanted("text"), table, ("other",), (), "m").columns == ("other",)
    assert choose(Wanted("image"), table, (), (), "m").columns == ("image",)
    matrix = Wanted("matrix", width=2)
    assert choose(matrix, table, ("a", "b"), (), "m").columns == ("a", "b")
    assert choose(matrix, table, (), ("id", "text", "other", "image"), "m").columns == ("a", "b")
    for kind, features, said in (
        (Wanted("rows", ("z",), {"z": "number"}), (), "takes the column 'z'"),
        (matrix, (), "takes 2 numbers a row, and the data has 6"),
        (Wanted("text"), ("id", "other"), "id, other hold text"),
        (Wanted("image"), ("a",), "none of .* holds bytes"),
    ):
        with pytest.raises(InvalidData, match=said):
            choose(kind, table, features, (), "m version 1")

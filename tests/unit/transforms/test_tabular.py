"""Rows with named columns: what fits becomes numbers in order, what does not is named."""

from time import perf_counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import BundleError, InvalidInput
from rung.domain.models import Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Signature, TensorSpec
from rung.transforms.pipeline import Pipeline
from rung.transforms.tabular import Table, columns

COLUMNS = [
    {"name": "age", "type": "integer", "min": 0, "max": 120},
    {"name": "income", "nullable": True},
    {"name": "member", "type": "boolean"},
    {"name": "town", "type": "category", "categories": ["Rome", "Oslo", "Bonn"]},
    {"name": "visits", "type": "integer", "default": 1},
]
ROW = {"age": 30, "income": 12.5, "member": True, "town": "Oslo", "visits": 3}
MATRIX = (TensorSpec("x", "FP32", (-1, 5)),)
OUT = (TensorSpec("y", "FP32", (-1, 1)),)


def pipeline(declared=COLUMNS, inputs=MATRIX, **params):
    steps = Transforms(input=(Step("tabular.columns", {"columns": declared, **params}),))
    return Pipeline.of(steps, Signature(tuple(inputs), OUT))


def read(rows, **params):
    return pipeline(**params).prepare(Payload("rows", rows)).inputs["x"]


def test_a_row_becomes_numbers_in_the_stated_order():
    matrix = read([ROW, dict(reversed(ROW.items()))])
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, [[30, 12.5, 1, 1, 3]] * 2)


def test_unknown_values_and_defaults():
    row = {"age": 0, "income": None, "member": False, "town": "Rome"}
    np.testing.assert_array_equal(read([row, {**row, "visits": None}]), [[0, np.nan, 0, 0, 1]] * 2)


def test_an_object_of_columns_means_the_same():
    by_column = {name: [value, value] for name, value in ROW.items()}
    np.testing.assert_array_equal(read(by_column), read([ROW, ROW]))
    del by_column["visits"]
    assert read(by_column)[:, 4].tolist() == [1, 1]
    by_column["age"] = np.array([4, 5])
    assert read(by_column)[:, 0].tolist() == [4, 5]


def test_training_can_take_one_row_by_hand():
    np.testing.assert_array_equal(columns(ROW, {}, columns=COLUMNS), read([ROW])[0])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"age": "30"}, "column 'age': '30' is no integer"),
        ({"age": True}, "column 'age': true is no integer"),
        ({"age": 30.5}, "column 'age': 30.5 is no integer"),
        ({"age": 121}, "column 'age': 121 is over the maximum 120"),
        ({"age": -1}, "column 'age': -1 is under the minimum 0"),
        ({"age": None}, "column 'age': null is not allowed"),
        ({"age": 10**30}, "column 'age': the number is too large"),
        ({"income": [1]}, "column 'income': a list is no number"),
        ({"income": 10**400}, "column 'income': the number is too large"),
        ({"income": float("inf")}, "column 'income': infinity is not allowed"),
        ({"income": 1e300}, "column 'income': 1e\\+300 does not fit float32"),
        ({"member": 1}, "column 'member': 1 is no boolean"),
        ({"town": "Paris"}, "column 'town': 'Paris' is a new category; there are Rome, Oslo, Bonn"),
        ({"town": 1}, "column 'town': 1 is a new category"),
        ({"town": {}}, "column 'town': an object is no category"),
        ({"size": 1}, "column 'size': there is no such column; the model takes age, income"),
    ],
)
def test_the_column_the_row_and_the_reason_are_named(change, reason):
    (name,) = change
    with pytest.raises(InvalidInput, match=f"^{reason}") as alone:
        read([{**ROW, **change}])
    assert alone.value.field == name
    with pytest.raises(InvalidInput, match=f"^row 2, {reason}"):
        read([ROW, ROW, {**ROW, **change}, ROW])


def test_a_missing_column_is_named():
    row = {key: value for key, value in ROW.items() if key != "town"}
    with pytest.raises(InvalidInput, match="row 1, column 'town': it is missing") as error:
        read([ROW, row])
    assert error.value.field == "town"
    with pytest.raises(InvalidInput, match="column 'town': it is missing"):
        read({name: [value] for name, value in row.items()})


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no items"),
        ([[1, 2, 3, 4, 5]], "no object of columns"),
        ([ROW, 5], "row 1, it is no object"),
        (
            {"age": [1, 2], "income": [1], "member": [True], "town": ["Rome"]},
            "'income': it has 1 values, another has 2",
        ),
        ({"age": [1], "income": 3, "member": [True], "town": ["Rome"]}, "'income': a list of values"),
        ({"age": [], "income": [], "member": [], "town": []}, "no rows|no items"),
    ],
)
def test_what_is_no_table_is_refused(rows, reason):
    with pytest.raises(InvalidInput, match=reason):
        read(rows)


def test_columns_that_nobody_knows_can_be_ignored():
    np.testing.assert_array_equal(read([{**ROW, "id": "a7"}], extra="ignore"), read([ROW]))
    np.testing.assert_array_equal(read({"id": ["a"]} | {k: [v] for k, v in ROW.items()}, extra="ignore"), read([ROW]))


def test_a_tensor_for_each_column():
    inputs = [
        TensorSpec("age", "INT64", (-1, 1)),
        TensorSpec("income", "FP64", (-1,)),
        TensorSpec("member", "BOOL", (-1, 1)),
        TensorSpec("town", "BYTES", (-1, 1)),
        TensorSpec("visits", "INT8", (-1, 1)),
    ]
    made = pipeline(inputs=inputs, output="columns")
    tensors = made.prepare(Payload("rows", [ROW, {**ROW, "income": None, "town": "Bonn"}])).inputs
    assert tensors["age"].tolist() == [[30], [30]]
    np.testing.assert_array_equal(tensors["income"], [12.5, np.nan])
    assert tensors["member"].tolist() == [[True], [True]]
    assert tensors["town"].tolist() == [[b"Oslo"], [b"Bonn"]]
    assert tensors["visits"].dtype == np.int8
    with pytest.raises(InvalidInput, match="column 'visits': 300 does not fit int8"):
        made.prepare(Payload("rows", [{**ROW, "visits": 300}]))


def test_texts_travel_as_bytes():
    words = [{"name": "note", "type": "text", "nullable": True}]
    made = pipeline(words, [TensorSpec("note", "BYTES", (-1, 1))], output="columns")
    tensors = made.prepare(Payload("rows", [{"note": "grüß"}, {"note": None}])).inputs
    assert tensors["note"].tolist() == [["grüß".encode()], [b""]]
    with pytest.raises(InvalidInput, match="surrogate"):
        made.prepare(Payload("rows", [{"note": "\ud800"}]))


@pytest.mark.parametrize(
    ("declared", "params", "reason"),
    [
        ([{"name": "a"}], {}, "has 1 columns, and the model's input 'x' takes 5"),
        ([], {}, "one column at least"),
        ([{"name": "a"}] * 5, {}, "each name once"),
        ([{"name": "a", "typ": "integer"}], {}, "typ"),
        ([{"name": "a", "type": "date"}], {}, "date"),
        ([{"name": "a", "type": "category"}], {}, "must have categories"),
        ([{"name": "a", "categories": ["x"]}], {}, "must have categories"),
        ([{"name": "a", "type": "category", "categories": ["x", 1]}], {}, "texts and integers"),
        ([{"name": "a", "type": "text"}], {}, "use output columns"),
        ([{"name": "a", "type": "boolean", "min": 0}], {}, "has a range"),
        ([{"name": "a", "max": 3, "default": 4}], {}, "default that does not fit.*over the maximum"),
        (COLUMNS, {"output": "rows"}, "knows output"),
        (COLUMNS, {"output": "columns"}, "must be the same"),
    ],
)
def test_columns_that_contradict_themselves_are_found_at_once(declared, params, reason):
    with pytest.raises(BundleError, match=reason):
        pipeline(declared, **params)


def test_the_order_that_the_model_was_trained_on_is_the_only_one():
    names = tuple(ROW)
    assert pipeline(inputs=[TensorSpec("x", "FP32", (-1, 5), columns=names)])
    with pytest.raises(BundleError, match="trained on the columns visits, town"):
        pipeline(inputs=[TensorSpec("x", "FP32", (-1, 5), columns=names[::-1])])


def test_integers_have_no_nan():
    whole = [TensorSpec("x", "INT64", (-1, 1))]
    with pytest.raises(BundleError, match="give a default"):
        pipeline([{"name": "a", "type": "integer", "nullable": True}], whole)
    with pytest.raises(BundleError, match="declare it an integer"):
        pipeline([{"name": "a"}], whole)
    assert pipeline([{"name": "a", "type": "integer"}], whole).prepare(Payload("rows", [{"a": 2**62 + 1}])).inputs[
        "x"
    ].tolist() == [[2**62 + 1]]


def test_a_model_of_one_row_takes_one():
    steps = Transforms(input=(Step("tabular.columns", {"columns": COLUMNS}),))
    single = Pipeline.of(steps, Signature((TensorSpec("x", "FP32", (5,)),), (TensorSpec("y", "FP32", (1,)),), False))
    assert single.prepare(Payload("rows", [ROW])).inputs["x"].tolist() == [30, 12.5, 1, 1, 3]
    for two in ([ROW, ROW], {name: [value, value] for name, value in ROW.items()}):
        with pytest.raises(InvalidInput, match="one item a request, not 2"):
            single.prepare(Payload("rows", two))


def test_the_example_fits():
    assert read([pipeline().example]).shape == (1, 5)
    assert pipeline().example == {"age": 0, "income": 0, "member": False, "town": "Rome", "visits": 1}


def test_a_thousand_rows_take_a_few_milliseconds():
    made = pipeline()
    rows = [{**ROW, "age": index % 100, "income": index / 7} for index in range(1000)]
    took = []
    for _ in range(7):
        began = perf_counter()
        made.prepare(Payload("rows", rows))
        took.append(perf_counter() - began)
    # One by one they take some 50 ms; the best of several runs, since others use the machine too.
    assert min(took) < 0.01


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.sampled_from(["Rome", 1])
)


@given(st.lists(st.dictionaries(st.sampled_from([*ROW, "other"]), VALUES, max_size=6), max_size=4))
def test_any_rows_are_read_or_refused(rows):
    table = Table.of(COLUMNS)
    try:
        matrix = table.matrix([{**ROW, **row} for row in rows])
    except InvalidInput as error:
        assert error.field in {*ROW, "other"}  # noqa: PT017 - either is right
    else:
        assert matrix.shape == (len(rows), 5)
        assert not np.isinf(matrix).any()

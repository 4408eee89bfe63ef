import contextlib
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.catalog import models as catalog
from rung.domain.errors import BundleError, MissingDependency
from rung.ports import LoadOptions
from rung.runtimes.table import TableRuntime
from rung.store.blobs import DiskStore


def load(path):
    return TableRuntime().load(path, LoadOptions())


def written(tmp_path, text, name="table.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def keys(*values):
    return {"key": np.array([v.encode() for v in values], object) if isinstance(values[0], str) else np.array(values)}


def outputs(model):
    return {spec.name: (spec.datatype, spec.shape) for spec in model.signature.outputs}


def test_floats_make_one_vector_with_named_columns(tmp_path):
    model = load(written(tmp_path, "city,x,y\nKöln,1.5,2\nUlm,2.5,1.0\n".replace(",2\n", ",2.0\n")))

    assert outputs(model) == {"vector": ("FP32", (-1, 2)), "found": ("BOOL", (-1,))}
    assert model.signature.outputs[0].columns == ("x", "y")
    assert (model.signature.inputs[0].datatype, model.signature.inputs[0].sample) == ("BYTES", "Köln")
    answer = model.predict(keys("Ulm", "Paris"))
    assert answer["vector"].tolist() == [[2.5, 1.0], [0, 0]]
    assert answer["found"].tolist() == [True, False]


def test_a_record_keeps_the_type_of_each_column(tmp_path):
    model = load(written(tmp_path, "name,key,price,open\nanvil,7,2.5,true\nrope,-2,1,false\n"))

    assert (model.signature.inputs[0].datatype, model.signature.inputs[0].sample) == ("INT64", 7)
    answer = model.predict(keys(-2, 3, 7))
    assert {name: array.tolist() for name, array in answer.items()} == {
        "name": [b"rope", b"", b"anvil"],
        "price": [1.0, 0.0, 2.5],
        "open": [False, False, True],
        "found": [True, False, True],
    }


def test_zip_codes_stay_text(tmp_path):
    model = load(written(tmp_path, "zip,n\n01067,1\n80331,2\n"))

    assert model.predict(keys("01067", "1067"))["found"].tolist() == [True, False]


def test_the_key_that_a_parquet_file_names(tmp_path):
    pl.DataFrame({"a": [1.0, 2.0], "id": [5, 6]}).write_parquet(tmp_path / "t.parquet", metadata={"key": "id"})

    assert load(tmp_path / "t.parquet").predict(keys(6, 5))["a"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize("kind", [pl.List(pl.Float64), pl.Array(pl.Float32, 2)])
def test_a_column_of_lists_is_a_vector_under_its_own_name(tmp_path, kind):
    frame = pl.DataFrame({"id": ["a", "b"], "embedding": pl.Series([[1, 2], [3, 4]], dtype=kind), "n": [1, 2]})
    frame.write_ipc(tmp_path / "t.arrow")
    model = load(tmp_path / "t.arrow")

    assert outputs(model)["embedding"] == ("FP32", (-1, 2))
    assert model.predict(keys("b"))["embedding"].tolist() == [[3, 4]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("key\na\n", "at least one column of values"),
        ("key,x\n", "no rows"),
        ("key,x\na,1\nb\n", "line 3 has 1 cells, the first line names 2"),
        ("key,x\na,1\nb,2,3\n", "line 3 has 3 cells"),
        ("key,x\na,1\nb,2\na,3\n", "the key 'a' is in lines 2 and 4"),
        ("key,x\n1,1\n2,2\n1,3\n", "the key 1 is in lines 2 and 4"),
        ("key,x\na,1\nb,two\nc,3\n", "line 3, column 'x' holds 'two', where the others hold a number"),
        ("key,x\na,1\nb,\nc,3\n", "line 3, column 'x' is empty"),
        ("key,x\na,1\nb,1_0\nc,3\n", "'1_0'"),
        ("key,x\na,true\nb,maybe\nc,false\n", "line 3, column 'x' holds 'maybe'"),
        ("key,x\na,1\n,2\n", "line 3, column 'key' is empty"),
        ("key,x\na,1.0\nb,nan\nc,2.0\n", "line 3, column 'x' is NaN"),
        ("key,x,x\na,1,2\n", "two columns called 'x'"),
        ("key,\na,1\n", "column 2 has no name"),
        ("key,found\na,1\n", "'found'"),
        ('key,x\n"a,1\n', "cannot be read as CSV"),
    ],
)
def test_a_bad_csv_says_where(tmp_path, text, words):
    with pytest.raises(BundleError) as raised:
        load(written(tmp_path, text))

    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"key": ["a", None], "x": [1, 2]}, "row 2, column 'key' has no value"),
        ({"key": ["a", "b"], "x": [[1.0, 2.0], [3.0]]}, "row 2, column 'x' holds 1 numbers, the first row 2"),
        ({"key": ["a", "b"], "x": [[1.0, None], [3.0, 4.0]]}, "row 1, column 'x' has a list with a gap"),
        ({"key": ["a", "b"], "x": [["u"], ["v"]]}, "a list holds one or more numbers"),
        ({"key": ["a", "b"], "x": [{"u": 1}, {"u": 2}]}, "no tensor can hold"),
        ({"key": [1.5, 2.5], "x": [1, 2]}, "use text or whole numbers"),
        ({"key": ["b", "b"], "x": [1, 2]}, "the key 'b' is in rows 1 and 2"),
        ({"key": ["a", "b"], "x": [1.0, float("inf")]}, "row 2, column 'x' is NaN or infinite"),
        ({"key": pl.Series([2**64 - 1, 1], dtype=pl.UInt64), "x": [1, 2]}, "no INT64"),
    ],
)
def test_a_bad_parquet_says_where(tmp_path, columns, words):
    pl.DataFrame(columns).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(BundleError) as raised:
        load(tmp_path / "t.parquet")

    assert words in str(raised.value)


def test_parquet_without_polars(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "polars", None)

    with pytest.raises(MissingDependency, match=r'pip install "rung\[table\]"'):
        load(tmp_path / "t.parquet")


def test_registered_and_verified_like_a_model(tmp_path):
    store = DiskStore(tmp_path / "repository")
    manifest = catalog.register(store, written(tmp_path, "id,x\n900,1.5\n901,2.5\n"), name="prices")

    assert (manifest.runtime, manifest.artifact, manifest.version) == ("table", "table.csv", 1)
    found = catalog.verify(store, "prices")
    assert (found.problem, found.examples) == ("", 2)
    assert catalog.register(store, tmp_path / "table.csv", name="prices").version == 2


@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_refused(tmp_path_factory, data):
    path = Path(tmp_path_factory.mktemp("any") / "t.csv")
    path.write_bytes(data)
    with contextlib.suppress(BundleError):
        model = load(path)
        sample = model.signature.inputs[0].sample
        assert model.predict(keys(sample))["found"].tolist() == [True]

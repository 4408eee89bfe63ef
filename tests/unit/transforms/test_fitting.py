"""What is fitted in training is what serves: the same numbers to the last bit, under one digest."""

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.catalog import models
from rung.data.kinds import kind_of
from rung.data.prefetch import overlap
from rung.domain.errors import BundleError, ConfigurationError, InvalidData, InvalidInput
from rung.domain.models import Manifest, Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Signature, TensorSpec
from rung.settings.project import DataSection
from rung.store.blobs import open_store
from rung.testing import models_tasks
from rung.training.answering import opened
from rung.transforms.fitting import MOST_CATEGORIES, apply, fit
from rung.transforms.pipeline import Pipeline, digest_of

KINDS = {"size": "number", "rooms": "integer", "old": "boolean", "town": "category"}
FEATURES = tuple(KINDS)
ROWS = pl.DataFrame(
    {
        "size": [50.5, None, 71.25, 1e-3, 50.5],
        "rooms": [1, 2, None, 4, 2],
        "old": [True, False, None, True, True],
        "town": ["Oslo", "Bonn", "Bonn", None, "Ünna"],
    }
)


def columns_of(frame: pl.DataFrame) -> dict[str, object]:
    """As `ctx.data.arrays` hands them over: numbers as arrays, the rest as lists."""
    return {one.name: one.to_numpy() if one.dtype.is_numeric() else one.to_list() for one in frame}


def fitted(frame: pl.DataFrame, **options: object) -> Step:
    kinds = {name: KINDS.get(name) or kind_of(frame.schema[name]) for name in frame.columns}
    return fit(columns_of(frame), features=frame.columns, kinds=kinds, **options)


def pipeline_of(step: Step, width: int, datatype: str = "FP32") -> Pipeline:
    """As serving builds it: of a manifest that was written down and read again."""
    written = msgspec.json.encode(Transforms((step,)))
    signature = Signature((TensorSpec("x", datatype, (-1, width)),), (TensorSpec("y", "FP32", (-1, 1)),))
    return Pipeline.of(msgspec.json.decode(written, type=Transforms), signature)


def json_rows(frame: pl.DataFrame) -> list[dict[str, object]]:
    return json.loads(json.dumps(frame.to_dicts()))


def online(pipeline: Pipeline, rows: object) -> np.ndarray:
    return pipeline.prepare(Payload("rows", rows)).inputs["x"]


frames = (
    st.integers(1, 8)
    .flatmap(
        lambda count: st.fixed_dictionaries(
            {
                "size": st.lists(
                    st.none() | st.floats(-1e6, 1e6) | st.integers(-9, 9).map(float), min_size=count, max_size=count
                ),
                "rooms": st.lists(st.none() | st.integers(-(2**40), 2**40), min_size=count, max_size=count),
                "old": st.lists(st.none() | st.booleans(), min_size=count, max_size=count),
                "town": st.lists(
                    st.none() | st.sampled_from(["Oslo", "Bonn", "", "ß"]), min_size=count, max_size=count
                ),
            }
        ).filter(lambda made: all(any(value is not None for value in values) for values in made.values()))
    )
    .map(
        lambda made: pl.DataFrame(
            made, schema={"size": pl.Float64, "rooms": pl.Int64, "old": pl.Boolean, "town": pl.String}
        )
    )
)


@settings(max_examples=80, deadline=None)
@given(frames, st.booleans(), st.booleans(), st.integers(1, 3))
def test_training_serving_batch_and_stream_make_the_same_numbers(frame, scale, one_hot, size):
    step = fitted(frame, scale=scale, one_hot=one_hot)
    trained = apply(step, columns_of(frame))
    pipeline = pipeline_of(step, trained.shape[1])

    assert trained.dtype == np.float32
    assert online(pipeline, json_rows(frame)).tobytes() == trained.tobytes()
    assert online(pipeline, {name: frame[name].to_list() for name in frame.columns}).tobytes() == trained.tobytes()
    # scikit-learn's estimators are served FP64: the numbers are still those of training.
    double = online(pipeline_of(step, trained.shape[1], "FP64"), json_rows(frame))
    assert double.dtype == np.float64
    assert double.tobytes() == trained.astype(np.float64).tobytes()
    alone = [online(pipeline, [row]) for row in json_rows(frame)]
    assert np.concatenate(alone).tobytes() == trained.tobytes()
    stream = [frame[start : start + size] for start in range(0, frame.height, size)]
    parts = [apply(step, columns_of(part)) for part in stream]
    assert np.concatenate(parts).tobytes() == trained.tobytes()
    assert pipeline.digest == digest_of(Transforms((step,)))


def test_a_file_and_a_stream_of_micro_batches_give_equal_rows(tmp_path: Path) -> None:
    frame = pl.concat([ROWS] * 40)
    frame.write_parquet(tmp_path / "rows.parquet")
    step = fitted(frame, scale=True, one_hot=True)
    whole = apply(step, columns_of(pl.read_parquet(tmp_path / "rows.parquet")))

    def read(start: int) -> dict[str, object]:
        # What a message holds: JSON rows.
        rows = json.loads(json.dumps(frame[start : start + 7].to_dicts()))
        return {name: [row[name] for row in rows] for name in FEATURES}

    stream = overlap(range(0, frame.height, 7), read, lambda columns: apply(step, columns))
    np.testing.assert_array_equal(np.concatenate(list(stream)), whole)


def test_what_is_found_in_the_rows() -> None:
    step = fitted(ROWS, scale=True)
    size, rooms, old, town = step.params["columns"]
    values = np.array([50.5, 71.25, 1e-3, 50.5])
    assert size == {
        "name": "size", "type": "number", "default": 50.5, "mean": values.mean(), "deviation": values.std(),
    }  # fmt: skip
    assert (rooms["type"], rooms["default"]) == ("integer", 2)
    assert old == {"name": "old", "type": "boolean", "default": True}
    assert town == {"name": "town", "type": "category", "categories": ["Bonn", "Oslo", "Ünna"], "default": "Bonn"}


def test_scaled_columns_have_mean_0_and_deviation_1() -> None:
    rows = {"a": np.arange(100.0), "b": np.full(100, 7.0)}
    made = apply(fit(rows, features=("a", "b"), kinds={"a": "number", "b": "number"}, scale=True), rows)
    assert abs(made[:, 0].mean()) < 1e-6
    assert abs(made[:, 0].std() - 1) < 1e-6
    assert not made[:, 1].any()


def test_a_category_takes_a_column_for_each_value() -> None:
    step = fitted(ROWS.select("town").drop_nulls(), one_hot=True)
    np.testing.assert_array_equal(apply(step, {"town": ["Oslo", "Ünna"]}), [[0, 1, 0], [0, 0, 1]])
    with pytest.raises(InvalidInput, match="row 1, column 'town': 'Rome' is a new category"):
        apply(step, {"town": ["Oslo", "Rome"]})


def test_what_is_absent_becomes_the_median_or_the_most_common_or_is_refused() -> None:
    made = apply(fitted(ROWS), {"size": [None], "rooms": [None], "old": [None], "town": [None]})
    np.testing.assert_array_equal(made, np.array([[50.5, 2, 1, 0]], np.float32))
    # Absent altogether, too.
    assert online(pipeline_of(fitted(ROWS), 4), [{}]).tolist() == made.tolist()
    unfilled = apply(fitted(ROWS, fill=False), {**{name: [None] for name in FEATURES}})
    assert math.isnan(unfilled[0, 0])
    assert math.isnan(unfilled[0, 1])
    # Where training lacked nothing, a gap is an error: nothing was learned about it.
    with pytest.raises(InvalidInput, match="column 'rooms': null is not allowed"):
        apply(fitted(ROWS.drop_nulls()), {"size": [1.0], "rooms": [None], "old": [True], "town": ["Oslo"]})


def test_the_order_of_the_rows_does_not_matter() -> None:
    one, other = fitted(ROWS, one_hot=True), fitted(ROWS.reverse(), one_hot=True)
    assert digest_of(Transforms((one,))) == digest_of(Transforms((other,)))


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        ([None, None], "number", "no number in the training rows"),
        ([None, None], "text", "no value in the training rows"),
        ([f"t{number}" for number in range(MOST_CATEGORIES + 1)], "text", "257 different texts, too many"),
        ([b"a"], "bytes", "is bytes, which is no number"),
        ([1], "time", "is time, which is no number"),
    ],
)
def test_a_column_that_cannot_become_a_number_is_named(values, kind, words):
    with pytest.raises(InvalidData, match=f"'a'.*{words}"):
        fit({"a": values}, features=("a",), kinds={"a": kind})


def test_no_columns_a_missing_one_and_a_step_from_elsewhere() -> None:
    with pytest.raises(InvalidData, match="no column left"):
        fit({}, features=(), kinds={})
    with pytest.raises(InvalidData, match=r"there is no column 'b'.*there are a"):
        fit({"a": [1]}, features=("b",), kinds={"b": "number"})
    with pytest.raises(ConfigurationError, match=r"'image.decode' is no fitted step"):
        apply(Step("image.decode"), {})


def test_a_registered_version_has_the_digest_of_training(tmp_path: Path) -> None:
    """From fit to the bundle and back: what evaluation and batch load is what training ran."""
    step = fitted(ROWS.select("size", "rooms"), scale=True)
    path = models_tasks._save(
        tmp_path / "line.onnx",
        "line (float[N, 2] x) => (float[N, 1] y) { y = MatMul(x, weight) }",
        {"weight": np.array([[2], [1]], np.float32)},
    )
    store = open_store(str(tmp_path / "repository"))
    models.register(store, path, name="line", task="regression", transforms=Transforms((step,)))
    # Evaluation adds the head of the task; the input steps are those of training.
    with opened(store, "line", 1, task="regression") as answerer:
        assert digest_of(Transforms(answerer.manifest.transforms.input)) == digest_of(Transforms((step,)))
        section = DataSection(features=("size", "rooms"))
        frame = ROWS.select("size", "rooms")
        [batch] = answerer.answer(frame, section)
    expected = apply(step, columns_of(frame)) @ np.array([[2], [1]], np.float32)
    np.testing.assert_allclose([float(result) for result in batch.results], expected[:, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (
            Step("tabular.splines", {"knots": 3}),
            "the transform 'tabular.splines'.*cannot run here.*there is no transform",
        ),
        (
            Step("tabular.columns", {"columns": [{"name": "a"}], "robust": True}),
            "the transform 'tabular.columns'.*unexpected keyword argument 'robust'",
        ),
        (
            Step("tabular.columns", {"columns": [{"name": "a", "median": 1.0}]}),
            "the transform 'tabular.columns'.*unknown field `median`",
        ),
        (Step("tabular.columns", {"columns": [{"name": "a"}], "datatype": "BF16"}), "datatype FP32, FP64.*'BF16'"),
        (Step("text.tfidf", {"vocabulary": ["aa"]}), "the transform 'text.tfidf'.*missing a required"),
    ],
)
def test_a_transform_that_changed_under_an_old_bundle_is_named(step: Step, words: str) -> None:
    """Bundles outlive versions of rung: one that was fitted by another must not be run as something else."""
    signature = Signature((TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", (-1, 1)),))
    manifest = Manifest(
        name="m", version=1, runtime="onnx", artifact="model.onnx", signature=signature, transforms=Transforms((step,))
    )
    with pytest.raises(BundleError, match=words):
        Pipeline.build(manifest)

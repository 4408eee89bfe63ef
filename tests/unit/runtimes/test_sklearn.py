"""scikit-learn beyond the conformance suite: what is let in, what is inferred, which form is kept."""

import subprocess
import sys

import numpy as np
import pytest
import structlog

pytest.importorskip("sklearn")
pytest.importorskip("skops")

from sklearn.compose import ColumnTransformer
from sklearn.ensemble import IsolationForest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeRegressor

from rung.catalog.artifacts import recognise
from rung.catalog.golden import make_inputs
from rung.catalog.models import register
from rung.domain.errors import BundleError, InvalidInput, MissingDependency
from rung.domain.tensors import Signature, TensorSpec
from rung.ports import LoadOptions
from rung.runtimes.sklearn import SklearnRuntime
from rung.store.blobs import open_store
from rung.testing import models_tabular as models

RUNTIME = SklearnRuntime()
OPTIONS = LoadOptions(threads=2)


class OwnClass(LinearRegression):
    """Not scikit-learn's."""


@pytest.fixture
def load(tmp_path):
    loaded = []

    def load(fitted):
        loaded.append(RUNTIME.load(models.save_skops(tmp_path / "model.skops", fitted), OPTIONS))
        return loaded[-1]

    yield load
    for model in loaded:
        model.close()


def test_named_columns_become_inputs_and_say_what_they_take(load):
    model = load(models.estimator("mixed"))
    inputs = (
        TensorSpec("hours", "FP64", (-1, 1)),
        TensorSpec("weather", "BYTES", (-1, 1), sample="clear"),
        TensorSpec("season", "FP64", (-1, 1), sample=1.0),
    )
    outputs = (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2)))
    assert model.signature == Signature(inputs, outputs)
    for example in make_inputs(model.signature):
        assert model.predict(example)["probabilities"].shape == (1, 2)


def test_names_of_numbers_are_kept(load):
    frame, many = models.trips()
    frame = frame.select("hours", "season")
    model = load(LogisticRegression().fit(frame, many))
    assert model.signature.inputs == (TensorSpec("input", "FP64", (-1, 2), columns=("hours", "season")),)


def test_a_text_column_beside_numbers(load):
    rows = np.array([["good fun", 1.0], ["bad day", 2.0], ["good", 3.0], ["bad", 5.0]], object)
    columns = [("text", CountVectorizer(), 0), ("number", SimpleImputer(), [1])]
    fitted = make_pipeline(ColumnTransformer(columns), LogisticRegression()).fit(rows, [1, 0, 1, 0])
    model = load(fitted)
    assert [(spec.name, spec.datatype) for spec in model.signature.inputs] == [("x0", "BYTES"), ("x1", "FP64")]
    answer = model.predict({"x0": np.array([[b"good day"]], object), "x1": np.array([[4.0]])})
    assert answer["label"].tolist() == fitted.predict(np.array([["good day", 4.0]], object)).tolist()


@pytest.mark.parametrize(
    ("fitted", "output"),
    [
        (LinearSVC(), TensorSpec("label", "INT64", (-1,))),
        (IsolationForest(n_estimators=5, random_state=0), TensorSpec("label", "INT64", (-1,))),
        (StandardScaler(copy=False), TensorSpec("transformed", "FP64", (-1, 4))),
    ],
)
def test_outputs_by_what_an_estimator_can(load, fitted, output):
    rows, labels = models.flowers()
    model = load(fitted.fit(rows.copy(), labels))
    assert model.signature.outputs == (output,)
    frozen = rows[:3].copy()
    frozen.flags.writeable = False
    assert model.predict({"input": frozen})[output.name].shape[0] == 3


def test_the_faster_form_is_kept_and_both_times_are_logged(load):
    with structlog.testing.capture_logs() as logs:
        model = load(models.estimator("forest"))
    (chose,) = [entry for entry in logs if entry["action"] == "chose"]
    assert model.platform == chose["platform"] == "sklearn_onnx"
    assert set(chose["sklearn_ms"]) == set(chose["onnx_ms"]) == {"1", "32"}
    assert chose["onnx_ms"]["1"] < chose["sklearn_ms"]["1"]
    assert model.lanes == 0


@pytest.mark.parametrize("absent", ["skl2onnx", "onnx"])
def test_without_a_converter_scikit_learn_itself_answers(load, monkeypatch, absent):
    for name in [name for name in sys.modules if name.partition(".")[0] == "skl2onnx"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    fitted, rows = models.estimator("forest"), models.flowers()[0]
    model = load(fitted)
    assert (model.platform, model.lanes) == ("sklearn", 1)
    assert np.array_equal(model.predict({"input": rows})["probabilities"], fitted.predict_proba(rows).astype("<f4"))


def test_without_the_extra_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    path = models.save_skops(tmp_path / "model.skops", models.estimator("linear"))
    monkeypatch.setitem(sys.modules, "skops", None)
    with pytest.raises(MissingDependency, match=r"rung\[sklearn\]"):
        RUNTIME.load(path, OPTIONS)


def test_the_runtime_is_light_until_it_loads():
    script = "import sys, rung.runtimes.sklearn; sys.exit(any(m in sys.modules for m in ('sklearn', 'skops', 'onnx')))"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["logistic", "linear"])
def test_numbers_that_scikit_learn_refuses_are_the_callers(load, kind, value):
    model = load(models.estimator(kind))
    width = model.signature.inputs[0].shape[1]
    with pytest.raises(InvalidInput, match=r"NaN|infinity"):
        model.predict({"input": np.full((1, width), value)})


def test_a_category_that_training_did_not_have_is_named(load):
    model = load(models.estimator("mixed"))
    example = dict(make_inputs(model.signature)[0]) | {"weather": np.array([[b"hail"]], object)}
    with pytest.raises(InvalidInput, match="hail"):
        model.predict(example)


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (OwnClass().fit([[1.0]], [1.0]), "OwnClass"),
        (FunctionTransformer(np.load), "numpy.load"),
        (FunctionTransformer(subprocess.run), "subprocess.run"),
        (FunctionTransformer(eval), "builtins.eval"),
        (make_pipeline(FunctionTransformer(np.fromfile), OwnClass()), "numpy.fromfile, "),
    ],
)
def test_types_that_are_not_scikit_learns_are_named_and_refused(tmp_path, thing, named):
    path = models.save_skops(tmp_path / "model.skops", thing)
    with pytest.raises(BundleError, match="could run code") as raised:
        RUNTIME.load(path, OPTIONS)
    assert named in str(raised.value)


def test_text_that_scipy_would_compile_is_refused(tmp_path):
    from scipy.stats import norm

    path = models.save_skops(tmp_path / "model.skops", FunctionTransformer(kw_args={"law": norm(0, 1)}))
    with pytest.raises(BundleError, match=r"scipy\.stats"):
        RUNTIME.load(path, OPTIONS)


def test_a_vectorizer_that_would_read_files_is_refused(tmp_path):
    fitted = CountVectorizer().fit(["some words"])
    fitted.input = "filename"
    with pytest.raises(BundleError, match="read files"):
        RUNTIME.load(models.save_skops(tmp_path / "model.skops", fitted), OPTIONS)


@pytest.mark.parametrize(("field", "value"), [("left_child", 10**6), ("right_child", 0), ("feature", 99)])
def test_a_tree_that_leads_outside_itself_is_refused(tmp_path, field, value):
    fitted = DecisionTreeRegressor(max_depth=2).fit(*models.patients())
    state = fitted.tree_.__getstate__()
    state["nodes"][field][0] = value
    fitted.tree_.__setstate__(state)
    with pytest.raises(BundleError, match="outside itself"):
        RUNTIME.load(models.save_skops(tmp_path / "model.skops", fitted), OPTIONS)


@pytest.mark.parametrize(("field", "value"), [("left", 10**6), ("right", 0)])
def test_a_histogram_tree_that_leads_outside_itself_is_refused(tmp_path, field, value):
    fitted = models.estimator("histogram")
    fitted._predictors[0][0].nodes[field][0] = value
    with pytest.raises(BundleError, match="outside itself"):
        RUNTIME.load(models.save_skops(tmp_path / "model.skops", fitted), OPTIONS)


@pytest.mark.parametrize("algorithm", ["kd_tree", "ball_tree"])
def test_a_tree_of_neighbours_is_checked(load, algorithm):
    fitted = KNeighborsClassifier(algorithm=algorithm).fit(*models.flowers())
    rows = models.flowers()[0]
    assert load(fitted).predict({"input": rows})["label"].tolist() == fitted.predict(rows).tolist()
    state = fitted._tree.__getstate__()
    state[1][0] = 10**6
    fitted._tree.__setstate__(state)
    with pytest.raises(BundleError, match="outside itself"):
        load(fitted)


@pytest.mark.parametrize("thing", [LinearRegression(), {"weights": [1, 2]}, OneHotEncoder()])
def test_what_cannot_answer_is_refused(tmp_path, thing):
    with pytest.raises(BundleError, match="not fitted"):
        RUNTIME.load(models.save_skops(tmp_path / "model.skops", thing), OPTIONS)


def test_it_is_known_by_its_bytes_and_can_be_registered(tmp_path):
    path = models.save_skops(tmp_path / "model.json", models.estimator("mixed"))
    assert recognise(path) == ("sklearn", path)
    manifest = register(open_store(str(tmp_path / "repository")), path, name="trips")
    assert manifest.runtime == "sklearn"
    assert manifest.signature.inputs[1].sample == "clear"

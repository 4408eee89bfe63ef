"""XGBoost beyond the conformance suite: what is recognised, what is inferred, what is refused before it harms."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("xgboost")
pytest.importorskip("sklearn")

import xgboost

from rung.catalog.artifacts import recognise
from rung.catalog.models import register
from rung.domain.errors import BundleError, InvalidInput, MissingDependency, ModelError
from rung.domain.tensors import TensorSpec
from rung.ports import LoadOptions
from rung.runtimes.lightgbm import LightGBMRuntime
from rung.runtimes.sklearn import SklearnRuntime
from rung.runtimes.xgboost import XGBoostRuntime
from rung.runtimes.xgboost_files import check, decode
from rung.store.blobs import open_store
from rung.testing import models_tabular as models

RUNTIME = XGBoostRuntime()
OPTIONS = LoadOptions(threads=2)


@pytest.mark.parametrize("suffix", ["json", "ubj"])
@pytest.mark.parametrize(
    ("objective", "parameters", "output"),
    [
        ("binary:logistic", {}, TensorSpec("probability", "FP32", (-1,))),
        ("binary:hinge", {}, TensorSpec("label", "INT64", (-1,))),
        ("multi:softmax", {}, TensorSpec("label", "INT64", (-1,))),
        ("multi:softprob", {}, TensorSpec("probabilities", "FP32", (-1, 3))),
        ("reg:squarederror", {"booster": "dart", "rate_drop": 0.5}, TensorSpec("output", "FP32", (-1,))),
        ("reg:squarederror", {"booster": "gblinear", "max_depth": None}, TensorSpec("output", "FP32", (-1,))),
        ("reg:quantileerror", {"quantile_alpha": [0.1, 0.9]}, TensorSpec("output", "FP32", (-1, 2))),
    ],
)
def test_the_objective_decides_the_output(tmp_path, suffix, objective, parameters, output):
    path = models.xgboost_model(tmp_path / f"m.{suffix}", objective, **parameters)
    model = RUNTIME.load(path, OPTIONS)
    rows = (models.patients() if objective.startswith("reg") else models.flowers())[0].astype("<f4")
    assert model.signature.outputs == (output,)
    expected = xgboost.Booster(model_file=path).predict(xgboost.DMatrix(rows))
    for threads in (1, 2):
        np.testing.assert_allclose(model.predict({"input": rows}, threads)[output.name], expected, rtol=1e-5)


def test_names_of_columns_are_kept(tmp_path):
    names = [f"sign {number}" for number in range(10)]
    path = models.xgboost_model(tmp_path / "m.json", "reg:squarederror", feature_names=names)
    assert RUNTIME.load(path, OPTIONS).signature.inputs == (
        TensorSpec("input", "FP32", (-1, 10), columns=tuple(names)),
    )


def test_missing_values_are_nan(tmp_path):
    path = models.xgboost_model(tmp_path / "m.json")
    rows = np.full((2, 4), np.nan, "<f4")
    expected = xgboost.Booster(model_file=path).predict(xgboost.DMatrix(rows))
    assert np.array_equal(RUNTIME.load(path, OPTIONS).predict({"input": rows})["probabilities"], expected)


def test_categories_are_their_codes(tmp_path):
    rows, kinds = models.flowers()
    coded = np.column_stack([np.arange(len(rows)) % 7, rows]).astype("<f4")
    form = {"feature_types": ["c", *["float"] * 4], "enable_categorical": True}
    data = xgboost.DMatrix(coded, kinds == 0, **form)
    settings = {"objective": "binary:logistic", "tree_method": "hist", "max_cat_to_onehot": 1, "nthread": 1}
    booster = xgboost.train(settings, data, 4)
    for suffix in ("json", "ubj"):
        booster.save_model(tmp_path / f"m.{suffix}")
        answer = RUNTIME.load(tmp_path / f"m.{suffix}", OPTIONS).predict({"input": coded})["probability"]
        assert np.array_equal(answer, booster.predict(xgboost.DMatrix(coded, **form)))


def test_what_the_scikit_learn_classes_saved_stops_at_the_best_round(tmp_path):
    rows, ill = models.patients()
    fitted = xgboost.XGBRegressor(n_estimators=60, learning_rate=0.9, early_stopping_rounds=5, n_jobs=1)
    fitted.fit(rows[::2], ill[::2], eval_set=[(rows[1::2], ill[1::2])], verbose=False)
    fitted.save_model(tmp_path / "m.ubj")
    given = rows.astype("<f4")
    answer = RUNTIME.load(tmp_path / "m.ubj", OPTIONS).predict({"input": given})["output"]
    assert np.array_equal(answer, fitted.predict(given))


def test_infinity_is_refused_where_xgboost_refuses_it(tmp_path):
    path = models.xgboost_model(tmp_path / "m.json", "reg:squarederror", booster="gblinear", max_depth=None)
    with pytest.raises(InvalidInput, match="Infinity"):
        RUNTIME.load(path, OPTIONS).predict({"input": np.full((1, 10), np.inf, "<f4")})


def test_a_wide_call_after_the_end_is_an_error(tmp_path):
    model = RUNTIME.load(models.xgboost_model(tmp_path / "m.json"), OPTIONS)
    model.close()
    with pytest.raises(ModelError, match="closed"):
        model.predict({"input": np.zeros((1, 4), "<f4")}, 2)


@pytest.mark.parametrize(
    "text",
    ["{}", '{"weights": [1, 2]}', '["learner"]', '{"model_spec": {"learner": {}}}', "null", '{"learner": [1]}'],
)
def test_other_json_is_declined(tmp_path, text):
    path = tmp_path / "m.json"
    path.write_text(text)
    assert not RUNTIME.recognises(path)
    with pytest.raises(BundleError, match="no XGBoost model"):
        RUNTIME.load(path, OPTIONS)


def test_it_is_known_by_its_bytes_under_any_name(tmp_path):
    path = models.xgboost_model(tmp_path / "m.ubj").rename(tmp_path / "m.txt")
    assert recognise(path) == ("xgboost", path)
    assert register(open_store(str(tmp_path / "repository")), path, name="irises").runtime == "xgboost"
    for other in (LightGBMRuntime(), SklearnRuntime()):
        with pytest.raises(BundleError, match=r"m\.txt is no"):
            other.load(path, OPTIONS)


def test_without_the_extra_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    path = models.xgboost_model(tmp_path / "m.json")
    monkeypatch.setitem(sys.modules, "xgboost", None)
    with pytest.raises(MissingDependency, match=r"rung\[xgboost\]"):
        RUNTIME.load(path, OPTIONS)


def forest(model):
    return model["learner"]["gradient_booster"]["model"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda model: forest(model)["trees"][1]["left_children"].__setitem__(0, 10**8), "leads nowhere"),
        (lambda model: forest(model)["trees"][1]["left_children"].__setitem__(0, 0), "in a circle"),
        (lambda model: forest(model)["trees"][1]["split_indices"].__setitem__(0, 10**8), "a feature"),
        (lambda model: forest(model)["trees"][1]["parents"].__setitem__(1, 10**8), "its parent"),
        (lambda model: forest(model)["trees"][1]["parents"].pop(), "for each node"),
        (lambda model: forest(model)["trees"][1].update(id=7), "where its number says"),
        (lambda model: forest(model)["trees"][1]["split_type"].__setitem__(0, 1), "categories"),
        (lambda model: forest(model)["tree_info"].__setitem__(0, 3), "a class"),
        (lambda model: forest(model)["iteration_indptr"].__setitem__(1, 10**9), "rounds"),
        (lambda model: forest(model)["trees"].pop(), "says otherwise"),
        (lambda model: forest(model).pop("trees"), "has no 'trees'"),
        (lambda model: forest(model).update(trees=7), "not of its kind"),
        (lambda model: model["learner"]["learner_model_param"].update(num_feature="1000000000"), "features"),
        (lambda model: model["learner"]["learner_model_param"].update(num_class="many"), "many"),
    ],
)
def test_what_would_end_the_process_is_refused(tmp_path, spoil, words):
    path = models.xgboost_model(tmp_path / "m.json")
    model = json.loads(path.read_bytes())
    spoil(model)
    path.write_text(json.dumps(model))
    with pytest.raises(BundleError, match=words):
        RUNTIME.load(path, OPTIONS)


def test_both_forms_say_the_same(tmp_path):
    decoded = [decode(models.xgboost_model(tmp_path / f"m.{suffix}").read_bytes()) for suffix in ("json", "ubj")]
    for model in decoded:
        check(model)
    texts, numbers = (forest(model)["trees"][2] for model in decoded)
    assert texts.keys() == numbers.keys()
    for key in ("left_children", "split_indices", "parents"):
        assert list(texts[key]) == list(numbers[key])


@given(st.binary(max_size=80))
def test_any_bytes_are_answered_without_a_crash(data):
    for start in (b"", b"{L\0\0\0\0\0\0\0\x07learner", b'{"learner":'):
        try:
            check(decode(start + data))
        except ValueError as error:
            assert str(error)  # noqa: PT017 - either way is right


def test_every_cut_of_a_model_is_refused(tmp_path):
    whole = models.xgboost_model(tmp_path / "whole.ubj").read_bytes()
    for size in range(0, len(whole), 97):
        path = tmp_path / "cut.ubj"
        path.write_bytes(whole[:size])
        with pytest.raises(BundleError, match=r"cut\.ubj"):
            RUNTIME.load(path, OPTIONS)

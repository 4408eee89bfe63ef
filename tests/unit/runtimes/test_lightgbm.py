"""LightGBM beyond the conformance suite: what is inferred, what is refused before it harms."""

import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lightgbm")
pytest.importorskip("sklearn")

import lightgbm

from rung.catalog.artifacts import recognise
from rung.catalog.models import register
from rung.domain.errors import BundleError, MissingDependency
from rung.domain.tensors import TensorSpec
from rung.ports import LoadOptions
from rung.runtimes.lightgbm import LightGBMRuntime
from rung.runtimes.lightgbm_files import read_header
from rung.runtimes.xgboost import XGBoostRuntime
from rung.store.blobs import open_store
from rung.testing import models_tabular as models

RUNTIME = LightGBMRuntime()
OPTIONS = LoadOptions(threads=2)


@pytest.mark.parametrize(
    ("objective", "parameters", "output"),
    [
        ("binary", {}, TensorSpec("probability", "FP64", (-1,))),
        ("multiclass", {}, TensorSpec("probabilities", "FP64", (-1, 3))),
        ("multiclassova", {}, TensorSpec("probabilities", "FP64", (-1, 3))),
        ("regression", {}, TensorSpec("output", "FP64", (-1,))),
        ("poisson", {"boosting": "dart"}, TensorSpec("output", "FP64", (-1,))),
        (
            "regression",
            {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
            TensorSpec("output", "FP64", (-1,)),
        ),
    ],
)
def test_the_objective_decides_the_output(tmp_path, objective, parameters, output):
    path = models.lightgbm_model(tmp_path / "m.txt", objective, **parameters)
    model = RUNTIME.load(path, OPTIONS)
    rows = (models.flowers() if objective.startswith(("multi", "binary")) else models.patients())[0]
    assert model.signature.outputs == (output,)
    assert np.array_equal(
        model.predict({"input": rows})[output.name], lightgbm.Booster(model_file=path).predict(rows, num_threads=1)
    )


def test_names_of_columns_are_kept(tmp_path):
    names = [f"sign_{number}" for number in range(10)]
    path = models.lightgbm_model(tmp_path / "m.txt", "regression", feature_names=names)
    assert RUNTIME.load(path, OPTIONS).signature.inputs == (
        TensorSpec("input", "FP64", (-1, 10), columns=tuple(names)),
    )


@pytest.mark.parametrize("settings", [{"categorical_feature": [0]}, {"params": {"linear_tree": True}}])
def test_categories_and_linear_leaves(tmp_path, settings):
    rows, kinds = models.flowers()
    coded = np.column_stack([np.arange(len(rows)) % 7, rows])
    training = {"objective": "regression", "verbose": -1, "num_threads": 1, "min_data_per_group": 1, "cat_smooth": 1}
    booster = lightgbm.train(
        {**training, **settings.get("params", {})}, lightgbm.Dataset(coded, kinds + coded[:, 0] % 2, **settings), 4
    )
    booster.save_model(tmp_path / "m.txt")
    answer = RUNTIME.load(tmp_path / "m.txt", OPTIONS).predict({"input": coded})["output"]
    assert np.array_equal(answer, booster.predict(coded, num_threads=1))


def test_it_is_known_by_its_bytes_under_any_name(tmp_path):
    path = models.lightgbm_model(tmp_path / "m.txt").rename(tmp_path / "m.json")
    assert recognise(path) == ("lightgbm", path)
    assert register(open_store(str(tmp_path / "repository")), path, name="irises").runtime == "lightgbm"
    with pytest.raises(BundleError, match=r"m\.json is no XGBoost model"):
        XGBoostRuntime().load(path, OPTIONS)


def test_without_the_extra_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    path = models.lightgbm_model(tmp_path / "m.txt")
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(MissingDependency, match=r"rung\[lightgbm\]"):
        RUNTIME.load(path, OPTIONS)


def spoil(text, key, value, tree=1):
    """Change the first number of a line of a tree, with as many characters as there were."""
    start = text.index(f"Tree={tree}\n")
    found = re.compile(rf"\n{key}=(-?\d+)").search(text, start)
    value = value.rjust(len(found[1]))
    assert len(value) == len(found[1])
    return text[: found.start(1)] + value + text[found.end(1) :]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("split_feature", "9", "a feature"),
        ("left_child", "0", "in a circle"),
        ("left_child", "8", "leads nowhere"),
        ("num_leaves", "9", "leaf_value"),
        ("num_leaves", "0", "no leaves"),
        ("decision_type", "1", "categories"),
    ],
)
def test_what_would_end_the_process_is_refused(tmp_path, key, value, words):
    path = models.lightgbm_model(tmp_path / "m.txt")
    path.write_text(spoil(path.read_text(), key, value))
    with pytest.raises(BundleError, match=words):
        RUNTIME.load(path, OPTIONS)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("\nend of trees", "", "cut short"),
        ("num_class=3", "num_class=5", "classes"),
        ("max_feature_idx=3", "max_feature_idx=7", "each feature"),
        ("tree_sizes=", "tree_sizes=1 ", "classes"),
        ("objective=", "num_class=4\nobjective=", "twice"),
        ("tree_sizes=", "sizes=", "no 'tree_sizes'"),
        ("Tree=2\n", "Tree=7\n", "tree 2 is not where"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, old, new, words):
    path = models.lightgbm_model(tmp_path / "m.txt")
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(BundleError, match=words):
        RUNTIME.load(path, OPTIONS)


@given(st.text(max_size=80))
def test_any_text_is_answered_without_a_crash(text):
    for start in ("tree\nversion=v4\n", "tree\nnum_class=1\ntree_sizes=20\nTree=0\n"):
        try:
            read_header(start + text + "\nend of trees\n")
        except ValueError as error:
            assert str(error)  # noqa: PT017 - either way is right

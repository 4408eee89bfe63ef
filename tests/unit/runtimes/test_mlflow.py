import json
import os
import sys

import numpy as np
import pytest

from rung.domain.errors import BundleError, MissingDependency
from rung.ports import LoadOptions
from rung.runtimes.mlflow import MlflowRuntime
from rung.testing import models


def folder(tmp_path, flavors, inputs=None, outputs=None):
    """An MLflow folder; JSON is YAML."""
    path = tmp_path / "m"
    path.mkdir()
    declared = {"flavors": flavors, "mlflow_version": "3.17.2"}
    if inputs is not None:
        declared["signature"] = {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None}
    (path / "MLmodel").write_text(json.dumps(declared))
    return path


def tensor(name, dtype="float32", shape=(-1, 4)):
    return {"name": name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}


def load(path):
    return MlflowRuntime().load(path, LoadOptions())


@pytest.mark.parametrize(
    ("field", "words"),
    [
        (tensor("x"), ""),
        ({k: v for k, v in tensor("x").items() if k != "name"}, ""),
        (tensor("of another name, but the only one"), ""),
        (tensor("x", "float64"), ""),
        (tensor("x", "object"), "as object, the model as FP32"),
        (tensor("x", shape=(-1, 5)), "with shape [-1, 5], the model with [-1, 4]"),
        (tensor("x", shape=(-1,)), "with shape [-1]"),
    ],
)
def test_the_signature_is_held_against_the_model(tmp_path, field, words):
    path = folder(tmp_path, {"onnx": {"data": "model.onnx"}}, [field], [tensor("y")])
    models.scale(path / "model.onnx", 2.0)
    if words:
        with pytest.raises(BundleError) as raised:
            load(path)
        assert words in str(raised.value)
    else:
        assert load(path).predict({"x": np.ones((1, 4), "f4")})["y"].tolist() == [[2.0] * 4]


def test_a_tensor_that_the_model_lacks(tmp_path):
    path = folder(
        tmp_path, {"onnx": {"data": "model.onnx"}}, [tensor("INPUT0", shape=(-1, 16)), tensor("x")], [tensor("OUTPUT0")]
    )
    models.add_sub(path / "model.onnx")

    with pytest.raises(BundleError, match="the input 'x', the model has"):
        load(path)


def test_names_of_columns_are_kept(tmp_path):
    columns = [{"name": name, "type": "float", "required": True} for name in "abcd"]
    path = folder(tmp_path, {"onnx": {"data": "model.onnx"}}, columns, [tensor("y")])
    models.scale(path / "model.onnx", 2.0)

    assert load(path).signature.inputs[0].columns == ("a", "b", "c", "d")


def test_columns_of_another_model(tmp_path):
    path = folder(tmp_path, {"onnx": {"data": "model.onnx"}}, [{"name": "a", "type": "float"}], [])
    models.scale(path / "model.onnx", 2.0)

    with pytest.raises(BundleError, match="1 columns, the model takes 4"):
        load(path)


class Runs:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("flavors", "words"),
    [
        (
            {"sklearn": {"pickled_model": "model.pkl", "serialization_format": "cloudpickle"}},
            "serialization_format='skops'",
        ),
        ({"sklearn": {"pickled_model": "model.skops", "serialization_format": "skops"}}, "sklearn"),
        ({"xgboost": {"data": "model.pkl"}}, "get_booster"),
        ({"lightgbm": {"data": "model.pkl"}}, "booster_"),
        ({"pytorch": {"model_data": "data"}}, "torch.export"),
        (
            {"python_function": {"loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl"}},
            "module:Class",
        ),
        ({"spark": {"model_data": "sparkml"}}, "mlflow.onnx.save_model"),
        ({"onnx": {"data": "/etc/hostname"}}, "outside the folder"),
        ({"onnx": {"data": "link.onnx"}}, "outside the folder"),
    ],
)
def test_pickles_and_code_are_refused_with_the_way_out(tmp_path, monkeypatch, flavors, words):
    import pickle

    monkeypatch.chdir(tmp_path)
    path = folder(tmp_path, flavors)
    (path / "data").mkdir()
    models.scale(tmp_path / "outside.onnx", 2.0)
    (path / "link.onnx").symlink_to(tmp_path / "outside.onnx")
    for name in ("model.pkl", "model.skops", "python_model.pkl", "data/model.pth"):
        (path / name).write_bytes(pickle.dumps(Runs()))

    with pytest.raises(BundleError) as raised:
        load(path).close()

    assert words in str(raised.value)
    assert not (tmp_path / "ran").exists()


def test_without_pyyaml(tmp_path, monkeypatch):
    path = folder(tmp_path, {})
    monkeypatch.setitem(sys.modules, "yaml", None)

    with pytest.raises(MissingDependency, match=r'pip install "rung\[mlflow\]"'):
        load(path)


def test_aliases_that_would_fill_the_memory(tmp_path):
    path = folder(tmp_path, {})
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    lines += ["flavors: {sklearn: {serialization_format: *a11, data: *a11}, python_function: {loader_module: *a11}}"]
    (path / "MLmodel").write_text("\n".join(lines))

    with pytest.raises(BundleError) as raised:
        load(path)
    assert len(str(raised.value)) < 500


ROWS = np.random.default_rng(0).standard_normal((40, 4)).astype("f4")


def _sklearn(path):
    skops = pytest.importorskip("skops.io")
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(ROWS, ROWS[:, 0] > 0)
    skops.dump(model, path / "model.skops")
    return {"sklearn": {"pickled_model": "model.skops", "serialization_format": "skops"}}


def _xgboost(path):
    xgboost = pytest.importorskip("xgboost")
    xgboost.train({}, xgboost.DMatrix(ROWS, ROWS[:, 0]), 2).save_model(path / "model.ubj")
    return {"xgboost": {"data": "model.ubj", "model_format": "ubj"}}


def _lightgbm(path):
    lightgbm = pytest.importorskip("lightgbm")
    lightgbm.train({"verbose": -1}, lightgbm.Dataset(ROWS, ROWS[:, 0]), 2).save_model(str(path / "model.lgb"))
    return {"lightgbm": {"data": "model.lgb"}}


def _pytorch(path):
    torch = pytest.importorskip("torch")
    (path / "data").mkdir()
    program = torch.export.export(
        torch.nn.Linear(4, 2), (torch.zeros(3, 4),), dynamic_shapes=({0: torch.export.Dim("n")},)
    )
    torch.export.save(program, path / "data/model.pt2")
    return {"pytorch": {"model_data": "data"}}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("function", "names"), [("", ["label"]), ("predict", ["label"]), ("predict_proba", ["probabilities"])]
)
def test_an_estimator_answers_what_pyfunc_does(tmp_path, function, names):
    flavor = _sklearn(tmp_path)
    python = {"loader_module": "mlflow.sklearn"} | ({"predict_fn": function} if function else {})
    (tmp_path / "MLmodel").write_text(json.dumps({"flavors": {**flavor, "python_function": python}}))
    model = load(tmp_path)
    try:
        assert [spec.name for spec in model.signature.outputs] == names
        spec = model.signature.inputs[0]
        assert list(model.predict({spec.name: ROWS[:3].astype("f8" if spec.datatype == "FP64" else "f4")})) == names
    finally:
        model.close()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [_sklearn, _xgboost, _lightgbm, _pytorch], ids=lambda make: make.__name__[1:])
def test_each_flavor_goes_to_its_runtime(tmp_path, make):
    flavor = make(tmp_path)
    (tmp_path / "MLmodel").write_text(json.dumps({"flavors": {**flavor, "python_function": {"loader_module": "os"}}}))
    model = load(tmp_path)
    try:
        spec = model.signature.inputs[0]
        answer = model.predict({spec.name: ROWS[:3].astype("f8" if spec.datatype == "FP64" else "f4")})
        assert all(len(array) == 3 for array in answer.values())
    finally:
        model.close()

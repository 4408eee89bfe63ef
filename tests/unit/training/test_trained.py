"""What `train` returns becomes a file of its framework's own, or a sentence that says what to return."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from rung.catalog.artifacts import recognise
from rung.domain.errors import InvalidInput, TrainingFailed
from rung.domain.models import Step, Transforms
from rung.plugins import RUNTIMES, resolve
from rung.ports import LoadOptions
from rung.training.trained import Trained, with_columns, wrap, write

X = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
Y = (X[:, 0] > 0).astype(np.int64)


def loaded(runtime, path):
    return closing(resolve(RUNTIMES, runtime, "runtime")().load(path, LoadOptions()))


def sklearn():
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression().fit(X, Y), "model.skops"


def sklearn_pipeline():
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge()).fit(X, Y), "model.skops"


def xgboost():
    return pytest.importorskip("xgboost").XGBClassifier(n_estimators=2, n_jobs=1).fit(X, Y), "model.ubj"


def booster():
    xgb = pytest.importorskip("xgboost")
    return xgb.train({"nthread": 1}, xgb.DMatrix(X, Y), 2), "model.ubj"


def lightgbm():
    model = pytest.importorskip("lightgbm").LGBMClassifier(n_estimators=2, n_jobs=1, verbose=-1)
    return model.fit(X, Y), "model.txt"


@pytest.mark.parametrize("make", [sklearn, sklearn_pipeline, xgboost, booster, lightgbm])
def test_each_framework_has_its_file_which_a_runtime_loads(make, tmp_path):
    model, name = make()
    path = write(wrap(model), tmp_path / "model")
    assert path.name == name
    runtime, artifact = recognise(path)
    assert artifact == path
    with loaded(runtime, path) as found:
        outputs = found.predict({found.signature.inputs[0].name: X[:5]})
    assert len(next(iter(outputs.values()))) == 5


def test_a_path_is_taken_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "model.onnx").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert write(Trained("model.onnx"), tmp_path / "out") == tmp_path / "model.onnx"
    with pytest.raises(TrainingFailed, match=r"other\.onnx, and there is nothing"):
        write(Trained(Path("other.onnx")), tmp_path / "out")


def test_nothing_is_no_model(tmp_path):
    with pytest.raises(TrainingFailed, match="train returned nothing: return the model"):
        wrap(None)
    with pytest.raises(TrainingFailed, match="train returned nothing"):
        write(Trained(None), tmp_path)


@pytest.mark.parametrize(
    ("thing", "name"), [({"a": 1}, "builtins.dict"), (X, "numpy.ndarray"), (0.5, "builtins.float")]
)
def test_what_no_runtime_loads_is_named(thing, name, tmp_path):
    with pytest.raises(TrainingFailed, match=rf"returned a {name}: return an estimator"):
        write(wrap(thing), tmp_path)
    assert not any(tmp_path.iterdir())


class Module:
    """Looks like a torch module as far as `write` looks at one."""


Module.__module__ = "torch.nn.modules.linear"


def test_a_torch_module_needs_an_example_with_two_rows(tmp_path):
    with pytest.raises(TrainingFailed, match="needs an example of its inputs"):
        write(wrap(Module()), tmp_path)
    for example in (X[:1], np.float32(1)):
        with pytest.raises(TrainingFailed, match="input 'x' needs two rows"):
            write(Trained(Module(), example={"x": example}), tmp_path)


def test_a_torch_module_becomes_onnx_with_any_number_of_rows(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    path = write(Trained(model, example={"x": X[:2]}, outputs=("scores",)), tmp_path)
    with loaded("onnx", path) as found:
        for rows in (1, 7):
            expected = model(torch.from_numpy(X[:rows])).detach().numpy()
            assert np.allclose(found.predict({"x": X[:rows]})["scores"], expected, atol=1e-5)
    assert str(Path(__file__).parent).encode() not in path.read_bytes(), "no path of this machine"


def test_the_fitted_columns_are_the_transforms_unless_others_are_said():
    step = Step("tabular.columns", {})
    own = Transforms(input=(Step("other", {}),))
    assert with_columns(Trained(None), step) == Transforms(input=(step,))
    assert with_columns(Trained(None), None) == Transforms()
    assert with_columns(Trained(None, transforms=own), step) is own
    with pytest.raises(InvalidInput, match="takes a Transforms"):
        wrap(Trained(X, transforms=[step]))

"""MLflow's scoring client against models that MLflow itself saved; the answers are those of its `pyfunc`."""

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"

import mlflow.pyfunc
import mlflow.sklearn
import mlflow.xgboost
import numpy as np
import pandas as pd
import pytest
import xgboost
from mlflow.models import infer_signature
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from mlflow.tracking import MlflowClient
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@pytest.fixture(scope="module")
def iris():
    """Flowers as a data frame of named columns, and their kinds."""
    data = load_iris(as_frame=True)
    return data.data, data.target


@pytest.fixture
def classifier(iris, tmp_path):
    """Folder of a pipeline as `mlflow.sklearn` saves it where it is told not to pickle."""
    frame, target = iris
    fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(frame, target)
    folder = tmp_path / "iris"
    mlflow.sklearn.save_model(
        fitted, folder, serialization_format="skops", signature=infer_signature(frame, fitted.predict(frame))
    )
    return folder


def connect(served):
    client = ScoringServerClient("127.0.0.1", served.port)
    client.wait_server_ready(timeout=30, scoring_server_proc=served.process)
    return client


def test_a_scikit_learn_folder_as_saved(serve, classifier, iris):
    frame, _ = iris
    client = connect(serve(classifier))
    assert client.get_version()
    expected = mlflow.pyfunc.load_model(str(classifier)).predict(frame)
    answer = client.invoke(frame).get_predictions()
    np.testing.assert_array_equal(answer.to_numpy().ravel(), expected)


def test_a_data_frame_with_its_columns_in_another_order(serve, classifier, iris):
    frame, _ = iris
    client = connect(serve(classifier))
    shuffled = frame[list(frame.columns[::-1])]
    expected = mlflow.pyfunc.load_model(str(classifier)).predict(frame)
    np.testing.assert_array_equal(client.invoke(shuffled).get_predictions().to_numpy().ravel(), expected)


@pytest.mark.parametrize("form", ["frame", "array"])
def test_an_xgboost_folder_as_saved(serve, iris, tmp_path, form):
    frame, target = iris
    frame = frame.astype(np.float32)
    booster = xgboost.train(
        {"objective": "reg:squarederror", "nthread": 1}, xgboost.DMatrix(frame, label=target), num_boost_round=5
    )
    folder = tmp_path / "kinds"
    mlflow.xgboost.save_model(
        booster, folder, signature=infer_signature(frame, booster.predict(xgboost.DMatrix(frame)))
    )
    data = {"frame": frame, "array": frame.to_numpy()}
    answer = connect(serve(folder)).invoke(data[form]).get_predictions()
    expected = mlflow.pyfunc.load_model(str(folder)).predict(frame)
    np.testing.assert_allclose(answer.to_numpy().ravel(), expected, rtol=1e-6)


def test_what_the_client_says_about_a_bad_request(serve, classifier):
    client = connect(serve(classifier))
    with pytest.raises(Exception, match=r"error code 400.*sepal"):
        client.invoke(pd.DataFrame({"sepal length (cm)": [5.1]}))


def test_an_alias_in_a_registry(serve, rung, classifier, iris, tmp_path):
    """`models:/name@alias`, from a registry in SQLite that MLflow's own client filled."""
    frame, _ = iris
    uri = f"sqlite:///{tmp_path / 'registry.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("flowers")
    version = client.create_model_version("flowers", source=classifier.as_uri())
    client.set_registered_model_alias("flowers", "champion", version.version)
    env = {"MLFLOW_TRACKING_URI": uri}
    said = rung("models", "import", "models:/flowers@champion", env=env)
    assert "flowers" in said
    answer = connect(serve(".rung/repository")).invoke(frame).get_predictions()
    expected = mlflow.pyfunc.load_model(str(classifier)).predict(frame)
    np.testing.assert_array_equal(answer.to_numpy().ravel(), expected)


@pytest.mark.parametrize("form", ["named", "unnamed"])
def test_a_version_that_rung_exported_is_loaded_by_pyfunc(rung, iris, tmp_path, form):
    frame, target = iris
    given = frame if form == "named" else frame.to_numpy()
    booster = xgboost.train({"nthread": 1}, xgboost.DMatrix(given, label=target), num_boost_round=5)
    booster.save_model(tmp_path / "kinds.ubj")
    rung("models", "register", "kinds.ubj")
    assert "exported kinds version 1" in rung("models", "export", "kinds", "out")
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "out"))
    answer = loaded.predict(given if form == "named" else given.astype(np.float32))
    np.testing.assert_array_equal(answer, booster.predict(xgboost.DMatrix(given)))


def test_an_estimator_that_rung_exported_is_loaded_by_pyfunc(rung, classifier, iris, tmp_path):
    frame, _ = iris
    rung("models", "register", classifier / "model.skops", "--name", "flowers")
    rung("models", "export", "flowers", "out")
    answer = mlflow.pyfunc.load_model(str(tmp_path / "out")).predict(frame)
    np.testing.assert_array_equal(answer, mlflow.pyfunc.load_model(str(classifier)).predict(frame))

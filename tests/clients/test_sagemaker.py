"""SageMaker's local mode, its wait for a container and its predictors, with rung started as a container of theirs."""

import io
import os

os.environ["SAGEMAKER_SUPPRESS_V2_WARNING"] = "1"
os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")

import numpy as np
import pytest
from sagemaker.deserializers import CSVDeserializer, JSONDeserializer, NumpyDeserializer
from sagemaker.local.entities import _wait_for_serving_container
from sagemaker.local.local_session import LocalSagemakerRuntimeClient
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, JSONSerializer, NumpySerializer


class Session:
    """As much of the SDK's session as a predictor takes: where requests go."""

    def __init__(self, client):
        self.sagemaker_runtime_client = client


@pytest.fixture
def container(serve, model):
    folder = model("scale", "opt/ml/model/double.onnx", 2.0).parent
    return serve(env={"SAGEMAKER_BIND_TO_PORT": "8080", "SM_MODEL_DIR": str(folder)})


@pytest.fixture
def client(container):
    _wait_for_serving_container(container.port)
    return LocalSagemakerRuntimeClient({"local": {"serving_port": container.port}})


def test_invoke_endpoint(client):
    answer = client.invoke_endpoint(
        Body='{"instances": [[1, 2, 3, 4]]}',
        EndpointName="double",
        ContentType="application/json",
        Accept="application/json",
        CustomAttributes="trace=1",
        InferenceId="17",
    )
    assert answer["Body"].status == 200
    assert answer["Body"].json() == {"predictions": [[2, 4, 6, 8]]}
    answer = client.invoke_endpoint(Body="1,2,3,4\n5,6,7,8", EndpointName="double", ContentType="text/csv")
    assert answer["Body"].json() == {"predictions": [[2, 4, 6, 8], [10, 12, 14, 16]]}


def test_a_model_that_is_named(client):
    body = {"Body": b"1,1,1,1", "EndpointName": "double", "ContentType": "text/csv"}
    assert client.invoke_endpoint(**body, TargetModel="double")["Body"].json() == {"predictions": [[2, 2, 2, 2]]}
    assert client.invoke_endpoint(**body, TargetModel="nothing")["Body"].status == 404


ROWS = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
DOUBLES = (2 * np.array(ROWS)).tolist()


@pytest.mark.parametrize(
    "data",
    [{"instances": ROWS}, {"inputs": ROWS}, {"dataframe_split": {"data": ROWS, "columns": list("abcd")}}, ROWS],
    ids=["instances", "inputs", "frame", "rows"],
)
def test_predictor_json(client, data):
    predictor = Predictor("double", Session(client), JSONSerializer(), JSONDeserializer())
    assert predictor.predict(data) == {"predictions": DOUBLES}


def test_predictor_csv(client):
    """The SDK's own pair of serializers for its XGBoost and linear containers: CSV both ways."""
    predictor = Predictor("double", Session(client), CSVSerializer(), CSVDeserializer())
    answer = predictor.predict(ROWS)
    assert [[float(value) for value in row] for row in answer] == DOUBLES


def test_predictor_numpy(client):
    """What its PyTorch and scikit-learn predictors send unless they are told otherwise: .npy, both ways."""
    predictor = Predictor("double", Session(client), NumpySerializer(dtype=np.float32), NumpyDeserializer())
    np.testing.assert_array_equal(predictor.predict(np.array(ROWS, np.float32)), DOUBLES)
    stream = io.BytesIO()
    np.save(stream, np.array([object()], dtype=object), allow_pickle=True)
    answer = client.invoke_endpoint(Body=stream.getvalue(), EndpointName="double", ContentType="application/x-npy")
    assert answer["Body"].status == 400

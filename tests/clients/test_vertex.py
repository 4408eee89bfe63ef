"""`LocalEndpoint` of Vertex AI's SDK: its own start, wait, health check and predict, with rung for a container.

Docker does not run in a test. The one function of the SDK that starts a container starts `rung serve` instead, with
the environment that Vertex AI gives a container.
"""

import json
from types import SimpleNamespace

import pytest
from google.cloud.aiplatform.docker_utils import run
from google.cloud.aiplatform.prediction import LocalEndpoint


@pytest.fixture
def endpoint(serve, model, monkeypatch):
    """`endpoint(**arguments) -> LocalEndpoint` that is not started yet."""
    artifact = model("scale", "artifact/double.onnx", 2.0).parent

    def start(image, *, artifact_uri, serving_container_predict_route, serving_container_health_route, **_):
        served = serve(
            env={
                "AIP_HTTP_PORT": "8080",
                "AIP_HEALTH_ROUTE": serving_container_health_route,
                "AIP_PREDICT_ROUTE": serving_container_predict_route,
                "AIP_STORAGE_URI": artifact_uri,
            }
        )
        return SimpleNamespace(
            status=run.CONTAINER_RUNNING_STATUS,
            ports={"8080/tcp": [{"HostPort": str(served.port)}]},
            reload=lambda: None,
            stop=lambda: None,
            logs=lambda **_: b"",
        )

    monkeypatch.setattr(run, "run_prediction_container", start)
    return lambda **arguments: LocalEndpoint("rung", artifact_uri=str(artifact), **arguments)


def test_predict(endpoint, tmp_path):
    with endpoint() as started:
        assert started.run_health_check().status_code == 200
        answer = started.predict(
            request=json.dumps({"instances": [[1, 2, 3, 4], [5, 6, 7, 8]]}),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 200
        assert answer.json() == {"predictions": [[2, 4, 6, 8], [10, 12, 14, 16]]}
        body = tmp_path / "request.json"
        body.write_text('{"instances": [[1, 1, 1, 1]], "parameters": {"confidence": 0.5}}')
        assert started.predict(request_file=str(body)).json() == {"predictions": [[2, 2, 2, 2]]}


def test_routes_of_the_platform(endpoint):
    routes = {
        "serving_container_predict_route": "/v1/endpoints/1/deployedModels/2:predict",
        "serving_container_health_route": "/v1/endpoints/1/deployedModels/2",
    }
    with endpoint(**routes) as started:
        assert started.run_health_check().status_code == 200
        assert started.predict(request='{"instances": [[1, 1, 1, 1]]}').json() == {"predictions": [[2, 2, 2, 2]]}
        assert started.predict(request='{"instances": [["a"]]}').status_code == 400

"""TorchServe's clients: MLflow's deployment plug-in for it, and its published Postman collections.

The collections are no part of this project: RUNG_CLIENTS_EXAMPLES names a folder with copies of them. They need
`newman` on the PATH, which runs such collections.
"""

import json
import os
import shutil
import subprocess
import sys
from types import ModuleType

os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"

import pytest

COLLECTIONS = "pytorch/serve/test/postman"


@pytest.fixture
def url(serve, model):
    """A server of `double`, whose model store has `triple.onnx`."""
    store = model("scale", "store/triple.onnx", 3.0).parent
    return serve(model("scale", "double.onnx", 2.0), env={"RUNG_MODEL_STORE": str(store)}).url


@pytest.fixture
def client(url, tmp_path, monkeypatch):
    """The plug-in as `mlflow deployments` finds it. It asks torch one thing, whether data is a tensor."""
    torch = ModuleType("torch")
    torch.is_tensor = lambda value: False
    monkeypatch.setitem(sys.modules, "torch", torch)
    properties = tmp_path / "config.properties"
    properties.write_text(f"inference_address={url}\nmanagement_address={url}\n")
    monkeypatch.setenv("CONFIG_PROPERTIES", str(properties))
    from mlflow.deployments import get_deploy_client

    return get_deploy_client("torchserve")


def test_the_plug_in_of_mlflow(client):
    assert [list(one) for one in client.list_deployments()] == [["double"]]
    assert json.loads(client.predict("double", json.dumps({"data": "[[1, 2, 3, 4]]"}))) == [2, 4, 6, 8]
    # How it asks for a model once the archiver has made the file.
    client._TorchServePlugin__register_model("triple.onnx", {"initial_workers": 1})
    assert [list(one) for one in client.list_deployments()] == [["double"], ["triple"]]
    (version,) = json.loads(client.get_deployment("triple")["deploy"])
    assert (version["modelName"], float(version["modelVersion"])) == ("triple", 1.0)
    assert json.loads(client.get_deployment("triple/1.0")["deploy"]) == [version]
    assert json.loads(client.get_deployment("triple/all")["deploy"]) == [version]
    client.update_deployment("triple", config={"min_worker": 2})
    assert json.loads(client.predict("triple/1.0", json.dumps({"data": "[[1, 1, 1, 1]]"}))) == [3, 3, 3, 3]
    client.delete_deployment("triple")
    with pytest.raises(ValueError, match="404"):
        client.get_deployment("triple")


def test_a_collection(example, url, tmp_path):
    """Register, predict and unregister of KServe's collection; left out are what is not offered: explanations, and
    TorchServe's own metrics on a port of theirs."""
    collection = example(f"{COLLECTIONS}/kf_inference_api_test_collection.json")
    newman = shutil.which("newman")
    if newman is None:
        pytest.skip("newman is not on the PATH")
    (tmp_path / "row.json").write_text('{"instances": [[1, 2, 3, 4]]}')
    row = {"url": "triple.onnx", "model_name": "new", "worker": "1", "synchronous": "true", "file": "row.json"}
    row |= {"content-type": "application/json", "expected": {"predictions": [[3, 6, 9, 12]]}}
    (tmp_path / "data.json").write_text(json.dumps([row]))
    port = url.rpartition(":")[2]
    values = {"protocol": "http", "hostname": "localhost", "mgmt-port": port, "pred-port": port}
    line = [newman, "run", str(collection), "--color", "off", "--iteration-data", "data.json"]
    line += [part for name, value in values.items() for part in ("--env-var", f"{name}={value}")]
    for name in ("Register Model", "Inference Model", "Unregister model"):
        line += ["--folder", f"Model Zoo - {name}"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr

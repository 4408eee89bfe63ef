"""MLflow's scoring protocol and the containers of SageMaker and Vertex AI, by their published requests."""

import io
import json
import subprocess

import numpy as np
import polars as pl
import pytest

from rung.testing import models

_PARQUET = "application/vnd.apache.parquet"


def curl(*arguments, data=None):
    line = ["curl", "-s", "-w", "\n%{http_code}", *map(str, arguments)]
    if data is not None:
        line += ["--data-binary", "@-"]
    out = subprocess.run(line, input=data, capture_output=True, check=True).stdout
    body, _, status = out.rpartition(b"\n")
    return int(status), body


def ask(url, body, media="application/json", *more):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, text = curl(url, "-H", f"Content-Type: {media}", *more, data=data)
    return status, json.loads(text) if text[:1] in (b"{", b"[") else text


@pytest.fixture
def url(serve, tmp_path):
    return serve(models.scale(tmp_path / "double.onnx", 2.0)).url


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_split": {"columns": ["a", "b", "c", "d"], "data": [[1, 2, 3, 4]]}},
        {"dataframe_split": {"columns": ["a", "b", "c", "d"], "index": [0], "data": [[1, 2, 3, 4]]}},
        {"dataframe_records": [{"a": 1, "b": 2, "c": 3, "d": 4}]},
        {"instances": [[1, 2, 3, 4]], "params": {"max_answers": 5}},
        {"inputs": [[1, 2, 3, 4]]},
    ],
    ids=lambda body: next(iter(body)),
)
def test_mlflow_json(url, body):
    assert ask(f"{url}/invocations", body) == (200, {"predictions": [[2, 4, 6, 8]]})


def test_mlflow_csv_and_parquet(url):
    expected = (200, {"predictions": [[2, 4, 6, 8]]})
    assert ask(f"{url}/invocations", b"a,b,c,d\n1,2,3,4\n", "text/csv") == expected
    assert ask(f"{url}/invocations", b"1,2,3,4", "text/csv; charset=utf-8") == expected
    stream = io.BytesIO()
    pl.DataFrame({"a": [1.0], "b": [2.0], "c": [3.0], "d": [4.0]}).write_parquet(stream)
    assert ask(f"{url}/invocations", stream.getvalue(), _PARQUET) == expected


@pytest.mark.parametrize(
    ("body", "media", "expected"),
    [
        (b"{}", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"instances": [[1]], "inputs": [[1]]}', "application/json", 400),
        (b"a,b\n1\n", "text/csv", 400),
        (b"\xff", "text/csv", 400),
        (b"PAR1", _PARQUET, 400),
    ],
)
def test_mlflow_errors(url, body, media, expected):
    status, answer = ask(f"{url}/invocations", body, media)
    assert (status, answer["error_code"]) == (expected, "BAD_REQUEST")
    assert answer["message"]


def test_mlflow_probes(url):
    assert ask(f"{url}/invocations", b"<x/>", "application/xml")[0] == 415
    assert curl(f"{url}/ping")[0] == 200
    assert curl(f"{url}/health")[0] == 200
    assert curl(f"{url}/version")[0] == 200


def test_a_frame_s_columns_are_found_by_name(serve, tmp_path):
    """MLflow puts them in the order of the model's signature; taken as they come, they give another answer."""
    pytest.importorskip("yaml")
    folder = tmp_path / "named"
    folder.mkdir()
    models.scale(folder / "model.onnx", 2.0)
    inputs = json.dumps([{"type": "double", "name": name} for name in "abcd"])
    flavors = {"onnx": {"data": "model.onnx"}}
    (folder / "MLmodel").write_text(json.dumps({"flavors": flavors, "signature": {"inputs": inputs}}))
    url = serve(folder).url
    frame = {"columns": ["d", "extra", "c", "b", "a"], "data": [[4, 9, 3, 2, 1]]}
    assert ask(f"{url}/invocations", {"dataframe_split": frame})[1] == {"predictions": [[2, 4, 6, 8]]}
    record = {"b": 2, "a": 1, "d": 4, "c": 3}
    assert ask(f"{url}/invocations", {"dataframe_records": [record]})[1] == {"predictions": [[2, 4, 6, 8]]}
    assert ask(f"{url}/invocations", b"b,a,d,c\n2,1,4,3\n", "text/csv")[1] == {"predictions": [[2, 4, 6, 8]]}
    assert ask(f"{url}/invocations", b"1,2,3,4", "text/csv")[1] == {"predictions": [[2, 4, 6, 8]]}
    assert ask(f"{url}/invocations", {"dataframe_split": {"data": [[1, 2, 3, 4]]}})[1]["predictions"] == [[2, 4, 6, 8]]
    del record["c"]
    status, answer = ask(f"{url}/invocations", {"dataframe_records": [record]})
    assert (status, "no column 'c'" in answer["message"]) == (400, True)


def test_several_models_have_to_be_named(serve, tmp_path):
    url = serve(models.scale(tmp_path / "two.onnx", 2.0), models.scale(tmp_path / "three.onnx", 3.0)).url
    body = {"instances": [[1, 1, 1, 1]]}
    status, answer = ask(f"{url}/invocations", body)
    assert status == 400
    assert "three, two" in answer["message"]
    assert ask(f"{url}/invocations?model=three", body)[1]["predictions"] == [[3, 3, 3, 3]]
    target = ("-H", "X-Amzn-SageMaker-Target-Model: two")
    assert ask(f"{url}/invocations", body, "application/json", *target)[1]["predictions"] == [[2, 2, 2, 2]]


def test_sagemaker_container(serve, tmp_path):
    folder = tmp_path / "opt"
    folder.mkdir()
    models.scale(folder / "double.onnx", 2.0)
    url = serve(env={"SAGEMAKER_BIND_TO_PORT": "8080", "SM_MODEL_DIR": str(folder)}).url
    url = url.replace("0.0.0.0", "127.0.0.1")
    assert curl(f"{url}/ping")[0] == 200
    assert ask(f"{url}/invocations", b"1,2,3,4", "text/csv")[1] == {"predictions": [[2, 4, 6, 8]]}


def test_what_sagemaker_s_predictors_send_and_read(url):
    rows, doubles = np.array([[1, 2, 3, 4]], "<f4"), [[2, 4, 6, 8]]
    assert ask(f"{url}/invocations", [[1, 2, 3, 4]])[1] == {"predictions": doubles}
    stream = io.BytesIO()
    np.save(stream, rows)
    npy, media = stream.getvalue(), "application/x-npy"
    status, text = curl(f"{url}/invocations", "-H", f"Content-Type: {media}", "-H", f"Accept: {media}", data=npy)
    assert (status, np.load(io.BytesIO(text)).tolist()) == (200, doubles)
    status, text = curl(f"{url}/invocations", "-H", "Content-Type: text/csv", "-H", "Accept: text/csv", data=b"1,2,3,4")
    assert (status, text) == (200, b"2.0,4.0,6.0,8.0\n")
    stream = io.BytesIO()
    np.save(stream, np.array([print], object), allow_pickle=True)
    for bad in (b"", npy[:40], npy[:-4], stream.getvalue(), b"PK\x03\x04"):
        assert ask(f"{url}/invocations", bad, media)[0] == 400


def test_sagemaker_tensors(url):
    _, meta = curl(f"{url}/v2/models/double")
    meta = json.loads(meta)
    name = meta["inputs"][0]["name"]
    tensor = {"name": name, "shape": [1, 4], "datatype": "FP32"}
    status, answer = ask(f"{url}/invocations", {"inputs": [tensor | {"data": [1, 2, 3, 4]}]})
    assert (status, answer["outputs"][0]["data"]) == (200, [2, 4, 6, 8])
    raw = np.arange(4, dtype="<f4").tobytes()
    header = json.dumps(
        {"inputs": [tensor | {"parameters": {"binary_data_size": 16}}], "parameters": {"binary_data_output": True}}
    ).encode()
    media = f"application/vnd.sagemaker-triton.binary+json;json-header-size={len(header)}"
    status, text = curl(f"{url}/invocations", "-i", "-H", f"Content-Type: {media}", data=header + raw)
    assert status == 200
    assert b"application/vnd.sagemaker-triton.binary+json;json-header-size=" in text
    assert text.endswith(np.array([0, 2, 4, 6], "<f4").tobytes())


def test_sagemaker_multi_model(serve, tmp_path):
    (tmp_path / "store" / "abc" / "model").mkdir(parents=True)
    models.scale(tmp_path / "store" / "abc" / "model" / "m.onnx", 3.0)
    env = {
        "SAGEMAKER_BIND_TO_PORT": "8080",
        "SAGEMAKER_MULTI_MODEL": "true",
        "RUNG_MODEL_STORE": str(tmp_path / "store"),
    }
    url = serve(env=env).url.replace("0.0.0.0", "127.0.0.1")
    assert curl(f"{url}/ping")[0] == 200
    body = {"model_name": "abc", "url": str(tmp_path / "store" / "abc" / "model")}
    assert ask(f"{url}/models", body)[0] == 200
    assert ask(f"{url}/models", body)[0] == 409
    assert [one["modelName"] for one in json.loads(curl(f"{url}/models")[1])["models"]] == ["abc"]
    _, answer = curl(f"{url}/models/abc", "-H", "X-Amzn-SageMaker-Target-Model: abc")
    assert json.loads(answer)["modelUrl"] == body["url"]
    assert json.loads(curl(f"{url}/models/abc")[1]) == {"modelName": "abc", "modelUrl": body["url"]}
    assert ask(f"{url}/models/abc/invoke", {"instances": [[1, 1, 1, 1]]})[1] == {"predictions": [[3, 3, 3, 3]]}
    assert curl("-X", "DELETE", f"{url}/models/abc")[0] == 200
    assert curl(f"{url}/models/abc", "-H", "X-Amzn-SageMaker-Target-Model: abc")[0] == 404
    assert curl(f"{url}/ping")[0] == 200


def test_vertex_container(serve, tmp_path):
    models.scale(tmp_path / "double.onnx", 2.0)
    env = {
        "AIP_HTTP_PORT": "8080",
        "AIP_HEALTH_ROUTE": "/v1/endpoints/1/deployedModels/2",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
        "AIP_STORAGE_URI": str(tmp_path / "double.onnx"),
    }
    url = serve(env=env).url.replace("0.0.0.0", "127.0.0.1")
    assert curl(url + env["AIP_HEALTH_ROUTE"])[0] == 200
    body = {"instances": [[1, 2, 3, 4]], "parameters": {"sampleKey": "sampleValue"}}
    assert ask(url + env["AIP_PREDICT_ROUTE"], body) == (200, {"predictions": [[2, 4, 6, 8]]})
    assert ask(url + env["AIP_PREDICT_ROUTE"], {"instances": 3})[0] == 400

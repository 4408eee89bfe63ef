"""TorchServe's published curl lines, and Triton's own client for explicit model control, against a real server."""

import json
import shutil
import subprocess

import pytest
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from rung.testing import models


def curl(*arguments):
    """Status and JSON of a curl line."""
    line = ["curl", "-s", "-w", "\n%{http_code}", *map(str, arguments)]
    body, _, status = subprocess.run(line, capture_output=True, text=True, check=True).stdout.rpartition("\n")
    return int(status), json.loads(body)


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    models.scale(folder / "triple.onnx", 3.0)
    (folder / "evil.pkl").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    models.scale(tmp_path / "secret.onnx", 5.0)
    return folder


@pytest.fixture
def url(serve, tmp_path, store):
    return serve(models.scale(tmp_path / "double.onnx", 2.0), env={"RUNG_MODEL_STORE": str(store)}).url


def test_inference(url, tmp_path):
    (tmp_path / "row.json").write_text("[[1, 2, 3, 4]]")
    assert curl(f"{url}/ping") == (200, {"status": "Healthy"})
    assert curl(f"{url}/predictions/double", "-T", tmp_path / "row.json", "-X", "POST") == (200, [2, 4, 6, 8])
    assert curl(f"{url}/predictions/double/1.0", "-F", f"data=@{tmp_path / 'row.json'}") == (200, [2, 4, 6, 8])
    status, answer = curl("-X", "OPTIONS", url)
    assert (status, answer["openapi"]) == (200, "3.0.1")
    status, answer = curl(f"{url}/predictions/nothing", "-T", tmp_path / "row.json", "-X", "POST")
    assert (status, answer["code"], answer["type"]) == (404, 404, "ResourceNotFoundException")


def test_a_form_of_one_field(url):
    """What requests.post(url, data={"data": ...}) sends."""
    assert curl("--data-urlencode", "data=[[1, 2, 3, 4]]", f"{url}/predictions/double") == (200, [2, 4, 6, 8])
    status, answer = curl("-d", "data=1&data=2", f"{url}/predictions/double")
    assert (status, "one, called data" in answer["message"]) == (400, True)


def test_management(url):
    status, answer = curl("-X", "POST", f"{url}/models?url=triple.onnx&initial_workers=1")
    assert (status, "registered" in answer["status"]) == (200, True)
    assert curl("-X", "POST", f"{url}/models?url=triple.onnx")[0] == 409
    assert curl("-d", "[[1, 1, 1, 1]]", f"{url}/predictions/triple") == (200, [3, 3, 3, 3])
    assert [one["modelName"] for one in curl(f"{url}/models")[1]["models"]] == ["double", "triple"]
    page = curl(f"{url}/models?limit=1")[1]
    assert (
        curl(f"{url}/models?limit=1&next_page_token={page['nextPageToken']}")[1]["models"][0]["modelName"] == "triple"
    )
    assert curl(f"{url}/models/triple")[1][0]["workers"][0]["status"] == "READY"
    assert curl(f"{url}/models/triple/all")[0] == 200
    assert curl("-X", "PUT", f"{url}/models/triple?min_worker=3")[0] == 200
    assert curl("-X", "PUT", f"{url}/models/triple/1.0/set-default")[0] == 501
    assert curl("-X", "DELETE", f"{url}/models/triple")[0] == 200
    assert curl("-d", "[[1, 1, 1, 1]]", f"{url}/predictions/triple")[0] == 404
    assert curl("-X", "POST", f"{url}/models?url=triple.onnx&model_name=again")[0] == 200


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("../secret.onnx", 400),
        ("%2e%2e/secret.onnx", 400),
        ("/etc/passwd", 400),
        ("http://example.invalid/x.mar", 400),
        ("evil.pkl", 400),
        ("absent.onnx", 404),
        ("os:system", 404),
    ],
)
def test_nothing_comes_from_elsewhere(url, target, expected):
    status, answer = curl("-X", "POST", f"{url}/models?model_name=new&url={target}")
    assert status == expected, answer
    assert curl(f"{url}/ping")[0] == 200


def test_a_link_out_of_the_store_is_refused(url, store, tmp_path):
    (store / "link.onnx").symlink_to(tmp_path / "secret.onnx")
    assert curl("-X", "POST", f"{url}/models?url=link.onnx")[0] == 400


def test_without_a_store_nothing_is_added(serve, tmp_path):
    url = serve(models.scale(tmp_path / "double.onnx", 2.0)).url
    status, answer = curl("-X", "POST", f"{url}/models?url=x.onnx")
    assert (status, "RUNG_MODEL_STORE" in answer["message"]) == (501, True)


def test_triton_loads_and_unloads(serve, tmp_path):
    served = serve(models.scale(tmp_path / "double.onnx", 2.0), models.scale(tmp_path / "four.onnx", 4.0))
    with InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        client.unload_model("double")
        assert not client.is_model_ready("double")
        assert client.is_server_ready()
        states = {one["name"]: one["state"] for one in client.get_model_repository_index()}
        assert states == {"double": "UNAVAILABLE", "four": "READY"}
        client.load_model("double")
        assert client.is_model_ready("double")
        with pytest.raises(InferenceServerException, match="failed to load: no source"):
            client.load_model("nothing")
        with pytest.raises(InferenceServerException, match=r"failed to load: .*config"):
            client.load_model("double", config='{"max_batch_size": 8}')
        shutil.copy(tmp_path / "four.onnx", tmp_path / "double.onnx")
        client.load_model("double")
        assert client.is_model_ready("double")


def test_triton_log_and_trace_settings(serve, tmp_path):
    served = serve(models.scale(tmp_path / "double.onnx", 2.0), "--access-log")
    with InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        assert client.get_log_settings()["log_info"] is True
        assert client.update_log_settings({"log_info": False, "log_verbose_level": 1})["log_info"] is False
        before = served.stderr()
        client.is_server_live()
        assert client.get_log_settings()["log_verbose_level"] == 1
        assert served.stderr() == before
        with pytest.raises(InferenceServerException):
            client.update_log_settings({"log_info": "maybe"})
        assert client.get_trace_settings()["trace_level"] == ["OFF"]
        assert client.update_trace_settings("double", {"trace_rate": "5"})["trace_rate"] == "5"
        assert client.get_trace_settings()["trace_rate"] == "1000"
        with pytest.raises(InferenceServerException, match="tracing is off"):
            client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"]})

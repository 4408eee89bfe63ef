"""Clients of SageMaker's routes for several models, with rung started as such a container of theirs.

AWS' helpers for the tests of its own container, and the test by which Triton checks that it keeps the contract. They
are no part of this project: RUNG_CLIENTS_EXAMPLES names a folder with copies of them.

Two cases of Triton's test want another answer than AWS' contract since 2023: `modelUrl` without the last folder of
what was given, where the contract has it whole. rung gives it whole. In place of Triton's ensemble stands a model of
the same signature.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = "triton-inference-server/server/qa/L0_sagemaker/sagemaker_multi_model_test.py"
COMMON = "triton-inference-server/server/qa/common/test_util.py"
HELPERS = "aws/sagemaker-tensorflow-serving-container/test/integration/local/multi_model_endpoint_test_utils.py"
STORE = Path("/opt/ml/models")
"""Where SageMaker puts models, and Triton's test looks for them."""
CONTAINER = {"SAGEMAKER_BIND_TO_PORT": "8080", "SAGEMAKER_MULTI_MODEL": "true"}
CASE = re.compile(r"^test_sm_(\d)\w* .*?\.\.\. .*?(ok|FAIL|ERROR)$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def store(tmp_path):
    """A folder of ours at their place, for the time of the test."""
    mine = tmp_path / "models"
    mine.mkdir()
    made = [path for path in (STORE.parent, STORE.parent.parent) if not path.exists()]
    try:
        STORE.parent.mkdir(parents=True, exist_ok=True)
        STORE.symlink_to(mine)
    except OSError as error:
        pytest.skip(f"{STORE} cannot be made: {error}")
    yield mine
    STORE.unlink()
    for path in made:
        path.rmdir()


def test_tritons(example, serve, model, store, tmp_path):
    script, common = example(SCRIPT), example(COMMON)
    model("add_sub", "models/123456789abcdefghi/model/1/model.onnx")
    model("identity", "models/987654321ihgfedcba/model/1/model.onnx", "FP32", [-1, 8], ["INPUT0", "OUTPUT0"])
    model("add_sub", "models/123456789ensemble/model/1/model.onnx", "FP32")
    port = serve(env=CONTAINER).port
    places = {"SAGEMAKER_BIND_TO_PORT": str(port), "PYTHONPATH": f"{script.parent}:{common.parent}"}
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "-v", script.stem],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=os.environ | CONTAINER | places,
    )
    said = dict(CASE.findall(done.stderr))
    contrary = {"2", "3"} if '.rstrip("/model")' in script.read_text() else set()
    assert said.keys() >= set("012345"), done.stderr
    assert {case for case, word in said.items() if word != "ok"} == contrary, done.stderr
    # What those two do not like is the place, and nothing else.
    wrong = re.findall(r"AssertionError: .*", done.stderr)
    assert len(wrong) == len(contrary)
    assert all("'/opt/ml/models/123456789abcdefghi/model'" in one for one in wrong)


@pytest.fixture
def aws(example, serve, store):
    """AWS' helpers, told where this container listens."""
    spec = importlib.util.spec_from_file_location("multi_model_endpoint_test_utils", example(HELPERS))
    helpers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(helpers)
    url = serve(env=CONTAINER).url
    helpers.MODELS_URL = f"{url}/models"
    helpers.DELETE_MODEL_URL = f"{url}/models/{{}}"
    helpers.INVOCATION_URL = f"{url}/models/{{}}/invoke"
    return helpers


def test_aws(aws, model):
    half, triple = ({"model_name": name, "url": f"{STORE}/{name}/model"} for name in ("half", "triple"))
    # As its archives are unpacked: a file, and a folder of versions.
    model("scale", "models/half/model/net.onnx", 0.5)
    model("scale", "models/triple/model/net/7/model.onnx", 3.0)
    assert parsed(aws.make_list_model_request()) == (200, {"models": []})
    for one in (half, triple):
        assert aws.make_load_model_request(json.dumps(one))[0] == 200
        assert aws.make_load_model_request(json.dumps(one))[0] == 409
    places = [{"modelName": one["model_name"], "modelUrl": one["url"]} for one in (half, triple)]
    assert parsed(aws.make_list_model_request()) == (200, {"models": places})
    assert parsed(aws.make_get_model_request("triple")) == (200, places[1])
    rows = json.dumps({"instances": [[1, 2, 3, 4]]})
    assert parsed(aws.make_invocation_request(rows, "half")) == (200, {"predictions": [[0.5, 1, 1.5, 2]]})
    assert parsed(aws.make_invocation_request(rows, "triple")) == (200, {"predictions": [[3, 6, 9, 12]]})
    assert aws.make_unload_model_request("half")[0] == 200
    for answer in (
        aws.make_unload_model_request("half"),
        aws.make_get_model_request("half"),
        aws.make_invocation_request(rows, "half"),
        aws.make_load_model_request(json.dumps({"model_name": "gone", "url": f"{STORE}/gone/model"})),
    ):
        assert answer[0] == 404, answer
    assert parsed(aws.make_list_model_request()) == (200, {"models": places[1:]})


def test_pages(aws, model):
    """The contract hands `nextPageToken` back as `next_page_token` until there is none."""
    names = ["a", "b", "c"]
    for name in names:
        model("scale", f"models/{name}/model/net.onnx", 1.0)
        assert aws.make_load_model_request(json.dumps({"model_name": name, "url": f"{STORE}/{name}/model"}))[0] == 200
    base, found, token = aws.MODELS_URL, [], ""
    while True:
        aws.MODELS_URL = f"{base}?limit=2" + (f"&next_page_token={token}" if token else "")
        _, page = parsed(aws.make_list_model_request())
        found += [one["modelName"] for one in page["models"]]
        token = page.get("nextPageToken")
        if not token:
            break
    assert found == names


def parsed(answer):
    return answer[0], json.loads(answer[1])

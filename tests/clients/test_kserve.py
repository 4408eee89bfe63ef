"""`InferenceRESTClient` of KServe's SDK, for both versions of the protocol."""

import asyncio

import httpx
import numpy as np
import pytest
from kserve import InferInput, InferRequest
from kserve.inference_client import InferenceRESTClient, RESTConfig


def ask(version, call):
    """Run `call(client)` with a client of that version of the protocol."""

    async def run():
        async with InferenceRESTClient(RESTConfig(protocol=version)) as client:
            return await call(client)

    return asyncio.run(run())


@pytest.fixture
def url(serve, model):
    return serve(model("scale", "iris.onnx", 2.0), model("add_sub", "simple.onnx")).url


def test_version_1(url):
    rows = [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]
    answer = ask("v1", lambda client: client.infer(url, {"instances": rows}, model_name="iris"))
    np.testing.assert_allclose(answer["predictions"], np.multiply(rows, 2), rtol=1e-6)
    assert ask("v1", lambda client: client.is_server_live(url)) is True
    assert ask("v1", lambda client: client.is_model_ready(url, "iris")) is True


def test_version_1_errors(url):
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        ask("v1", lambda client: client.is_model_ready(url, "nothing"))
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        ask("v1", lambda client: client.infer(url, {"instances": [["a"]]}, model_name="iris"))
    with pytest.raises(httpx.HTTPStatusError, match="501"):
        ask("v1", lambda client: client.explain(url, "iris", {"instances": [[1, 2, 3, 4]]}))


@pytest.mark.parametrize("binary", [False, True])
def test_version_2(url, binary):
    a, b = np.arange(32, dtype=np.int32).reshape(2, 16), np.full((2, 16), 3, np.int32)
    inputs = []
    for name, array in (("INPUT0", a), ("INPUT1", b)):
        inputs.append(InferInput(name, list(array.shape), "INT32"))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    request = InferRequest("simple", inputs, request_id="17", parameters={"binary_data_output": binary})
    response = ask("v2", lambda client: client.infer(url, request, model_name="simple"))
    # The client drops the version that the answer names.
    assert (response.id, response.model_name) == ("17", "simple")
    outputs = {output.name: output.as_numpy() for output in response.outputs}
    np.testing.assert_array_equal(outputs["OUTPUT0"], a + b)
    np.testing.assert_array_equal(outputs["OUTPUT1"], a - b)


def test_version_2_half_precision(serve, model):
    url = serve(model("identity", "half.onnx", "FP16")).url
    array = np.linspace(-1, 1, 8, dtype=np.float16).reshape(2, 4)
    sent = InferInput("x", list(array.shape), "FP16")
    sent.set_data_from_numpy(array, binary_data=True)
    request = InferRequest("half", [sent], parameters={"binary_data_output": True})
    response = ask("v2", lambda client: client.infer(url, request, model_name="half"))
    np.testing.assert_array_equal(response.outputs[0].as_numpy(), array)


def test_version_2_health(url):
    assert ask("v2", lambda client: client.is_server_live(url)) is True
    assert ask("v2", lambda client: client.is_server_ready(url)) is True
    assert ask("v2", lambda client: client.is_model_ready(url, "simple")) is True
    assert ask("v2", lambda client: client.is_model_ready(url, "nothing")) is False


def test_version_2_errors(url):
    request = InferRequest("simple", [InferInput("INPUT0", [1, 16], "INT32", data=list(range(16)))])
    with pytest.raises(httpx.HTTPStatusError, match="INPUT1"):
        ask("v2", lambda client: client.infer(url, request, model_name="simple"))

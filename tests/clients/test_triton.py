"""Triton's published client scripts, as they are, against models with the names and signatures that they expect.

The scripts are no part of this project: RUNG_CLIENTS_EXAMPLES names a folder with copies of them.
Not offered, so not run: shared memory (`*_shm_*`, `*_cudashm_*`) and sequences (`*_sequence_*`).
`simple_http_model_control.py` gets as far as its override of a model's configuration, which is not offered either.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
import requests
import tritonclient.http as triton

SCRIPTS = "triton-inference-server/client/src/python/examples"
BINARY = "application/vnd.sagemaker-triton.binary+json;json-header-size="

STRINGS = """
import numpy as np


class simple_string:  # noqa: N801
    \"\"\"Numbers as text: INPUT0 and INPUT1 [N, 16] -> OUTPUT0 their sum, OUTPUT1 their difference.\"\"\"

    inputs = {"INPUT0": ("BYTES", (-1, 16)), "INPUT1": ("BYTES", (-1, 16))}
    outputs = {"OUTPUT0": ("BYTES", (-1, 16)), "OUTPUT1": ("BYTES", (-1, 16))}

    def predict(self, INPUT0, INPUT1):
        # Warm-up sends words.
        number = np.vectorize(lambda text: int(text) if text.lstrip(b"-").isdigit() else 0, otypes=[int])
        a, b = number(INPUT0), number(INPUT1)
        text = np.vectorize(lambda number: str(number).encode(), otypes=[object])
        return {"OUTPUT0": text(a + b), "OUTPUT1": text(a - b)}
"""


def run(script, url, *arguments):
    return subprocess.run(
        [sys.executable, str(script), "-u", url.removeprefix("http://"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def url(serve, model):
    models = model("add_sub", "simple.onnx"), model("string_identity", "simple_identity.onnx")
    return serve(*models, "--server-name", "triton").url


@pytest.mark.parametrize("algorithm", ["", "gzip", "deflate"])
@pytest.mark.parametrize("script", ["simple_http_infer_client.py", "simple_http_aio_infer_client.py"])
def test_infer(example, url, script, algorithm):
    options = [f"--{side}-compression-algorithm={algorithm}" for side in ("request", "response") if algorithm]
    done = run(example(f"{SCRIPTS}/{script}"), url, *options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize(
    "script",
    [
        "simple_http_async_infer_client.py",
        "simple_http_health_metadata.py",
        "simple_http_aio_health_metadata.py",
    ],
)
def test_as_they_are(example, url, script):
    done = run(example(f"{SCRIPTS}/{script}"), url)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_strings(example, serve, model, tmp_path):
    script = example(f"{SCRIPTS}/simple_http_string_infer_client.py")
    (tmp_path / "strings.py").write_text(STRINGS)
    url = serve("strings:simple_string", model("string_identity", "simple_identity.onnx")).url
    done = run(script, url)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def body(a, b, *, binary_in, binary_out):
    inputs = [triton.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")]
    inputs[0].set_data_from_numpy(a, binary_data=binary_in)
    inputs[1].set_data_from_numpy(b, binary_data=False)
    outputs = [triton.InferRequestedOutput("OUTPUT0", binary_data=binary_out)]
    outputs.append(triton.InferRequestedOutput("OUTPUT1", binary_data=False))
    return triton.InferenceServerClient.generate_request_body(inputs, outputs=outputs)


@pytest.mark.parametrize("binary_out", [False, True])
@pytest.mark.parametrize("binary_in", [False, True])
def test_bodies_that_the_client_makes_for_sagemaker(url, binary_in, binary_out):
    """As users of Triton's container on SageMaker make and read them."""
    a = np.arange(16, dtype=np.int32)[None]
    sent, length = body(a, a, binary_in=binary_in, binary_out=binary_out)
    media = f"{BINARY}{length}" if binary_in else "application/json"
    place = {"params": {"model": "simple"}, "headers": {"Content-Type": media}}
    reply = requests.post(f"{url}/invocations", data=sent, timeout=30, **place)
    reply.raise_for_status()
    given = reply.headers["Content-Type"]
    assert given.startswith(BINARY) == binary_out
    length = int(given[len(BINARY) :]) if binary_out else None
    result = triton.InferenceServerClient.parse_response_body(reply.content, header_length=length)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), 2 * a)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), 0 * a)


@pytest.mark.parametrize("media", [f"{BINARY}x7", f"{BINARY}-123", f"{BINARY}12345", f"more/{BINARY}0"])
def test_lengths_that_are_none(url, media):
    a = np.arange(16, dtype=np.int32)[None]
    sent, _ = body(a, a, binary_in=True, binary_out=False)
    reply = requests.post(
        f"{url}/invocations", data=sent, timeout=30, params={"model": "simple"}, headers={"Content-Type": media}
    )
    assert reply.status_code in (400, 415)
    assert json.loads(reply.text)["message"] if reply.status_code == 400 else reply.text

"""Triton's own HTTP client, unchanged, against a real server: its example flows as far as they apply."""

import http.client

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from rung.testing import models


@pytest.fixture
def connect(serve):
    """`connect(*targets) -> InferenceServerClient` of a server of its own."""
    clients = []

    def one(*targets, **options):
        served = serve(*targets, **options)
        clients.append(triton.InferenceServerClient(f"127.0.0.1:{served.port}", concurrency=4))
        return clients[-1]

    yield one
    for client in clients:
        client.close()


def sum_and_difference(a, b, *, binary):
    inputs = []
    for name, array in (("INPUT0", a), ("INPUT1", b)):
        inputs.append(triton.InferInput(name, list(array.shape), "INT32"))
        inputs[-1].set_data_from_numpy(array, binary_data=binary)
    return inputs


A = np.arange(16, dtype=np.int32).reshape(1, 16)
B = np.full((1, 16), -5, np.int32)


def test_the_simple_example(connect, tmp_path):
    """Two inputs INT32 [1, 16], two outputs; JSON, binary, and each mix of the two."""
    client = connect(models.add_sub(tmp_path / "simple.onnx"))
    for binary_in in (False, True):
        for first, second in ((False, False), (True, True), (True, False), (False, True)):
            outputs = [
                triton.InferRequestedOutput("OUTPUT0", binary_data=first),
                triton.InferRequestedOutput("OUTPUT1", binary_data=second),
            ]
            inputs = sum_and_difference(A, B, binary=binary_in)
            result = client.infer("simple", inputs, outputs=outputs, request_id="17")
            np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), A + B)
            np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), A - B)
            response = result.get_response()
            assert (response["id"], response["model_name"], response["model_version"]) == ("17", "simple", "1")
    # Nothing requested: everything, as the client's default says, in binary.
    result = client.infer("simple", sum_and_difference(A, B, binary=True))
    np.testing.assert_array_equal(result.as_numpy("OUTPUT1"), A - B)
    # One of the two, and a version named.
    result = client.infer(
        "simple",
        sum_and_difference(A, B, binary=True),
        model_version="1",
        outputs=[triton.InferRequestedOutput("OUTPUT1")],
    )
    assert [output["name"] for output in result.get_response()["outputs"]] == ["OUTPUT1"]
    assert result.as_numpy("OUTPUT0") is None


def test_batches_as_the_client_sends_them(connect, tmp_path):
    client = connect(models.add_sub(tmp_path / "simple.onnx"))
    a = np.arange(160, dtype=np.int32).reshape(10, 16)
    result = client.infer("simple", sum_and_difference(a, a, binary=True))
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), 2 * a)
    assert result.as_numpy("OUTPUT1").shape == (10, 16)


def test_health_metadata_and_config(connect, tmp_path):
    client = connect(models.add_sub(tmp_path / "simple.onnx"), "--server-name", "triton")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert client.is_model_ready("simple", "1")
    assert not client.is_model_ready("simple", "2")
    assert not client.is_model_ready("nothing")

    server = client.get_server_metadata()
    assert server["name"] == "triton"
    assert {"binary_tensor_data", "model_configuration", "statistics"} <= set(server["extensions"])
    metadata = client.get_model_metadata("simple")
    assert metadata["versions"] == ["1"]
    assert metadata["inputs"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": [-1, 16]}
    assert [output["name"] for output in metadata["outputs"]] == ["OUTPUT0", "OUTPUT1"]

    config = client.get_model_config("simple")
    assert config["max_batch_size"] > 0
    assert config["input"][0]["dims"] == [16]
    assert config["input"][0]["data_type"] == "TYPE_INT32"


def test_statistics_count_what_was_asked(connect, tmp_path):
    client = connect(models.add_sub(tmp_path / "simple.onnx"))
    a = np.zeros((3, 16), np.int32)
    for _ in range(5):
        client.infer("simple", sum_and_difference(a, a, binary=True))
    stats = client.get_inference_statistics("simple")["model_stats"]
    assert [(one["name"], one["version"]) for one in stats] == [("simple", "1")]
    assert stats[0]["inference_count"] == 15
    assert 5 <= stats[0]["execution_count"] <= 15
    assert stats[0]["inference_stats"]["success"]["count"] == 5
    assert stats[0]["inference_stats"]["success"]["ns"] > 0
    assert client.get_inference_statistics() == {"model_stats": stats}


def test_repository_index(connect, tmp_path):
    simple = models.add_sub(tmp_path / "simple.onnx")
    client = connect(simple, models.string_identity(tmp_path / "text.onnx"))
    index = client.get_model_repository_index()
    assert [(one["name"], one["version"], one["state"]) for one in index] == [
        ("simple", "1", "READY"),
        ("text", "1", "READY"),
    ]


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compression_both_ways(connect, tmp_path, coding):
    client = connect(models.add_sub(tmp_path / "simple.onnx"))
    a = np.zeros((500, 16), np.int32)
    for binary in (False, True):
        result = client.infer(
            "simple",
            sum_and_difference(a, a, binary=binary),
            outputs=[triton.InferRequestedOutput("OUTPUT0", binary_data=binary)],
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
        np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), a)


def test_errors_say_what_is_wrong(connect, tmp_path):
    client = connect(models.add_sub(tmp_path / "simple.onnx"))
    inputs = sum_and_difference(A, B, binary=True)
    with pytest.raises(InferenceServerException, match="Request for unknown model 'nothing'") as error:
        client.infer("nothing", inputs)
    assert error.value.status() == "404"
    with pytest.raises(InferenceServerException, match="has no version 9"):
        client.infer("simple", inputs, model_version="9")
    with pytest.raises(InferenceServerException, match="expected 2 inputs but got 1 inputs") as error:
        client.infer("simple", inputs[:1])
    assert error.value.status() == "400"
    with pytest.raises(InferenceServerException, match="unexpected inference output 'OUTPUT7'"):
        client.infer("simple", inputs, outputs=[triton.InferRequestedOutput("OUTPUT7")])
    wrong = sum_and_difference(A, B, binary=True)
    wrong[0] = triton.InferInput("INPUT0", [1, 16], "FP32").set_data_from_numpy(A.astype(np.float32))
    with pytest.raises(InferenceServerException, match=r"INPUT0.*FP32.*INT32"):
        client.infer("simple", wrong)
    with pytest.raises(InferenceServerException, match="nothing"):
        client.get_model_metadata("nothing")
    # The connection has survived all of it.
    np.testing.assert_array_equal(client.infer("simple", inputs).as_numpy("OUTPUT0"), A + B)


def test_many_at_once(connect, tmp_path):
    client = connect(models.add_sub(tmp_path / "simple.onnx"))
    sent = [np.full((1, 16), number, np.int32) for number in range(40)]
    waiting = [client.async_infer("simple", sum_and_difference(a, B, binary=True)) for a in sent]
    for a, one in zip(sent, waiting, strict=True):
        np.testing.assert_array_equal(one.get_result().as_numpy("OUTPUT0"), a + B)


@pytest.mark.parametrize("binary", [False, True])
def test_strings(connect, tmp_path, binary):
    client = connect(models.string_identity(tmp_path / "text.onnx"))
    texts = np.array([[b"one", "zwei \u00e4".encode(), b""], [b"\n", "\U0001f600".encode(), b"x" * 70000]], np.object_)
    asked = triton.InferInput("INPUT0", [2, 3], "BYTES").set_data_from_numpy(texts, binary_data=binary)
    result = client.infer(
        "text", [asked], outputs=[triton.InferRequestedOutput("OUTPUT0", binary_data=binary)]
    ).as_numpy("OUTPUT0")
    got = [[one.encode() if isinstance(one, str) else one for one in row] for row in result.tolist()]
    assert got == texts.tolist()


def test_every_datatype_there_and_back(connect, tmp_path):
    datatypes = [
        "BOOL",
        *(f"{sign}INT{bits}" for sign in ("U", "") for bits in (8, 16, 32, 64)),
        "FP16",
        "FP32",
        "FP64",
    ]
    client = connect(*(models.identity(tmp_path / f"{datatype}.onnx".lower(), datatype) for datatype in datatypes))
    for datatype in datatypes:
        dtype = np.dtype(triton_to_np_dtype(datatype))
        if dtype.kind == "f":
            array = np.array([[0.1, -0.0, np.finfo(dtype).max, np.finfo(dtype).tiny]], dtype)
        elif dtype.kind == "b":
            array = np.array([[True, False, False, True]])
        else:
            array = np.array([[0, 1, np.iinfo(dtype).max, np.iinfo(dtype).min]], dtype)
        # The client itself sends FP16 in binary only.
        for binary in (True, False) if datatype != "FP16" else (True,):
            asked = triton.InferInput("x", [1, 4], datatype).set_data_from_numpy(array, binary_data=binary)
            wanted = [triton.InferRequestedOutput("y", binary_data=binary)]
            result = client.infer(datatype.lower(), [asked], outputs=wanted)
            assert result.as_numpy("y").tobytes() == array.tobytes(), (datatype, binary)


def test_nan_travels_in_binary(connect, tmp_path):
    client = connect(models.identity(tmp_path / "same.onnx"))
    array = np.array([[np.nan, np.inf, -np.inf, 1]], np.float32)
    asked = triton.InferInput("x", [1, 4], "FP32").set_data_from_numpy(array)
    assert client.infer("same", [asked]).as_numpy("y").tobytes() == array.tobytes()
    with pytest.raises(InferenceServerException, match=r"NaN|Infinity"):
        client.infer("same", [asked], outputs=[triton.InferRequestedOutput("y", binary_data=False)])


def test_a_deadline_in_microseconds_and_a_priority_are_taken(connect, tmp_path):
    client = connect(models.add_sub(tmp_path / "simple.onnx"))
    inputs = sum_and_difference(A, B, binary=True)
    result = client.infer("simple", inputs, priority=1, timeout=30_000_000)
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), A + B)


def test_bodies_that_the_client_writes_for_others_to_send(serve, tmp_path):
    served = serve(models.add_sub(tmp_path / "simple.onnx"))
    body, length = triton.InferenceServerClient.generate_request_body(sum_and_difference(A, B, binary=True))
    headers = {"Inference-Header-Content-Length": str(length), "Content-Type": "application/octet-stream"}
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    connection.request("POST", "/v2/models/simple/infer", body, headers)
    reply = connection.getresponse()
    answer = reply.read()
    connection.close()
    header = reply.headers["Inference-Header-Content-Length"]
    result = triton.InferenceServerClient.parse_response_body(answer, header_length=int(header))
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), A + B)

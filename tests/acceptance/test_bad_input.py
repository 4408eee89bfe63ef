"""Bad input gets a clear error: over HTTP to a real `rung serve`, and on the command line."""

import io
import pickle
import socket
import struct
import zlib

import httpx2
import numpy as np
import orjson
import psutil
import pytest
from PIL import Image

from rung.testing import models

ROW = [0.5] * 16
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.fixture
def tiny(serve, tmp_path):
    with httpx2.Client(base_url=serve(models.tiny(tmp_path / "tiny.onnx")).url) as client:
        yield client


def error_of(answer: httpx2.Response, status: int) -> str:
    """The message of an error with this status; every error has this shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    return body["error"]


def tensor(**changes: object) -> dict[str, object]:
    return {"name": "x", "shape": [1, 16], "datatype": "FP32", "data": ROW} | changes


# --- tensors that do not fit ----------------------------------------------------------------

WRONG_TENSORS = {
    "wrong datatype": ([tensor(datatype="INT64", data=[1] * 16)], ["x", "INT64", "FP32"]),
    "no such datatype": ([tensor(datatype="FLOAT")], ["x", "FLOAT"]),
    "wrong shape": ([tensor(shape=[1, 15], data=ROW[1:])], ["x", "15", "16"]),
    "shape and data disagree": ([tensor(shape=[2, 16])], ["x", "32", "16"]),
    "negative size": ([tensor(shape=[-1, 16])], ["inputs[0].shape"]),
    "size beyond every memory": ([tensor(shape=[2**62, 16])], ["x"]),
    "wrong name": ([tensor(name="z")], ["z", "x"]),
    "missing": ([], ["x"]),
    "extra": ([tensor(), tensor(name="more")], ["more"]),
    "twice": ([tensor(), tensor()], ["x"]),
    "texts for numbers": ([tensor(data=["a"] * 16)], ["x"]),
    "ragged": ([tensor(data=[[0.5] * 15, [0.5]])], ["x"]),
    "null": ([tensor(data=[None] * 16)], ["x"]),
    "no data": ([{"name": "x", "shape": [1, 16], "datatype": "FP32"}], ["x"]),
    "binary beyond the body": (
        [{"name": "x", "shape": [1, 16], "datatype": "FP32", "parameters": {"binary_data_size": 64}}],
        ["x"],
    ),
}


def test_a_tensor_that_does_not_fit_is_named(tiny):
    for case, (inputs, words) in WRONG_TENSORS.items():
        message = error_of(tiny.post("/v2/models/tiny/infer", json={"inputs": inputs}), 400)
        assert [word for word in words if word not in message] == [], f"{case}: {message}"
    assert tiny.post("/v2/models/tiny/infer", json={"inputs": [tensor()]}).status_code == 200


def test_an_output_that_is_not_there_is_named(tiny):
    body = {"inputs": [tensor()], "outputs": [{"name": "probabilities"}]}
    assert "probabilities" in error_of(tiny.post("/v2/models/tiny/infer", json=body), 400)


def test_raw_bytes_of_a_wrong_length_say_what_is_right(tiny):
    kind = {"content-type": "application/octet-stream"}
    assert "64" in error_of(tiny.post("/predict/tiny", content=bytes(63), headers=kind), 400)
    assert "empty" in error_of(tiny.post("/predict/tiny", headers=kind), 400)
    wrong = kind | {"inference-header-content-length": "1000"}
    assert "1000" in error_of(tiny.post("/v2/models/tiny/infer", content=b"{}", headers=wrong), 400)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_json_has_no_nan_and_no_infinity(tiny, number):
    values = ",".join([number] * 16)
    v2 = '{"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [' + values + "]}]}"
    for path, text in [("/v2/models/tiny/infer", v2), ("/predict/tiny", f"[[{values}]]")]:
        error_of(tiny.post(path, content=text, headers={"content-type": "application/json"}), 400)


def test_nan_travels_as_binary_and_is_refused_where_it_would_have_to_be_json(tiny):
    values = np.full(16, np.nan, np.float32).tobytes()
    kind = {"content-type": "application/octet-stream"}
    raw = tiny.post("/predict/tiny", content=values, headers=kind)
    assert raw.status_code == 200
    assert np.isnan(np.frombuffer(raw.content, np.float32)).all()
    head = orjson.dumps(
        {"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "parameters": {"binary_data_size": 64}}]}
    )
    answer = tiny.post(
        "/v2/models/tiny/infer",
        content=head + values,
        headers=kind | {"inference-header-content-length": str(len(head))},
    )
    assert "binary" in error_of(answer, 406)


# --- bodies that are made to hurt -----------------------------------------------------------


def test_hostile_bodies_are_refused_and_memory_stays_flat(serve, tmp_path):
    served = serve(models.tiny(tmp_path / "tiny.onnx"), models.segmentation(tmp_path / "nuclei.onnx", 8, 2))
    process = psutil.Process(served.process.pid)
    json_type = {"content-type": "application/json"}
    bomb = zlib.compress(bytes(60_000_000), 9)
    number = b"1" * 100_000
    infer, predict = "/v2/models/tiny/infer", "/predict/tiny"
    hostile = [
        (infer, DEEP, json_type, 400),
        (predict, DEEP, json_type, 400),
        (predict, b'{"a":' * 100_000 + b"1" + b"}" * 100_000, json_type, 400),
        ("/v2/repository/index", DEEP, json_type, 400),
        (predict, b"[[" + b",".join([number] * 16) + b"]]", json_type, 400),
        (infer, orjson.dumps({"inputs": [tensor()]}).replace(b"0.5", number), json_type, 400),
        (infer, bomb, json_type | {"content-encoding": "deflate"}, 413),
        (predict, huge_png(), {"content-type": "image/png"}, 415),
    ]
    with httpx2.Client(base_url=served.url) as client:
        assert client.post(predict, json=[ROW]).status_code == 200
        before = process.memory_info().rss
        for _ in range(3):
            for path, body, headers, status in hostile:
                answer = client.post(path, content=body, headers=headers)
                assert len(error_of(answer, status)) < 1000
        assert process.memory_info().rss - before < 64 << 20
        assert client.post(predict, json=[ROW]).status_code == 200


def huge_png(side: int = 100_000) -> bytes:
    """A picture of few bytes that says it is of this many pixels each way."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def test_pictures_are_refused_by_what_they_claim_and_not_after_decoding(serve, rung, tmp_path):
    steps = {"input": [{"name": "image.decode"}, {"name": "image.resize", "params": {"height": 8, "width": 8}}]}
    (tmp_path / "steps.json").write_bytes(orjson.dumps(steps))
    model = models.identity(tmp_path / "pictures.onnx", "UINT8", (-1, 8, 8, 3))
    done = rung("models", "register", model, "-r", "repo", "--transforms", "steps.json")
    assert done.returncode == 0, done.stderr
    served = serve("repo")
    process = psutil.Process(served.process.pid)
    with httpx2.Client(base_url=served.url) as client:
        good = io.BytesIO()
        Image.new("RGB", (20, 30)).save(good, "PNG")
        assert client.post("/predict/pictures", content=good.getvalue()).status_code == 200
        before = process.memory_info().rss
        huge = client.post("/predict/pictures", content=huge_png())
        assert "pixels" in error_of(huge, 400)
        error_of(client.post("/predict/pictures", content=good.getvalue()[:-30]), 400)
        error_of(client.post("/predict/pictures", content=b"GIF89a" + bytes(50)), 415)
        assert process.memory_info().rss - before < 64 << 20


def test_the_door_of_the_command_keeps_its_limits(serve, tmp_path):
    served = serve(
        models.tiny(tmp_path / "tiny.onnx"), env={"RUNG_DOOR_MAX_BODY": "1000", "RUNG_DOOR_MAX_HEAD": "2000"}
    )
    with httpx2.Client(base_url=served.url) as client:
        assert "1000" in error_of(client.post("/predict/tiny", content=bytes(1001)), 413)
        assert "1000" in error_of(client.post("/predict/tiny", content=iter([bytes(600)] * 2)), 413)
        error_of(client.get("/", headers={"x": "a" * 3000}), 431)
        assert "'none'" in error_of(client.post("/v2/models/none/infer", json={"inputs": []}), 404)
        assert error_of(client.put("/predict/tiny"), 405)
        assert "text/csv" in error_of(
            client.post("/predict/tiny", content=b"1", headers={"content-type": "text/csv"}), 415
        )
        odd = client.post("/v2/models/tiny/infer", content=b"1", headers={"content-type": "text/csv"})
        assert "text/csv" in error_of(odd, 415)
        broken = client.post("/predict/tiny", content=b"1", headers={"content-encoding": "br"})
        assert "br" in error_of(broken, 415)


# --- the command line -----------------------------------------------------------------------


def refused(result, code: int = 2) -> str:
    """The one line that a refusal is; the exit code says whose fault it was. A class may print what it likes before."""
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("rung: "), result.stderr
    return message


class Evil:
    def __reduce__(self):
        return print, ("it ran",)


@pytest.mark.parametrize("name", ["model.pkl", "model.onnx", "model.pt", "model"])
@pytest.mark.parametrize("command", [("serve",), ("models", "register")])
def test_a_pickle_is_refused_whatever_it_is_called(rung, tmp_path, name, command):
    (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    result = rung(*command, name)
    assert result.returncode in (1, 2)
    assert "pickle" in result.stderr
    assert "Export" in result.stderr
    assert "it ran" not in result.stdout + result.stderr


def test_a_port_in_use_is_named_with_the_way_out(rung, tmp_path):
    model = models.tiny(tmp_path / "tiny.onnx")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(rung("serve", model, "--port", port))
    assert str(port) in message
    assert "--port" in message


def test_what_cannot_be_served_is_named(rung, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "short.onnx").write_bytes(b"")
    models.tiny(tmp_path / "same.onnx")
    (tmp_path / "other").mkdir()
    models.tiny(tmp_path / "other" / "same.onnx")
    for targets, code, words in [
        (["nowhere.onnx"], 2, ["nowhere.onnx"]),
        (["nowhere"], 2, ["nowhere"]),
        (["empty"], 2, ["empty"]),
        (["notes.txt"], 2, ["notes.txt"]),
        (["short.onnx"], 1, ["short"]),
        (["same.onnx", "other/same.onnx"], 2, ["same", "name"]),
        (["no_module_of_this_name:Class"], 1, ["no_module_of_this_name"]),
    ]:
        message = refused(rung("serve", *targets, "--port", 0), code)
        assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (["--port", "many"], {}, ["port"]),
        (["--port", "70000"], {}, ["70000"]),
        (["--keep", "some"], {}, ["--keep", "some"]),
        (["--lanes", "-3"], {}, ["lanes", "-3"]),
        (["--objective-ms", "nan"], {}, ["objective"]),
        (["--host", "no.such.host.invalid"], {}, ["no.such.host.invalid"]),
        ([], {"RUNG_PORT": "http"}, ["RUNG_PORT", "http"]),
        ([], {"RUNG_LANES": "two"}, ["RUNG_LANES", "two"]),
        ([], {"RUNG_ACCESS_LOG": "perhaps"}, ["RUNG_ACCESS_LOG", "perhaps"]),
        ([], {"RUNG_DOOR_MAX_BODY": "64MB"}, ["RUNG_DOOR_MAX_BODY", "64MB"]),
        ([], {"RUNG_DOOR_MAX_BODY": "-1"}, ["RUNG_DOOR_MAX_BODY", "-1"]),
        ([], {"RUNG_POLL_SECONDS": "0"}, ["RUNG_POLL_SECONDS", "0"]),
        ([], {"RUNG_PIN": "1,x"}, ["RUNG_PIN"]),
        ([], {"RUNG_DOOR": "x"}, ["RUNG_DOOR"]),
    ],
    ids=str,
)
def test_a_bad_setting_is_named_with_where_it_came_from(rung, tmp_path, arguments, env, words):
    model = models.tiny(tmp_path / "tiny.onnx")
    port = [] if "RUNG_PORT" in env or "--port" in arguments else ["--port", "0"]
    result = rung("serve", model, *port, *arguments, env=env)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert [word for word in words if word not in result.stderr] == [], result.stderr


def test_the_file_of_a_class_that_fails_says_where(rung, tmp_path):
    (tmp_path / "broken.py").write_text("class Model:\n    inputs = {'x': ('FP32', [-1, 4])}\n")
    (tmp_path / "raising.py").write_text("raise ValueError('no such weights')\n")
    for name, word in [
        ("broken.py:Model", "outputs"),
        ("broken.py:Other", "Other"),
        ("raising.py:Model", "no such weights"),
    ]:
        assert word in refused(rung("serve", name, "--port", 0), 1)

"""Whatever bytes come: nothing reaches the event loop, no endpoint fails, the next client is served."""

import gzip
import io
import struct

import numpy as np
import orjson
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rung.app.replica import Replica
from rung.catalog.source import open_source
from rung.settings import DoorSettings, ServeSettings
from rung.testing import models

TARGETS = ["/v2/models/tiny/infer", "/v2/models/nuclei/infer", "/predict/tiny", "/v2/repository/index", "/metrics", "/"]
SMALL = DoorSettings(max_body=100_000, max_head=2000, max_headers=30, drain_seconds=0.2)


def request(target: str, media: str, body: bytes, extra: str = "", method: str = "POST") -> bytes:
    lines = (
        f"{method} {target} HTTP/1.1\r\nHost: door\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n{extra}"
    )
    return f"{lines}\r\n".encode() + body


def corpus() -> list[bytes]:
    row = np.arange(16, dtype=np.float32)
    picture = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(picture, "PNG")
    png = picture.getvalue()
    form = b"--b\r\nContent-Disposition: form-data; name=file; filename=a.png\r\n\r\n" + png + b"\r\n--b--\r\n"
    tensor = {"name": "x", "shape": [1, 16], "datatype": "FP32", "data": row.tolist()}
    whole = orjson.dumps({"id": "7", "inputs": [tensor], "outputs": [{"name": "y"}]})
    binary = orjson.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": 64}}]}).replace(
        b'"data":', b'"was":'
    )
    length = f"Inference-Header-Content-Length: {len(binary)}\r\n"
    raw = "application/octet-stream"
    return [
        request("/predict/tiny", raw, row.tobytes()),
        request("/predict/tiny", raw, row.tobytes(), "rung-timeout-ms: 1000\r\nrung-priority: 1\r\nrung-timing: 1\r\n"),
        request("/predict/tiny", "application/json", orjson.dumps({"rows": [row.tolist()]})),
        request("/predict/tiny", "multipart/form-data; boundary=b", form),
        request("/predict/tiny?view=json", "image/png", png),
        request("/v2/models/tiny/infer", "application/json", whole),
        request("/v2/models/tiny/infer", "application/json", gzip.compress(whole), "Content-Encoding: gzip\r\n"),
        request("/v2/models/tiny/versions/1/infer", raw, binary + row.tobytes(), length),
        request("/v2/repository/index", "application/json", b'{"ready": true}'),
        request("/v2/models/tiny", "", b"", "Accept-Encoding: gzip\r\n", "GET"),
        request("/metrics", "", b"", method="GET"),
        b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"%x\r\n%b\r\n0\r\nX: 1\r\n\r\n" % (len(whole), whole),
    ]


CORPUS = corpus()


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """One to three requests, damaged in a few places and cut anywhere."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(CORPUS), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["flip", "cut", "insert", "double", "number"])):
            case "flip":
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at : at + draw(st.integers(1, 8))]
            case "insert":
                data[at:at] = draw(
                    st.sampled_from([b"\r\n", b"\0", b"[" * 500, b"{}", b"-1", b"1e999", b"NaN", b"\xff"])
                )
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case "number":
                data[at : at + 8] = struct.pack("<d", draw(st.floats()))
        data = data or bytearray(b"\0")
    cut = draw(st.integers(1, len(data)))
    return [bytes(data[:cut]), bytes(data[cut:])]


@st.composite
def odd_json(draw: st.DrawFn) -> list[bytes]:
    """Valid JSON of a wrong kind."""
    plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5)
    leaf = plain | st.floats() | st.sampled_from(["x", "FP32", "BYTES"])
    keys = st.sampled_from(
        ["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "rows", "id", "text"]
    )
    nested = lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6)  # noqa: E731
    value = draw(st.recursive(leaf, nested, max_leaves=25))
    body = (
        orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS) if not big(value) else str(value).encode(errors="replace")
    )
    return [request(draw(st.sampled_from(TARGETS)), "application/json", body)]


def big(value: object) -> bool:
    if isinstance(value, list):
        return any(map(big, value))
    if isinstance(value, dict):
        return any(map(big, value.values()))
    return isinstance(value, int) and not -(2**63) <= value < 2**64


@pytest.fixture
def replica(door, tmp_path):
    """A door with every protocol in front of two models."""
    one = door()
    sources = [
        open_source(str(models.tiny(tmp_path / "tiny.onnx")), None, tmp_path / "cache"),
        open_source(str(models.segmentation(tmp_path / "nuclei.onnx", 8, 2)), None, tmp_path / "cache"),
    ]
    whole = Replica(sources, ServeSettings(port=0, door=SMALL))
    one.run(whole.open())
    harness_port, one.port = one.port, whole.port
    yield one, whole
    one.port = harness_port
    one.run(whole.close())


@pytest.mark.parametrize("strategy", [mutated(), odd_json(), st.lists(st.binary(max_size=300), max_size=3)], ids=str)
def test_no_bytes_hurt(replica, strategy):
    one, whole = replica

    @settings(max_examples=150)
    @given(strategy)
    def run(pieces: list[bytes]) -> None:
        with structlog.testing.capture_logs() as logs:
            client = one.client()
            client.socket.settimeout(0.02)
            try:
                for piece in pieces:
                    client.send(piece)
                client.socket.recv(1 << 20)
            except OSError:
                pass
            client.socket.close()
            probe = one.client()
            assert probe.ask("GET", "/livez").status == 200
            probe.socket.close()
        assert one.complaints == []
        assert [line for line in logs if line.get("action") == "endpoint_failed"] == []
        assert whole.door.statuses.get(500, 0) == 0

    run()

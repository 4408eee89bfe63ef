"""The door as its callers see it, over models in memory."""

from collections.abc import Mapping
from contextlib import suppress
from itertools import product
from typing import Any

import msgspec
import numpy as np
import orjson
import pytest
import tritonclient.http as triton
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.domain.errors import (
    InvalidInput,
    NotAcceptable,
    NotFound,
    NotReady,
    RungError,
    Unsupported,
    UnsupportedMedia,
)
from rung.domain.models import Manifest, VersionState, VersionStatus
from rung.domain.predictions import NEVER, Call, Request, Response, Statistics, Timing
from rung.domain.tensors import DATATYPES, Signature, TensorSpec
from rung.protocols.exchange import Head, Reply
from rung.protocols.oip_infer import InferCodec
from rung.protocols.oip_rest import OipRest
from rung.protocols.router import Router


class Version:
    """A loaded version that computes with numpy and keeps what it was asked."""

    def __init__(self, manifest: Manifest, compute: Any) -> None:
        self.manifest = manifest
        self.platform = "onnxruntime_onnx"
        self.compute = compute
        self.requests: list[Request] = []

    async def predict(self, request: Request) -> Response:
        self.requests.append(request)
        outputs = self.compute(request.inputs)
        return Response(self.manifest.name, self.manifest.version, outputs, queued=0.001, computed=0.002)


class Models:
    """A directory in memory; `loading` is known but cannot answer."""

    def __init__(self, *versions: Version) -> None:
        self.table = {version.manifest.name: version for version in versions}
        self.is_ready = True

    def find(self, name: str, version: int | None = None, call: Call | None = None) -> Version:
        if name == "loading":
            raise NotReady("model 'loading' is loading")
        found = self.table.get(name)
        if found is None or version not in (None, found.manifest.version):
            raise NotFound(f"Request for unknown model: {name!r} is not found")
        return found

    def versions(self, name: str) -> list[int]:
        return [self.find(name).manifest.version]

    def statuses(self) -> list[VersionStatus]:
        return [
            VersionStatus("simple", 1, VersionState.AVAILABLE),
            VersionStatus("loading", 2, VersionState.LOADING),
            VersionStatus("broken", 3, VersionState.END, "the artifact is cut off"),
        ]

    def statistics(self, name: str | None = None, version: int | None = None) -> list[Statistics]:
        if name is not None:
            self.find(name, version)
        entry = Statistics("simple", 1, inferences=6, executions=2, last=1700000000.5)
        entry.success = Timing(3, 300)
        entry.batches = {4: Timing(1, 70), 2: Timing(1, 30)}
        return [entry]

    def ready(self) -> bool:
        return self.is_ready


def manifest(name: str, inputs: list[TensorSpec], outputs: list[TensorSpec], *, batched: bool = True) -> Manifest:
    return Manifest(name, 1, "onnx", Signature(tuple(inputs), tuple(outputs), batched), artifact="model.onnx")


def pair(datatype: str, names: str) -> list[TensorSpec]:
    return [TensorSpec(name, datatype, (-1, 16)) for name in names.split()]


def simple(datatype: str = "INT32") -> Version:
    def compute(inputs: Mapping[str, Any]) -> dict[str, Any]:
        first, second = inputs["INPUT0"], inputs["INPUT1"]
        return {"OUTPUT0": first + second, "OUTPUT1": first - second}

    both = pair(datatype, "INPUT0 INPUT1"), pair(datatype, "OUTPUT0 OUTPUT1")
    return Version(manifest("simple", *both), compute)


def identity(datatype: str, shape: tuple[int, ...] = (-1, 4)) -> Version:
    specs = [TensorSpec("x", datatype, shape)], [TensorSpec("y", datatype, shape)]
    return Version(manifest(f"identity.{datatype.lower()}", *specs), lambda inputs: {"y": inputs["x"]})


class Door:
    """Calls the door's endpoints without a network."""

    def __init__(self, *versions: Version) -> None:
        self.models = Models(*versions)
        self.router = Router(OipRest(self.models, version="1.2.3").routes())

    def call(self, method: str, path: str, body: bytes = b"", *, arrived: float = 0.0, **headers: str) -> Reply:
        named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
        head = Head(method, path, "", named)
        self.router.resolve(head, path)
        return self.send(head, body, arrived)

    def send(self, head: Head, body: bytes, arrived: float = 0.0) -> Reply:
        answer = head.endpoint(head, body, Call(arrived, head.headers, body))
        try:
            answer.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("the endpoint suspended")

    def get(self, path: str) -> Any:
        reply = self.call("GET", path)
        assert reply.status == 200
        return orjson.loads(reply.body)

    def infer(self, model: str, value: Any, **headers: str) -> Any:
        body = value if isinstance(value, bytes) else orjson.dumps(value)
        reply = self.call("POST", f"/v2/models/{model}/infer", body, **headers)
        assert reply.status == 200
        assert reply.media == b"application/json"
        return orjson.loads(reply.body)


def flat(reply: Reply) -> bytes:
    return reply.body if isinstance(reply.body, bytes) else b"".join(reply.body)


def octets(header: int) -> dict[str, str]:
    return {"inference_header_content_length": str(header), "content_type": "application/octet-stream"}


def tensor(name: str, value: Any, datatype: str = "INT32", shape: Any = (1, 16)) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "datatype": datatype, "data": value}


A, B = list(range(16)), [1] * 16
ADD = {"inputs": [tensor("INPUT0", A), tensor("INPUT1", B)]}


@pytest.fixture
def door() -> Door:
    return Door(simple(), identity("FP32"), identity("BYTES", (-1, 2)), identity("FP16"))


def test_json_in_json_out(door: Door) -> None:
    assert door.infer("simple", ADD | {"id": 'my "id"'}) == {
        "model_name": "simple",
        "model_version": "1",
        "id": 'my "id"',
        "outputs": [tensor("OUTPUT0", [a + 1 for a in A]), tensor("OUTPUT1", [a - 1 for a in A])],
    }


def test_data_may_be_nested_and_null_fields_count_as_absent(door: Door) -> None:
    nested = {"inputs": [tensor("INPUT1", [B]), tensor("INPUT0", [A])], "id": None, "outputs": None, "parameters": None}
    assert door.infer("simple", nested)["outputs"] == door.infer("simple", ADD)["outputs"]


def test_only_the_outputs_asked_for_come_back_in_that_order(door: Door) -> None:
    answer = door.infer("simple", ADD | {"outputs": [{"name": "OUTPUT1"}]})
    assert [output["name"] for output in answer["outputs"]] == ["OUTPUT1"]
    assert door.models.find("simple").requests[-1].outputs == ("OUTPUT1",)


def test_the_version_may_be_named(door: Door) -> None:
    reply = door.call("POST", "/v2/models/simple/versions/1/infer", orjson.dumps(ADD))
    assert orjson.loads(reply.body)["model_version"] == "1"
    for version in ("2", "0", "01", "x", "9" * 30):
        with pytest.raises(NotFound):
            door.call("POST", f"/v2/models/simple/versions/{version}/infer", orjson.dumps(ADD))


@pytest.mark.parametrize(
    ("datatype", "binary"),
    [("FP16", True), *product(sorted(DATATYPES.keys() - {"FP16", "BF16"}), (True, False))],
)
def test_tritons_client_gets_back_what_it_sent(datatype: str, binary: bool) -> None:
    version = identity(datatype)
    door = Door(version)
    sent = np.array([[0, 1, 1, 0]]).astype(DATATYPES[datatype])
    if datatype == "BYTES":
        sent = np.array([[b"", b"a", 'ä,"['.encode(), b"x" * 300]], object)
    given_input = triton.InferInput("x", [1, 4], datatype)
    given_input.set_data_from_numpy(sent, binary_data=binary)
    wanted = triton.InferRequestedOutput("y", binary_data=binary)
    body, length = triton.InferenceServerClient.generate_request_body([given_input], outputs=[wanted], request_id="7")
    headers = octets(length) if binary else {}
    for _ in range(2):
        reply = door.call("POST", f"/v2/models/{version.manifest.name}/infer", body, **headers)
        lengths = [int(value) for name, value in reply.headers if name == b"Inference-Header-Content-Length"]
        result = triton.InferenceServerClient.parse_response_body(
            flat(reply), header_length=lengths[0] if lengths else None
        )
        assert result.get_response()["id"] == "7"
        got = result.as_numpy("y")
        if datatype == "BYTES" and not binary:
            got = np.array([[text.encode() for text in got[0]]], object)
        np.testing.assert_array_equal(got, sent)


def test_forms_may_be_mixed_in_one_call(door: Door) -> None:
    first = tensor("INPUT0", A)
    second = {"name": "INPUT1", "shape": [1, 16], "datatype": "INT32", "parameters": {"binary_data_size": 64}}
    message = orjson.dumps(
        {
            "inputs": [first, second],
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": False}}, {"name": "OUTPUT1"}],
        }
    )
    body = message + np.array(B, np.int32).tobytes()
    reply = door.call("POST", "/v2/models/simple/infer", body, **octets(len(message)))
    assert reply.media == b"application/octet-stream"
    length = int(dict(reply.headers)[b"Inference-Header-Content-Length"])
    text, blob = flat(reply)[:length], flat(reply)[length:]
    outputs = orjson.loads(text)["outputs"]
    assert outputs[0]["data"] == [a + 1 for a in A]
    assert outputs[1]["parameters"] == {"binary_data_size": 64}
    assert np.frombuffer(blob, np.int32).tolist() == [a - 1 for a in A]


def test_a_repeated_binary_header_is_read_anew_with_other_data(door: Door) -> None:
    message = orjson.dumps(
        {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]}
    )
    path = "/v2/models/identity.fp32/infer"
    for start in (0.0, 5.0):
        data = np.arange(start, start + 4, dtype=np.float32)
        reply = door.call("POST", path, message + data.tobytes(), **octets(len(message)))
        assert orjson.loads(reply.body)["outputs"][0]["data"] == data.tolist()
    for cut in (b"", b"\0" * 15, b"\0" * 17):
        with pytest.raises(InvalidInput, match="bytes"):
            door.call("POST", path, message + cut, **octets(len(message)))


def test_memory_of_headers_is_bounded() -> None:
    codec = InferCodec(identity("FP32").manifest)
    for number in range(1200):
        item = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
        message = orjson.dumps({"inputs": [item], "id": f"{number}"})
        for _ in range(2):
            _, _, echo = codec.decode(message + bytes(16), len(message), Call())
            assert echo == f"{number}"
        assert len(codec._plans) <= 512


@pytest.mark.parametrize(
    ("shape", "taken"),
    [((-1, 4), (1, 4)), ((-1, -1), (1, 4)), ((1, 4), (1, 4)), ((-1, 2, 2), (1, 2, 2)), ((-1, 2), (2, 2))],
)
def test_a_raw_body_takes_its_shape_from_its_length(shape: tuple[int, ...], taken: tuple[int, ...]) -> None:
    version = identity("FP32", shape)
    door = Door(version)
    data = np.arange(4, dtype=np.float32).tobytes()
    for _ in range(2):
        reply = door.call("POST", "/v2/models/identity.fp32/infer", data, **octets(0))
        assert flat(reply).endswith(data)
        assert version.requests[-1].inputs["x"].shape == taken


def test_a_raw_body_counts_rows_and_holds_one_text() -> None:
    numbers, text = identity("FP32"), identity("BYTES", (-1, 1))
    door = Door(numbers, text)
    door.call("POST", "/v2/models/identity.fp32/infer", bytes(48), **octets(0))
    assert numbers.requests[-1].rows == 3
    reply = door.call("POST", "/v2/models/identity.bytes/infer", b"any\xffthing", **octets(0))
    assert flat(reply).endswith(b"\x09\0\0\0any\xffthing")


@pytest.mark.parametrize(
    ("model", "body"),
    [("simple", bytes(64)), ("identity.fp32", bytes(15)), ("identity.fp32", b""), ("identity.bytes", b"two")],
)
def test_a_raw_body_that_fits_no_shape_is_refused(door: Door, model: str, body: bytes) -> None:
    with pytest.raises(InvalidInput):
        door.call("POST", f"/v2/models/{model}/infer", body, **octets(0))


def without(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key != name}


BAD = [
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b"\xff", "not valid JSON"),
    (b"[]", "does not fit the protocol"),
    (b"{}", "inputs"),
    (b'{"inputs":[]}', "expected 2 inputs but got 0"),
    (b"[" * 100_000 + b"]" * 100_000, "protocol|nested"),
    (b'{"inputs":' + b"[" * 100_000, "protocol|nested"),
    (b'{"inputs":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
    ({"inputs": [tensor("INPUT0", A)]}, "expected 2 inputs but got 1 inputs: missing .'INPUT1'"),
    ({"inputs": [tensor("INPUT0", A), tensor("INPUT0", A)]}, "given twice"),
    ({"inputs": [tensor("INPUT0", A), tensor("ZZ", B)]}, "unexpected inference input 'ZZ'"),
    ({"inputs": [*ADD["inputs"], tensor("ZZ", B)]}, "unexpected inference input 'ZZ'"),
    ({"inputs": [tensor("INPUT0", A, "FP32"), tensor("INPUT1", B)]}, "'INPUT0' data-type is 'FP32', .*expects 'INT32'"),
    ({"inputs": [tensor("INPUT0", A, "BOGUS"), tensor("INPUT1", B)]}, "data-type is 'BOGUS'"),
    ({"inputs": [tensor("INPUT0", A, shape=(16,)), tensor("INPUT1", B)]}, "'INPUT0' has shape"),
    ({"inputs": [tensor("INPUT0", A, shape=(-1, 16)), tensor("INPUT1", B)]}, "shape"),
    ({"inputs": [tensor("INPUT0", A, shape=(1.5, 16)), tensor("INPUT1", B)]}, "shape"),
    ({"inputs": [tensor("INPUT0", A, shape=(2**62, 16)), tensor("INPUT1", B)]}, "'INPUT0' has an impossible shape"),
    ({"inputs": [tensor("INPUT0", A, shape=(1,) * 65), tensor("INPUT1", B)]}, "shape"),
    ({"inputs": [tensor("INPUT0", [], shape=(0, 16)), tensor("INPUT1", [], shape=(0, 16))]}, "no rows"),
    ({"inputs": [tensor("INPUT0", A * 2, shape=(2, 16)), tensor("INPUT1", B)]}, "rows"),
    ({"inputs": [tensor("INPUT0", A[:-1]), tensor("INPUT1", B)]}, "'INPUT0' has 15 elements .* needs 16"),
    ({"inputs": [tensor("INPUT0", [0] * 50_000), tensor("INPUT1", B)]}, "'INPUT0' has 50000 elements"),
    ({"inputs": [without(tensor("INPUT0", A), "data"), tensor("INPUT1", B)]}, "'INPUT0' has neither"),
    ({"inputs": [tensor("INPUT0", None), tensor("INPUT1", B)]}, "'INPUT0'"),
    ({"inputs": [tensor("INPUT0", A) | {"parameters": {"binary_data_size": 64}}, tensor("INPUT1", B)]}, "both"),
    (ADD | {"outputs": [{"name": "ZZ"}]}, "unexpected inference output 'ZZ'"),
    (ADD | {"outputs": [{"name": "OUTPUT0"}, {"name": "OUTPUT0"}]}, "twice"),
    (ADD | {"outputs": [{"name": "OUTPUT0", "parameters": {"binary_data": 1}}]}, "'binary_data'"),
    (ADD | {"id": 7}, "id"),
    (ADD | {"parameters": {"timeout": -1}}, "'timeout'"),
    (ADD | {"parameters": {"timeout": "soon"}}, "'timeout'"),
    (ADD | {"parameters": {"priority": True}}, "'priority'"),
    (ADD | {"parameters": {"binary_data_output": "yes"}}, "'binary_data_output'"),
    (ADD | {"parameters": {"nested": {}}}, "parameters"),
]


@pytest.mark.parametrize(("body", "words"), BAD, ids=[words for _, words in BAD])
def test_a_request_that_does_not_fit_is_refused_and_says_why(door: Door, body: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        door.infer("simple", body)
    assert not door.models.find("simple").requests


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_bare_nan_is_refused_with_the_reason(door: Door, value: str) -> None:
    body = orjson.dumps({"inputs": [tensor("x", [1, 2, 3, 4], "FP32", (1, 4))]}).replace(
        b"[1,2,", f"[1,{value},".encode()
    )
    with pytest.raises(InvalidInput, match="no NaN and no Infinity"):
        door.infer("identity.fp32", body)


def test_nan_comes_back_as_binary_and_is_never_turned_into_null(door: Door) -> None:
    item = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    data = np.array([np.nan, np.inf, -np.inf, 1], np.float32).tobytes()
    message = orjson.dumps({"inputs": [item]})
    with pytest.raises(NotAcceptable, match="'y' holds NaN or Infinity"):
        door.call("POST", "/v2/models/identity.fp32/infer", message + data, **octets(len(message)))
    message = orjson.dumps({"inputs": [item], "parameters": {"binary_data_output": True}})
    reply = door.call("POST", "/v2/models/identity.fp32/infer", message + data, **octets(len(message)))
    assert flat(reply).endswith(data)


@pytest.mark.parametrize(
    "change",
    [
        {"parameters": {"sequence_id": 42}},
        {"parameters": {"sequence_start": True}},
        {"outputs": [{"name": "OUTPUT0", "parameters": {"classification": 3}}]},
        {"inputs": [tensor("INPUT0", A) | {"parameters": {"shared_memory_region": "r"}}, tensor("INPUT1", B)]},
    ],
)
def test_parameters_that_would_change_the_answer_are_not_ignored(door: Door, change: dict[str, Any]) -> None:
    with pytest.raises(Unsupported):
        door.infer("simple", ADD | change)


def test_parameters_that_change_nothing_are_ignored(door: Door) -> None:
    door.infer("simple", ADD | {"parameters": {"sequence_id": 0, "content_type": "np", "mine": 1.5}})


@pytest.mark.parametrize("header", ["-1", "+5", "5_0", " 5", "x", "", "1" * 13])
def test_a_header_length_that_is_no_number_is_refused(door: Door, header: str) -> None:
    with pytest.raises(InvalidInput, match="Inference-Header-Content-Length"):
        door.infer("simple", ADD, inference_header_content_length=header)


def test_a_header_length_beyond_the_body_is_refused(door: Door) -> None:
    with pytest.raises(InvalidInput, match="header length is 9000"):
        door.infer("simple", ADD, inference_header_content_length="9000")


def test_other_content_types_are_not_read(door: Door) -> None:
    for media in ("text/plain", "application/octet-stream", "application/x-protobuf"):
        with pytest.raises(UnsupportedMedia, match=media):
            door.infer("simple", ADD, content_type=media)
    for media in ("application/json", "Application/JSON; charset=utf-8", "application/x-www-form-urlencoded"):
        door.infer("simple", ADD, content_type=media)


@pytest.mark.parametrize(
    ("timeout", "header", "deadline"),
    [
        (0, None, NEVER),
        (2_000_000, None, 12.0),
        (0, "500", 10.5),
        (2_000_000, "500", 10.5),
        (100_000, "500", 10.1),
        (0, "0", NEVER),
    ],
)
def test_the_nearer_deadline_counts(door: Door, timeout: int, header: str | None, deadline: float) -> None:
    body = orjson.dumps(ADD | {"parameters": {"timeout": timeout, "priority": 3}})
    headers = {} if header is None else {"rung_timeout_ms": header}
    door.call("POST", "/v2/models/simple/infer", body, arrived=10.0, **headers)
    request = door.models.find("simple").requests[-1]
    assert (request.deadline, request.priority, request.arrived) == (pytest.approx(deadline), 3, 10.0)


@pytest.mark.parametrize("header", ["-1", "nan", "inf", "1e99", "soon"])
def test_a_timeout_header_that_is_no_time_is_refused(door: Door, header: str) -> None:
    with pytest.raises(InvalidInput, match="rung-timeout-ms"):
        door.infer("simple", ADD, rung_timeout_ms=header)


def test_the_parts_of_the_time_sum_to_the_whole(door: Door) -> None:
    from time import monotonic

    reply = door.call("POST", "/v2/models/simple/infer", orjson.dumps(ADD), arrived=monotonic(), rung_timing="1")
    timing = dict(reply.headers)[b"Server-Timing"].decode()
    parts = {name: float(value) for name, value in (part.split(";dur=") for part in timing.split(", "))}
    total = parts.pop("total")
    assert list(parts) == ["parse", "queue", "compute", "encode"]
    assert sum(parts.values()) == pytest.approx(total, abs=0.001)
    assert all(part >= 0 for part in parts.values())


def test_a_remembered_head_follows_a_swap(door: Door) -> None:
    head = Head("POST", "/v2/models/simple/infer", "", {})
    door.router.resolve(head, head.path)
    door.send(head, orjson.dumps(ADD))
    door.models.table["simple"] = simple("FP32")
    with pytest.raises(InvalidInput, match="expects 'FP32'"):
        door.send(head, orjson.dumps(ADD))
    floats = {"inputs": [tensor("INPUT0", A, "FP32"), tensor("INPUT1", B, "FP32")]}
    assert orjson.loads(door.send(head, orjson.dumps(floats)).body)["outputs"][0]["data"][0] == 1.0


def test_the_answer_names_the_version_that_gave_it(door: Door) -> None:
    class Split(Version):
        async def predict(self, request: Request) -> Response:
            response = await super().predict(request)
            return msgspec.structs.replace(response, version=7)

    first = door.models.find("simple")
    door.models.table["simple"] = Split(first.manifest, first.compute)
    assert door.infer("simple", ADD)["model_version"] == "7"


def test_unknown_and_loading_models(door: Door) -> None:
    for path in ("", "/ready", "/config", "/stats"):
        with pytest.raises(NotFound, match="'nope' is not found"):
            door.get(f"/v2/models/nope{path}")
        with pytest.raises(NotReady):
            door.get(f"/v2/models/loading{path}")


FIELDS = st.sampled_from(["name", "shape", "datatype", "data", "parameters", "inputs", "outputs", "id"])
PIECES = st.one_of(
    st.just(tensor("x", [1.0, 2.0, 3.0, 4.0], "FP32", (1, 4))),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(["name", "shape", "datatype", "data", "parameters", "inputs", "outputs", "id"]), inner
            )
        ),
        max_leaves=12,
    ),
)
FUZZED = Door(identity("FP32"))


@settings(max_examples=300)
@given(
    st.dictionaries(st.sampled_from(["inputs", "outputs", "id", "parameters"]), PIECES | st.lists(PIECES)), st.data()
)
def test_whatever_comes_only_errors_of_rung_are_raised(value: Any, data: st.DataObject) -> None:
    try:
        text = orjson.dumps(value)
    except TypeError:
        return
    body = text + data.draw(st.binary(max_size=40))
    header = data.draw(st.none() | st.integers(0, len(body) + 2))
    with suppress(RungError):
        FUZZED.call("POST", "/v2/models/identity.fp32/infer", body, **({} if header is None else octets(header)))


@given(st.binary(max_size=200), st.none() | st.integers(0, 200))
def test_whatever_bytes_come_only_errors_of_rung_are_raised(body: bytes, header: int | None) -> None:
    with suppress(RungError):
        FUZZED.call("POST", "/v2/models/identity.fp32/infer", body, **({} if header is None else octets(header)))

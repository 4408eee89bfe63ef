"""The door as TF Serving's callers see it, over models in memory."""

import asyncio
import json

import numpy as np
import pytest

from rung.domain.errors import InvalidInput, ModelError, NotFound, NotReady, RungError
from rung.domain.models import Manifest, VersionState, VersionStatus
from rung.domain.predictions import NEVER, Call, Request, Response
from rung.domain.tensors import Signature, TensorSpec
from rung.protocols.exchange import Head
from rung.protocols.router import Router
from rung.protocols.tfserving import TfServing


class Version:
    """A loaded version that computes with numpy and keeps what it was asked."""

    platform = "tensorflow_savedmodel"

    def __init__(self, name, inputs, outputs, compute, *, version=1, labels=(), batched=True):
        signature = Signature(
            tuple(TensorSpec(*one) for one in inputs), tuple(TensorSpec(*one) for one in outputs), batched
        )
        self.manifest = Manifest(name, version, "onnx", signature, labels=labels)
        self.compute = compute
        self.requests: list[Request] = []

    async def predict(self, request):
        self.requests.append(request)
        manifest = self.manifest
        return Response(manifest.name, manifest.version, self.compute(request.inputs), queued=0.001, computed=0.002)


HALF = Version(
    "half_plus_two",
    [("x", "FP32", (-1,))],
    [("y", "FP32", (-1,))],
    lambda inputs: {"y": inputs["x"] / 2 + 2},
    version=123,
)
SCORES = np.array([[0.25, 0.75], [1.0, 0.0]], np.float32)
FLOWERS = Version(
    "flowers",
    [("image", "BYTES", (-1,)), ("caption", "BYTES", (-1,))],
    [("label", "INT64", (-1,)), ("probabilities", "FP32", (-1, 2))],
    lambda inputs: {"label": np.array([1, 0]), "probabilities": SCORES},
    labels=("rose", "tulip"),
)
NAMED = Version(
    "named",
    [("x", "FP32", (-1,))],
    [("classes", "BYTES", (-1, 2)), ("scores", "FP32", (-1, 2)), ("other", "FP32", (-1, 2))],
    lambda inputs: {"classes": np.array([[b"b", b"a"]] * 2, object), "scores": SCORES, "other": SCORES},
)
WHOLE = Version(
    "whole",
    [("a", "FP32", (2,)), ("b", "FP32", ())],
    [("sum", "FP32", ()), ("both", "FP32", (2,))],
    lambda inputs: {"sum": np.array(1.5, np.float32), "both": inputs["a"] + inputs["b"]},
    batched=False,
)
EMPTY = Version("empty", [("x", "FP32", (-1,))], [("y", "FP32", (-1,))], lambda inputs: {})


class Models:
    """A directory in memory."""

    table = {version.manifest.name: version for version in (HALF, FLOWERS, NAMED, WHOLE, EMPTY)}

    def find(self, name, version=None, call=None):
        if name == "loading":
            raise NotReady("model 'loading' is being loaded")
        found = self.table.get(name)
        if found is None or version not in (None, found.manifest.version):
            raise NotFound(f"unknown model {name!r}")
        return found

    def statuses(self):
        return [
            VersionStatus("half_plus_two", 7, VersionState.END, "the artifact is cut off"),
            VersionStatus("half_plus_two", 12, VersionState.END, "unloaded"),
            VersionStatus("half_plus_two", 123, VersionState.AVAILABLE),
            VersionStatus("loading", 1, VersionState.LOADING),
        ]


ROUTER = Router(TfServing(Models(), lambda: (b"text/plain", b"page")).routes())


def call(method, path, body=b"", headers=None, arrived=0.0):
    head = Head(method, path, "", headers or {})
    ROUTER.resolve(head, path)
    reply = asyncio.run(head.endpoint(head, body.encode() if isinstance(body, str) else body, Call(arrived)))
    assert reply.status == 200
    return reply


def post(path, body, **options):
    # Python's reader knows the bare words, as the protocol asks of its clients.
    return json.loads(bytes(call("POST", f"/v1/models/{path}", body, **options).body))


def get(path):
    return json.loads(bytes(call("GET", f"/v1/models/{path}").body))


@pytest.mark.parametrize("path", ["half_plus_two", "half_plus_two/versions/123"])
@pytest.mark.parametrize("verb", [":predict", ":PREDICT"])
def test_predict_in_rows_and_columns(path, verb):
    assert post(path + verb, '{"instances": [1.0, 2.0, 5.0]}') == {"predictions": [2.5, 3.0, 4.5]}
    assert post(path + verb, '{"inputs": [1.0, 2.0, 5.0]}') == {"outputs": [2.5, 3.0, 4.5]}
    assert post(path + verb, '{"instances": [{"x": 1}, {"x": -Infinity}]}') == {"predictions": [2.5, float("-inf")]}
    assert post(path + verb, '{"inputs": {"x": [0.2]}, "other": 1}') == {"outputs": [2.1]}


def test_one_output_has_no_name_and_several_have():
    body = '{"inputs": {"image": [{"b64": "/w=="}, "b"], "caption": ["c", "d"]}}'
    assert post("flowers:predict", body) == {"outputs": {"label": [1, 0], "probabilities": [[0.25, 0.75], [1.0, 0.0]]}}
    assert FLOWERS.requests[-1].inputs["image"].tolist() == [b"\xff", b"b"]
    body = '{"instances": [{"image": "a", "caption": "b"}, {"image": "a", "caption": "b"}]}'
    assert post("flowers:predict", body)["predictions"][1] == {"label": 0, "probabilities": [1.0, 0.0]}


def test_a_model_without_rows_speaks_in_columns():
    assert post("whole:predict", '{"inputs": {"a": [1, 2], "b": 0.5}}') == {"outputs": {"sum": 1.5, "both": [1.5, 2.5]}}
    with pytest.raises(InvalidInput):
        post("whole:predict", '{"instances": [{"a": 1, "b": 0.5}, {"a": 1, "b": 0.5}]}')


def test_the_example_of_the_manual_for_classify():
    body = """{
      "signature_name": "tensorflow/serving/classify",
      "examples": [
        {"image": {"b64": "aW1hZ2UgYnl0ZXM="}, "caption": "seaside"},
        {"image": {"b64": "YXdlc29tZSBpbWFnZSBieXRlcw=="}, "caption": "mountains"}
      ]
    }"""
    answer = post("flowers:classify", body)
    assert answer == {"results": [[["rose", 0.25], ["tulip", 0.75]], [["rose", 1.0], ["tulip", 0.0]]]}
    assert FLOWERS.requests[-1].inputs["image"].tolist() == [b"image bytes", b"awesome image bytes"]


def test_classes_of_the_model_s_own():
    assert post("named:classify", '{"examples": [{"x": 1}, {"x": 2}]}')["results"][0] == [["b", 0.25], ["a", 0.75]]


def test_regress():
    """The example of the manual: the method's own name is a signature."""
    body = '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}'
    assert post("half_plus_two:regress", body) == {"results": [2.5, 3.0]}
    assert np.isnan(post("half_plus_two:regress", '{"context": {"x": NaN}, "examples": [{}]}')["results"]).all()
    with pytest.raises(InvalidInput, match="not one number"):
        post("flowers:regress", '{"examples": [{"image": "a", "caption": "b"}]}')
    with pytest.raises(InvalidInput, match="could be about"):
        post("named:regress", '{"examples": [{"x": 1}]}')
    with pytest.raises(InvalidInput, match="no score for each class"):
        post("half_plus_two:classify", '{"examples": [{"x": 1}]}')


@pytest.mark.parametrize(
    ("verb", "body", "says"),
    [
        ("predict", '{"instances": [1], "signature_name": "other"}', "no signature 'other'"),
        ("predict", '{"instances": [1], "signature_name": "tensorflow/serving/regress"}', "no signature"),
        ("predict", '{"instances": [NaN], "signature_name": "other"}', "no signature 'other'"),
        ("predict", '{"instances": [1], "inputs": [1]}', "both instances and inputs"),
        ("predict", "{}", "neither instances nor inputs"),
        ("predict", '{"instances": []}', "no rows"),
        ("predict", '{"instances": "a"}', "not FP32"),
        ("predict", "", "JSON"),
        ("classify", '{"instances": [1]}', "no examples"),
        ("regress", '{"examples": [{"y": 1}]}', "lacks the feature 'x'"),
    ],
)
def test_a_body_that_does_not_fit_says_why(verb, body, says):
    with pytest.raises(InvalidInput, match=says):
        post(f"half_plus_two:{verb}", body)


@pytest.mark.parametrize("name", ['""', "null", '"serving_default"', '"tensorflow/serving/predict"'])
def test_names_of_the_one_signature(name):
    assert post("half_plus_two:predict", f'{{"signature_name": {name}, "instances": [1]}}') == {"predictions": [2.5]}


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("nothing", NotFound),
        ("half_plus_two/versions/7", NotFound),
        ("half_plus_two/versions/x", NotFound),
        ("half_plus_two/labels/stable", NotFound),
        ("nothing/labels/stable", NotFound),
        ("loading", NotReady),
    ],
)
def test_models_that_are_not_there(path, error):
    with pytest.raises(error):
        post(f"{path}:predict", '{"instances": [1]}')
    with pytest.raises(error):
        get(f"{path}/metadata")


def test_a_label_is_answered_with_a_way_out():
    for path in ("half_plus_two/labels/stable", "half_plus_two/labels/stable/metadata"):
        with pytest.raises(NotFound, match=r"'stable'.*/versions/"):
            get(path)


def test_status():
    good = {"error_code": "OK", "error_message": ""}
    assert get("half_plus_two") == {
        "model_version_status": [
            {"version": "123", "state": "AVAILABLE", "status": good},
            {"version": "12", "state": "END", "status": good},
            {
                "version": "7",
                "state": "END",
                "status": {"error_code": "UNKNOWN", "error_message": "the artifact is cut off"},
            },
        ],
        # KServe asks the same path.
        "name": "half_plus_two",
        "ready": True,
    }
    assert get("half_plus_two/versions/12") == {
        "model_version_status": [{"version": "12", "state": "END", "status": good}]
    }
    assert get("loading")["ready"] is False
    for path in ("nothing", "half_plus_two/versions/99"):
        with pytest.raises(NotFound):
            get(path)


def test_metadata():
    answer = get("flowers/metadata")
    assert answer["model_spec"] == {"name": "flowers", "signature_name": "", "version": "1"}
    definition = answer["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["method_name"] == "tensorflow/serving/predict"
    assert definition["inputs"]["image"]["dtype"] == "DT_STRING"
    assert definition["outputs"]["probabilities"] == {
        "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "2", "name": ""}], "unknown_rank": False},
        "name": "probabilities:0",
    }


def test_the_headers_that_every_protocol_knows():
    headers = {b"rung-timeout-ms": b"1500", b"rung-priority": b"2", b"rung-timing": b"1"}
    reply = call("POST", "/v1/models/half_plus_two:predict", '{"instances": [1]}', headers, arrived=10.0)
    request = HALF.requests[-1]
    assert (request.deadline, request.priority, request.arrived) == (11.5, 2, 10.0)
    name, value = reply.headers[0]
    assert name == b"Server-Timing"
    assert value.startswith(b"parse;dur=")
    call("POST", "/v1/models/half_plus_two:predict", '{"instances": [1]}')
    assert HALF.requests[-1].deadline == NEVER
    with pytest.raises(RungError):
        call("POST", "/v1/models/half_plus_two:predict", '{"instances": [1]}', {b"rung-timeout-ms": b"soon"})


def test_an_output_that_is_missing_is_the_model_s_fault():
    with pytest.raises(ModelError, match="'y'"):
        post("empty:predict", '{"instances": [1]}')


def test_metrics():
    reply = call("GET", "/monitoring/prometheus/metrics")
    assert (reply.media, reply.body) == (b"text/plain", b"page")

"""What clients read before and after they infer: metadata, configuration, statistics, index, health."""

import json
from importlib.resources import files
from typing import Any

import orjson
import pytest
from openapi_spec_validator import validate

from rung.domain.models import Manifest, VersionState, VersionStatus
from rung.domain.predictions import Call, Statistics, Timing
from rung.domain.tensors import Signature, TensorSpec
from rung.protocols.exchange import Head, Reply
from rung.protocols.health import Health
from rung.protocols.oip_metadata import (
    model_config,
    model_metadata,
    model_statistics,
    not_ready,
    repository_index,
    server_metadata,
)
from rung.protocols.oip_rest import OipRest

STATUSES = [
    VersionStatus("a", 1, VersionState.AVAILABLE),
    VersionStatus("b", 2, VersionState.LOADING),
    VersionStatus("c", 3, VersionState.END, "cut off"),
]


def manifest(inputs: dict[str, Any], *, batched: bool = True) -> Manifest:
    specs = tuple(TensorSpec(name, datatype, shape) for name, (datatype, shape) in inputs.items())
    return Manifest("m", 4, "onnx", Signature(specs, specs, batched), artifact="model.onnx")


def test_server_metadata_lists_what_works() -> None:
    value = server_metadata("triton", "1")
    assert value["name"] == "triton"
    assert set(value["extensions"]) == {
        "binary_tensor_data",
        "logging",
        "model_configuration",
        "model_repository",
        "model_repository(unload_dependents)",
        "schedule_policy",
        "statistics",
    }


def test_model_metadata() -> None:
    value = orjson.loads(orjson.dumps(model_metadata(manifest({"x": ("FP32", (-1, 16))}), "p", [1, 4])))
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, 16]}
    assert value == {"name": "m", "versions": ["1", "4"], "platform": "p", "inputs": [tensor], "outputs": [tensor]}


@pytest.mark.parametrize(
    ("shape", "batched", "largest", "dims"),
    [
        ((-1, 16), True, 65536, [16]),
        ((8, 16), True, 8, [16]),
        ((-1, 16), False, 0, [-1, 16]),
        ((-1,), True, 65536, [1]),
    ],
)
def test_config_states_dimensions_of_one_row(shape: Any, batched: bool, largest: int, dims: list[int]) -> None:
    config = model_config(manifest({"x": ("BYTES", shape)}, batched=batched), "onnxruntime_onnx")
    assert config["max_batch_size"] == largest
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    assert config["output"][0]["dims"] == dims
    assert ("reshape" in config["input"][0]) is (len(shape) == 1)
    assert ("dynamic_batching" in config) is batched
    assert (config["backend"], config["platform"]) == ("onnxruntime", "onnxruntime_onnx")


def test_statistics() -> None:
    entry = Statistics("m", 4, inferences=6, executions=2, last=1.5, success=Timing(3, 300), compute=Timing(3, 90))
    entry.batches = {4: Timing(1, 70), 2: Timing(1, 30)}
    (value,) = model_statistics([entry])["model_stats"]
    assert (value["version"], value["last_inference"]) == ("4", 1500)
    assert (value["inference_count"], value["execution_count"]) == (6, 2)
    assert value["inference_stats"]["success"] == {"count": 3, "ns": 300}
    assert value["inference_stats"]["compute_infer"] == {"count": 3, "ns": 90}
    assert [batch["batch_size"] for batch in value["batch_stats"]] == [2, 4]


def test_index_and_readiness_give_reasons() -> None:
    index = repository_index(STATUSES, ready=False)
    assert index[2] == {"name": "c", "version": "3", "state": "UNAVAILABLE", "reason": "cut off"}
    assert [entry["name"] for entry in repository_index(STATUSES, ready=True)] == ["a"]
    assert not_ready(STATUSES) == ["b version 2 is LOADING", "c version 3 is UNAVAILABLE: cut off"]


def call(routes: list[Any], path: str) -> Reply:
    (endpoint,) = [route.endpoint for route in routes if route.pattern == path]
    answer = endpoint(Head("GET", path, "", {}), b"", Call())
    with pytest.raises(StopIteration) as stop:
        answer.send(None)
    return stop.value.value


def test_probes_and_metrics() -> None:
    problems: list[str] = []
    routes = Health(lambda: problems, lambda _: (b"text/plain", b"up 1\n")).routes()
    assert call(routes, "/livez").status == 200
    assert call(routes, "/readyz").body == b'{"ready":true}'
    assert call(routes, "/metrics") == Reply(200, b"up 1\n", b"text/plain")
    problems.append("m: cut off")
    reply = call(routes, "/readyz")
    assert (reply.status, reply.headers) == (503, ((b"retry-after", b"1"),))
    assert orjson.loads(reply.body) == {"ready": False, "error": "m: cut off", "problems": ["m: cut off"]}


def test_the_document_is_valid_and_lists_every_route() -> None:
    text = files("rung.protocols").joinpath("open_inference.json").read_bytes()
    document = json.loads(text)
    validate(document)
    routes = OipRest(None, version="1").routes()  # type: ignore[arg-type]
    have = {(route.method.lower(), route.pattern) for route in routes}
    assert have == {
        (method, path) for path, item in document["paths"].items() for method in item if method in ("get", "post")
    }
    assert call(routes, "/v2/openapi.json").body == text

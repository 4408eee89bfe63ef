"""The examples of TF Serving's REST manual, word for word, against a real server.

Its own client for REST is curl: there is no package. The load generator that knows TF Serving, perf_analyzer, speaks
only gRPC to it. Bodies are sent as the manual's `curl -d` does, content type included.
"""

import json
import urllib.error
import urllib.request

import pytest
from onnx import TensorProto, helper, save
from prometheus_client.parser import text_string_to_metric_families

from rung.testing import models


def ask(url, body=None):
    """Status and JSON, by a reader that knows the bare words."""
    request = urllib.request.Request(url, None if body is None else body.encode())
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def three_inputs(path):
    """The model that the manual's page has in mind: tag, signal and sensor, handed back."""
    shapes = {"tag": (TensorProto.STRING, ["N"]), "signal": (TensorProto.INT64, ["N", 5])}
    shapes["sensor"] = (TensorProto.FLOAT, ["N", 2, 2])
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in shapes],
        "three",
        [helper.make_tensor_value_info(name, *port) for name, port in shapes.items()],
        [helper.make_tensor_value_info(f"{name}_out", *port) for name, port in shapes.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.fixture
def url(serve, tmp_path):
    targets = models.half_plus_two(tmp_path / "half_plus_two.onnx"), three_inputs(tmp_path / "three.onnx")
    return serve(*targets, models.tiny(tmp_path / "tiny.onnx")).url


def test_the_example_at_the_end_of_the_manual(url):
    status, answer = ask(f"{url}/v1/models/half_plus_two")
    assert status == 200
    assert answer["model_version_status"] == [
        {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    ]
    model = f"{url}/v1/models/half_plus_two"
    assert ask(f"{model}:predict", '{"instances": [1.0,2.0,5.0]}') == (200, {"predictions": [2.5, 3.0, 4.5]})
    body = '{"signature_name": "tensorflow/serving/regress", "examples": [{"x": 1.0}, {"x": 2.0}]}'
    assert ask(f"{model}:regress", body) == (200, {"results": [2.5, 3.0]})
    status, answer = ask(f"{url}/v1/models/half:predict", '{"instances": [1.0,5.0]}')
    assert status == 404
    assert list(answer) == ["error"]


def test_the_manual_s_rows_and_columns_say_the_same(url):
    rows = """{
     "instances": [
       {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
       {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]}
     ]
    }"""
    columns = """{
     "inputs": {
       "tag": ["foo", "bar"],
       "signal": [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]],
       "sensor": [[[1, 2], [3, 4]], [[4, 5], [6, 8]]]
     }
    }"""
    status, by_row = ask(f"{url}/v1/models/three:predict", rows)
    assert status == 200
    assert by_row["predictions"][1] == {"tag_out": "bar", "signal_out": [3, 4, 1, 2, 5], "sensor_out": [[4, 5], [6, 8]]}
    status, by_column = ask(f"{url}/v1/models/three:predict", columns)
    assert status == 200
    assert by_column["outputs"] == {
        name: [row[name] for row in by_row["predictions"]] for name in ("tag_out", "signal_out", "sensor_out")
    }


def test_bare_words_go_through_a_real_model(url):
    status, answer = ask(f"{url}/v1/models/half_plus_two:predict", '{"instances": [1.0, -Infinity, NaN, Infinity]}')
    assert status == 200
    assert str(answer["predictions"]) == "[2.5, -inf, nan, inf]"


def test_classify_gives_a_score_for_each_class(url):
    status, answer = ask(f"{url}/v1/models/tiny:classify", json.dumps({"examples": [{"x": [0.5] * 16}] * 2}))
    assert status == 200
    assert len(answer["results"]) == 2
    assert [label for label, _ in answer["results"][0]] == ["", "", ""]
    assert sum(score for _, score in answer["results"][0]) == pytest.approx(1)


def test_errors_have_the_protocol_s_shape(url):
    model = f"{url}/v1/models/half_plus_two"
    for path, body, status in (
        (":predict", '{"instances": ["a"]}', 400),
        (":predict", '{"instances": [1], "signature_name": "other"}', 400),
        (":predict", "{", 400),
        (":other", "{}", 405),
        ("/labels/stable:predict", '{"instances": [1]}', 404),
        ("/versions/9:predict", '{"instances": [1]}', 404),
        ("/versions/1:predict", '{"instances": [1]}', 200),
        ("/versions/1:Predict", '{"instances": [1]}', 200),
    ):
        found, answer = ask(model + path, body)
        assert found == status, path
        assert list(answer) == (["predictions"] if status == 200 else ["error"])


def test_metadata_and_metrics(url):
    status, answer = ask(f"{url}/v1/models/half_plus_two/metadata")
    assert status == 200
    assert "x" in answer["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert ask(f"{url}/v1/models/half_plus_two:predict", '{"instances": [1.0]}')[0] == 200
    with urllib.request.urlopen(f"{url}/monitoring/prometheus/metrics", timeout=30) as reply:
        families = {family.name: family for family in text_string_to_metric_families(reply.read().decode())}
    counts = {
        sample.labels["status"]: sample.value
        for sample in families[":tensorflow:serving:request_count"].samples
        if sample.labels["model_name"] == "half_plus_two"
    }
    assert counts["OK"] == 1
    assert families[":tensorflow:serving:request_latency"].type == "histogram"

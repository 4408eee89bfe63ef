"""KServe's protocol v1 against a real server, with the bodies of its documentation.

KServe's own client needs packages that would move ours, so it is not here; what it sends and reads is.
"""

import json
import urllib.error
import urllib.request

import pytest

from rung.testing import models


def ask(url, body=None):
    """Status and JSON; bodies go as KServe's client sends them."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


@pytest.fixture
def url(serve, tmp_path):
    return serve(models.scale(tmp_path / "iris.onnx", 2.0), models.add_sub(tmp_path / "simple.onnx")).url


def test_the_iris_example(url):
    """The input of KServe's first example: two flowers of four measures."""
    body = {"instances": [[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]]}
    status, answer = ask(f"{url}/v1/models/iris:predict", body)
    assert status == 200
    assert answer["predictions"] == [pytest.approx([2 * one for one in row]) for row in body["instances"]]


def test_several_inputs_are_objects(url):
    row = {"INPUT0": list(range(16)), "INPUT1": [1] * 16}
    status, answer = ask(f"{url}/v1/models/simple:predict", {"instances": [row, row]})
    assert status == 200
    assert answer["predictions"][1]["OUTPUT0"] == [one + 1 for one in range(16)]


def test_what_the_client_asks_first(url):
    assert ask(url)[1]["status"] == "alive"
    assert ask(f"{url}/v1/models") == (200, {"models": ["iris", "simple"]})
    status, answer = ask(f"{url}/v1/models/iris")
    assert (status, answer["name"], answer["ready"]) == (200, "iris", True)
    status, answer = ask(f"{url}/v1/models/nothing")
    assert (status, list(answer)) == (404, ["error"])


def test_nothing_explains(url):
    status, answer = ask(f"{url}/v1/models/iris:explain", {"instances": [[6.8, 2.8, 4.8, 1.4]]})
    assert status == 501
    assert ":predict" in answer["error"]

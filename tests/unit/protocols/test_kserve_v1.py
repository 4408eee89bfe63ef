"""What KServe's protocol v1 has besides TF Serving's."""

import asyncio

import orjson
import pytest

from rung.domain.errors import NotFound, Unsupported
from rung.domain.models import VersionState, VersionStatus
from rung.domain.predictions import Call
from rung.protocols.exchange import Head
from rung.protocols.kserve_v1 import KserveV1
from rung.protocols.router import Router
from rung.protocols.tfserving import TfServing


class Models:
    """A directory in memory that finds `there`."""

    def find(self, name, version=None, call=None):
        if name != "there":
            raise NotFound(f"unknown model {name!r}")

    def statuses(self):
        return [
            VersionStatus("there", 1, VersionState.END, "unloaded"),
            VersionStatus("there", 2, VersionState.AVAILABLE),
            VersionStatus("coming", 1, VersionState.LOADING),
            VersionStatus("gone", 1, VersionState.END, "unloaded"),
        ]


def call(method, path):
    models = Models()
    # Both doors at once: neither may take the other's paths.
    router = Router([*KserveV1(models).routes(), *TfServing(models, lambda: (b"", b"")).routes()])
    head = Head(method, path, "", {})
    router.resolve(head, path)
    return orjson.loads(asyncio.run(head.endpoint(head, b'{"instances": [1]}', Call())).body)


def test_models_are_listed():
    assert call("GET", "/v1/models") == {"models": ["coming", "there"]}


@pytest.mark.parametrize(("name", "ready"), [("there", True), ("coming", False), ("gone", False)])
def test_readiness_stands_beside_tf_serving_s_status(name, ready):
    answer = call("GET", f"/v1/models/{name}")
    assert (answer["name"], answer["ready"]) == (name, ready)
    assert answer["model_version_status"]


def test_nothing_explains():
    with pytest.raises(Unsupported, match="no explainers"):
        call("POST", "/v1/models/there:explain")
    with pytest.raises(NotFound):
        call("POST", "/v1/models/nothing:explain")

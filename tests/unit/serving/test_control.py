import asyncio
from pathlib import Path

import pytest

from rung.app.replica import Replica, may_control
from rung.domain.errors import InvalidInput, NotFound, Unsupported
from rung.serving.control import Control, below
from rung.settings import ServeSettings


def test_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    assert below(str(tmp_path), "m.onnx") == str(tmp_path.resolve() / "m.onnx")
    assert below(str(tmp_path), f"file://{tmp_path.resolve()}/m.onnx") == str(tmp_path.resolve() / "m.onnx")
    with pytest.raises(NotFound):
        below(str(tmp_path), "module:Class")
    with pytest.raises(Unsupported):
        below("", "m.onnx")


@pytest.mark.parametrize(
    "target", ["", ".", "..", "a/../../b", "%2e%2e/b", "/etc/passwd", "s3://b/m", "http://h/m", "a\0b"]
)
def test_outside_a_folder(tmp_path: Path, target: str) -> None:
    with pytest.raises(InvalidInput):
        below(str(tmp_path), target)


def test_below_a_url() -> None:
    assert below("s3://bucket/models", "iris") == "s3://bucket/models/iris"
    assert below("s3://bucket/models/", "s3://bucket/models/iris") == "s3://bucket/models/iris"
    for target in (
        "s3://bucket/modelsX/iris",
        "s3://other/models/iris",
        "s3://bucket/models/",
        "../x",
        "a?b",
        "file:///etc",
    ):
        with pytest.raises(InvalidInput):
            below("s3://bucket/models", target)


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "example.org"}, False),
        ({"host": "0.0.0.0", "model_store": "/models"}, True),
        ({"host": "0.0.0.0", "model_control": "on"}, True),
        ({"model_control": "off"}, False),
    ],
)
def test_requests_change_models_only_where_nobody_else_can_ask(settings: dict[str, str], allowed: bool) -> None:
    replica = Replica([], ServeSettings(**settings))
    control = Control(replica.manager, "", Path("cache"), allowed=may_control(replica.settings))
    expected = NotFound if allowed else Unsupported
    with pytest.raises(expected):
        asyncio.run(control.unload("nobody"))

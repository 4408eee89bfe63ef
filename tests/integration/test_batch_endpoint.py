"""Many items in one call, against a real replica in this process."""

import asyncio
import json
from pathlib import Path

import httpx2
import numpy as np
import pytest

from rung.app.replica import Replica
from rung.catalog.source import open_source
from rung.settings import ServeSettings
from rung.testing import models


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    path = tmp_path / "poison.onnx"
    models.poison(path)
    return path


async def post(artifact: Path, *bodies: object, headers: dict[str, str] | None = None) -> list[httpx2.Response]:
    replica = Replica([open_source(str(artifact), None, artifact.parent / "cache")], ServeSettings(port=0))
    await replica.open()
    try:
        async with httpx2.AsyncClient() as client:
            url = f"{replica.url}/predict/{artifact.stem}/batch"
            return [
                await client.post(
                    url, content=json.dumps(body), headers={"content-type": "application/json"} | (headers or {})
                )
                for body in bodies
            ]
    finally:
        await replica.close()


def rows(artifact: Path, values: list[float]) -> list[list[float]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
    width = session.get_inputs()[0].shape[1]
    return [[value] * width for value in values]


def test_answers_keep_order_and_number_and_duplicates_are_computed_once(artifact):
    items = rows(artifact, [3, 1, 3, 2, 3, 1])
    (reply,) = asyncio.run(post(artifact, {"items": items}))
    predictions = reply.json()["predictions"]
    assert reply.status_code == 200
    assert len(predictions) == 6
    assert predictions[0] == predictions[2] == predictions[4]
    assert predictions[1] == predictions[5] != predictions[0]
    assert reply.headers["rung-computed"] == "3"
    (single,) = asyncio.run(post(artifact, [items[3]]))
    np.testing.assert_allclose(predictions[3], single.json()["predictions"][0], rtol=1e-6)


def test_a_bad_item_fails_alone(artifact):
    items: list[object] = rows(artifact, [1, 2e30, 2])
    items += [["not", "numbers"], [1], None]
    (reply,) = asyncio.run(post(artifact, items))
    predictions = reply.json()["predictions"]
    assert reply.status_code == 200
    failed = [isinstance(one, dict) and "error" in one for one in predictions]
    assert failed == [False, True, False, True, True, True]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ([], 400, "one at least"),
        ({"rows": [[1]]}, 400, '{"items": [...]}'),
        ("text", 400, "JSON array"),
        ([[1]] * 10_001, 413, "10000"),
    ],
)
def test_a_body_that_is_no_list_of_items_is_refused_whole(artifact, body, status, words):
    (reply,) = asyncio.run(post(artifact, body))
    assert reply.status_code == status
    assert words in reply.json()["error"]

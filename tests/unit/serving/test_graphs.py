import asyncio
from time import monotonic

import numpy as np
import pytest

from rung.domain.errors import DeadlineExceeded, InvalidInput, ModelError, NotFound
from rung.domain.models import Graph, Manifest, Node
from rung.domain.predictions import NEVER, Request, Response
from rung.domain.tensors import Signature, TensorSpec
from rung.serving.graphs import GraphPredictor

SPEC = (TensorSpec("x", "FP32", (-1, 1)),)


class Step:
    """A served model that adds a number, remembering what it was asked."""

    platform = "test"

    def __init__(self, name: str, plus: float) -> None:
        self.manifest = Manifest(name, 1, "test", Signature(SPEC, (TensorSpec("y", "FP32", (-1, 1)),)))
        self.plus = plus
        self.requests: list[Request] = []
        self.running = 0
        self.most = 0

    async def predict(self, request: Request) -> Response:
        self.requests.append(request)
        if request.deadline <= monotonic():
            raise DeadlineExceeded
        if (request.inputs["x"] < 0).any():
            raise ModelError("negative")
        await asyncio.sleep(0)
        return Response(self.manifest.name, 1, {"y": request.inputs["x"] + np.float32(self.plus)}, 0.001, 0.002)


MODELS = {name: Step(name, plus) for name, plus in (("one", 1), ("ten", 10), ("hundred", 100))}


def find(name: str, version: int | None) -> Step:
    if name not in MODELS:
        raise NotFound(f"unknown model {name}")
    return MODELS[name]


def ask(graph: Graph, *values: float, deadline: float = NEVER, **more: object) -> Response:
    inputs = {"x": np.array([[value] for value in values], np.float32)} | more
    predictor = GraphPredictor("g", 7, graph, find)
    request = Request(inputs, len(values), deadline=deadline, priority=2, arrived=monotonic())
    for model in MODELS.values():
        model.requests.clear()
    response = asyncio.run(_await(predictor, request))
    assert predictor.inflight == 0
    return response


async def _await(predictor: GraphPredictor, request: Request) -> Response:
    return await predictor(request)


def test_a_sequence_feeds_one_model_with_anothers_answer():
    graph = Graph("sequence", (Node("one", outputs={"y": "a"}), Node("ten", inputs={"x": "a"}, outputs={"y": "b"})))
    response = ask(graph, 1, 2)
    assert response.outputs["b"].tolist() == [[12], [13]]
    assert list(response.outputs) == ["b"]
    assert (response.model, response.version) == ("g", 7)
    assert [name for name, _, _ in response.steps] == ["one", "ten"]
    assert MODELS["ten"].requests[0].priority == 2


def test_the_deadline_goes_with_every_step():
    graph = Graph("sequence", (Node("one", outputs={"y": "a"}), Node("ten", inputs={"x": "a"})))
    due = monotonic() + 60
    ask(graph, 1, deadline=due)
    assert [MODELS[name].requests[0].deadline for name in ("one", "ten")] == [due, due]
    with pytest.raises(DeadlineExceeded, match=r"^one: "):
        ask(graph, 1, deadline=monotonic() - 1)
    assert MODELS["ten"].requests == []


def test_an_ensemble_is_the_weighted_mean():
    graph = Graph("ensemble", (Node("one", weight=3), Node("ten"), Node("hundred", weight=0)))
    np.testing.assert_allclose(ask(graph, 0, 2).outputs["y"], [[3.25], [5.25]])


def test_a_switch_leads_each_row_to_its_model_and_puts_the_rows_back_in_order():
    graph = Graph("switch", (Node("one", case=("a", "7")), Node("hundred")), on="kind")
    kinds = np.array([[b"a"], [b"b"], [b"a"], ["7"]], object)
    assert ask(graph, 1, 2, 3, 4, kind=kinds).outputs["y"].tolist() == [[2], [102], [4], [5]]
    assert MODELS["one"].requests[0].rows == 3
    numbers = np.array([[7], [8]], np.int64)
    assert ask(graph, 1, 2, kind=numbers).outputs["y"].tolist() == [[2], [102]]
    with pytest.raises(InvalidInput, match="must be one of"):
        ask(Graph("switch", graph.nodes[:1], on="kind"), 1, kind=np.array([[b"b"]], object))


def test_a_failing_step_is_named_and_fails_its_request_only():
    graph = Graph("ensemble", (Node("one"), Node("ten")))
    with pytest.raises(ModelError, match=r"^one: negative"):
        ask(graph, -1)
    with pytest.raises(NotFound, match="unknown model gone"):
        ask(Graph("sequence", (Node("gone"),)), 1)
    assert ask(graph, 1).outputs["y"].tolist() == [[6.5]]

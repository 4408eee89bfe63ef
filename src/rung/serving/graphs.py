"""A graph of models answering as one: sequence, ensemble, switch. A `Predictor` over other predictors.

The request's deadline and priority go with every step, so what is late anywhere is late as a whole.
"""

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

import numpy as np

from rung.domain.errors import InvalidInput, RungError
from rung.domain.graphs import given, taken, waves
from rung.domain.models import Graph, Node
from rung.domain.predictions import Payload, Request, Response
from rung.domain.tensors import Array, Tensors
from rung.ports import Served
from rung.serving.cost import CostModel
from rung.serving.recorder import Recorder

__all__ = ["GraphPredictor"]

Step = tuple[str, float, float]


class GraphPredictor:
    """Answers by the models that `find` gives, looked up anew for each request.

    Stands where a model's batcher stands: it counts handles and records answers in the same way.
    """

    def __init__(self, name: str, version: int, graph: Graph, find: Callable[[str, int | None], Served]) -> None:
        self.name = name
        self.version = version
        self.graph = graph
        self.recorder = Recorder(name, version)
        self.cost = CostModel()
        """Of the graph itself, which computes nothing."""
        self.lanes = 1
        self.inflight = 0
        self.on_idle: Callable[[], None] | None = None
        self._find = find

    async def __call__(self, request: Request) -> Response:
        """Answer one request.

        Raises:
            NotReady, NotFound: a model of the graph does not answer now; the message names it.
            RungError: whatever a step raised, named after its model.
        """
        self.inflight += 1
        began = monotonic()
        steps: list[Step] = []
        run = {"sequence": self._sequence, "ensemble": self._ensemble, "switch": self._switch}[self.graph.kind]
        try:
            values = await run(request, steps)
        except Exception as error:
            self.recorder.failed(error, monotonic() - request.arrived)
            raise
        finally:
            self.release()
        finished = monotonic()
        self.recorder.call(request.rows, finished - began, "idle")
        self.recorder.answered(began - request.arrived, finished - began, finished - request.arrived)
        outputs = {name: values[name] for name in request.outputs} if request.outputs else values
        queued = began - request.arrived
        return Response(self.name, self.version, outputs, queued, finished - began, request.rows, tuple(steps))

    def release(self) -> None:
        """Give back a handle that was taken by adding to `inflight`."""
        self.inflight -= 1
        if not self.inflight and self.on_idle is not None:
            self.on_idle()

    def admit(self, payload: Payload, before: float = 0.0) -> None:
        """Let everything in: the models turn away what would wait for too long."""

    def expect(self, priority: int, rows: int) -> None:
        """Nothing: a graph itself has no queue."""

    def wait(self, priority: int = 0) -> float:
        """Seconds until a request would start: a graph itself has no queue."""
        return 0.0

    def close(self) -> None:
        """Nothing is held."""

    # --- the three kinds ----------------------------------------------------------------------

    async def _sequence(self, request: Request, steps: list[Step]) -> Tensors:
        nodes = self.graph.nodes
        served = [self._find(node.model, node.version) for node in nodes]
        signatures = [one.manifest.signature for one in served]
        needs = [taken(node, signature) for node, signature in zip(nodes, signatures, strict=True)]
        makes = [given(node, signature) for node, signature in zip(nodes, signatures, strict=True)]
        values: dict[str, Array] = dict(request.inputs)
        for wave in waves([set(need.values()) for need in needs], [set(make.values()) for make in makes]):
            calls = [
                self._step(
                    nodes[at], served[at], {name: values[value] for name, value in needs[at].items()}, request, steps
                )
                for at in wave
            ]
            for at, response in zip(wave, await _all(calls), strict=True):
                values |= {makes[at][name]: array for name, array in response.outputs.items()}
        used = {value for need in needs for value in need.values()}
        made = {value for make in makes for value in make.values()}
        wanted = self.graph.outputs or tuple(value for value in values if value in made and value not in used)
        return {name: values[name] for name in wanted}

    async def _ensemble(self, request: Request, steps: list[Step]) -> Tensors:
        nodes = self.graph.nodes
        served = [self._find(node.model, node.version) for node in nodes]
        answers = await _all(
            [
                self._step(node, one, _inputs(node, one, request), request, steps)
                for node, one in zip(nodes, served, strict=True)
            ]
        )
        total = sum(node.weight for node in nodes)
        mean: dict[str, Array] = {}
        for node, one, answer in zip(nodes, served, answers, strict=True):
            for name, value in given(node, one.manifest.signature).items():
                share = answer.outputs[name] * answer.outputs[name].dtype.type(node.weight / total)
                mean[value] = share if value not in mean else mean[value] + share
        return {name: mean[name] for name in self.graph.outputs or mean}

    async def _switch(self, request: Request, steps: list[Step]) -> Tensors:
        picked = _rows_by_case(request.inputs[self.graph.on], self.graph)
        nodes = [self.graph.nodes[at] for at in picked]
        served = [self._find(node.model, node.version) for node in nodes]
        calls = []
        for node, one, rows in zip(nodes, served, picked.values(), strict=True):
            inputs = {name: array[rows] for name, array in _inputs(node, one, request).items()}
            calls.append(self._step(node, one, inputs, request, steps, len(rows)))
        merged: dict[str, Array] = {}
        for node, one, rows, answer in zip(nodes, served, picked.values(), await _all(calls), strict=True):
            for name, value in given(node, one.manifest.signature).items():
                array = answer.outputs[name]
                if value not in merged:
                    merged[value] = np.empty((request.rows, *array.shape[1:]), array.dtype)
                elif merged[value].shape[1:] != array.shape[1:]:
                    raise InvalidInput(f"the rows of one request lead to answers of different shapes in {value!r}")
                merged[value][rows] = array
        return {name: merged[name] for name in self.graph.outputs or merged}

    async def _step(
        self, node: Node, served: Served, inputs: Tensors, request: Request, steps: list[Step], rows: int = 0
    ) -> Response:
        now = monotonic()
        try:
            served.manifest.signature.check(inputs)
            response = await served.predict(
                Request(inputs, rows or request.rows, (), request.deadline, request.priority, now)
            )
        except RungError as error:
            error.args = (f"{node.model}: {error}",)
            raise
        steps.append((node.model, response.queued, response.computed))
        return response


def _inputs(node: Node, served: Served, request: Request) -> Tensors:
    return {name: request.inputs[value] for name, value in taken(node, served.manifest.signature).items()}


def _rows_by_case(values: Array, graph: Graph) -> dict[int, Array]:
    """Node -> rows of the request that it answers."""
    cases = {case: at for at, node in enumerate(graph.nodes) for case in node.case}
    default = next((at for at, node in enumerate(graph.nodes) if not node.case), None)
    rows: dict[int, list[int]] = {}
    for row, value in enumerate(values.reshape(len(values), -1)[:, 0].tolist()):
        text = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        at = cases.get(text, default)
        if at is None:
            raise InvalidInput(f"{graph.on!r} is {text!r:.60}; it must be one of {sorted(cases)}", field=graph.on)
        rows.setdefault(at, []).append(row)
    return {at: np.array(members) for at, members in rows.items()}


async def _all(calls: list[Coroutine[Any, Any, Response]]) -> list[Response]:
    """Run steps side by side; the first failure ends the others, which nobody wants any more."""
    if len(calls) == 1:
        return [await calls[0]]
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()

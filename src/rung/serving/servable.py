"""One loaded version: what answers when a door has found it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from time import monotonic
from typing import Any, Protocol

from rung.domain.models import Manifest
from rung.domain.predictions import LOWEST, Answer, Payload, Request, Response
from rung.ports import Model, Predictor
from rung.serving.batcher import Batcher
from rung.serving.coalesce import Coalescer
from rung.serving.graphs import GraphPredictor
from rung.transforms.pipeline import Pipeline

__all__ = ["Copies", "Servable", "Wrap"]

Wrap = Callable[["Servable", Predictor], Predictor]
"""Puts something round what answers for a version."""


class Copies(Protocol):
    """Whatever gets a copy of each request."""

    def wrap(self, live: "Servable", inner: Predictor) -> Predictor:
        """`inner`, with copies."""
        ...


class Servable:
    """`ports.Served`: a model with its batcher and its bundle's transforms."""

    __slots__ = (
        "_pool",
        "base",
        "batcher",
        "coalescer",
        "digest",
        "log",
        "manifest",
        "model",
        "pipeline",
        "platform",
        "predict",
    )

    def __init__(
        self,
        manifest: Manifest,
        digest: str,
        model: Model | None,
        batcher: Batcher | GraphPredictor,
        pipeline: Pipeline,
        pool: Executor,
    ) -> None:
        self.manifest = manifest
        self.digest = digest
        self.model = model
        """None for a graph, whose models are other servables."""
        self.platform = "ensemble" if model is None else model.platform
        self.batcher = batcher
        self.pipeline = pipeline
        self.coalescer: Coalescer | None = None
        self.base: Predictor = batcher.__call__
        """What computes: the batcher, or what was put round it for good."""
        self.log: Wrap | None = None
        """What is put round everything else, where answers are logged."""
        self.predict: Predictor = self.base
        """The `Predictor` that doors call; no frame of ours in between where nothing is wanted there."""
        self._pool = pool

    def compose(self, mirror: Copies | None = None) -> None:
        """Put `predict` together anew: what computes, copies for a shadow, and the log round both."""
        predict = self.base if mirror is None else mirror.wrap(self, self.base)
        self.predict = predict if self.log is None else self.log(self, predict)

    async def respond(self, payload: Payload, accept: tuple[str, ...]) -> Answer:
        """Run the bundle's transforms round the model.

        Raises:
            NotAcceptable: the task cannot give any of the accepted media types.
            InvalidInput: the payload does not fit the transforms or the model.
        """
        pipeline = self.pipeline
        # Before any work: nobody should wait for an answer that cannot be given.
        items = len(payload.value) if payload.kind == "image" and isinstance(payload.value, list) else 1
        media = pipeline.negotiate(accept, items)
        if payload.priority == LOWEST:
            # Nor should others wait for the transforms of what can wait.
            self.batcher.admit_lowest()
        # The handle covers the transforms too: this version must not go between them and the model.
        self.batcher.inflight += 1
        try:
            began = monotonic()
            prepared = await self._run(pipeline.prepare, payload)
            ready = monotonic()
            response: Response = await self.predict(
                Request(
                    prepared.inputs,
                    prepared.rows,
                    deadline=payload.deadline,
                    priority=payload.priority,
                    arrived=payload.arrived,
                    call=payload.call,
                )
            )
            answered = monotonic()
            media, body = await self._run(_finish, pipeline, response, prepared, media)
        finally:
            self.batcher.release()
        return Answer(
            media,
            body,
            response.model,
            response.version,
            prepared=ready - began,
            queued=response.queued,
            computed=response.computed,
            finished=monotonic() - answered,
            steps=response.steps,
        )

    async def _run(self, call: Any, *arguments: Any) -> Any:
        if self.pipeline.cheap:
            return call(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)


def _finish(pipeline: Pipeline, response: Response, prepared: Any, media: str) -> tuple[str, bytes]:
    results = pipeline.finish(response.outputs, prepared)
    return pipeline.content_type(results, media), pipeline.render(results, media)

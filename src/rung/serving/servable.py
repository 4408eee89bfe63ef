"""One loaded version: what answers when a door has found it."""

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Protocol, runtime_checkable

from rung.domain.errors import Overloaded
from rung.domain.models import Manifest
from rung.domain.predictions import LOWEST, Answer, Payload, Request, Response
from rung.domain.tensors import Tensors
from rung.ports import Model, Predictor
from rung.serving.batcher import Batcher
from rung.serving.coalesce import Coalescer
from rung.serving.graphs import GraphPredictor
from rung.serving.transforming import Pace, TransformPool
from rung.transforms.pipeline import Pipeline, Prepared

__all__ = ["Copies", "Servable", "Witness", "Wrap"]

Wrap = Callable[["Servable", Predictor], Predictor]
"""Puts something round what answers for a version."""


class Copies(Protocol):
    """Whatever gets a copy of each request."""

    def wrap(self, live: "Servable", inner: Predictor) -> Predictor:
        """`inner`, with copies."""
        ...


@runtime_checkable
class Witness(Protocol):
    """A `Predictor` that keeps account of what was refused before it was asked, too."""

    def refused(self, request: Request, error: Exception) -> None:
        """Take note of a request that never became tensors: its inputs are empty."""
        ...


class Servable:
    """`ports.Served`: a model with its batcher and its bundle's transforms."""

    __slots__ = (
        "_finishing",
        "_pool",
        "_preparing",
        "base",
        "batcher",
        "coalescer",
        "digest",
        "knows",
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
        pool: TransformPool,
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
        self.knows = False
        """Whether an answer may be had without computing: it is kept, or another's is on its way."""
        self.log: Wrap | None = None
        """What is put round everything else, where answers are logged."""
        self.predict: Predictor = self.base
        """The `Predictor` that doors call; no frame of ours in between where nothing is wanted there."""
        self._pool = pool
        self._preparing, self._finishing = Pace(), Pace()

    def compose(self, mirror: Copies | None = None) -> None:
        """Put `predict` together anew: what computes, copies for a shadow, and the log round both."""
        predict = self.base if mirror is None else mirror.wrap(self, self.base)
        self.predict = predict if self.log is None else self.log(self, predict)

    async def respond(self, payload: Payload, accept: tuple[str, ...]) -> Answer:
        """Run the bundle's transforms round the model.

        Raises:
            NotAcceptable: the task cannot give any of the accepted media types.
            InvalidInput: the payload does not fit the transforms or the model.
            Overloaded: its turn would come too late, which is known before the transforms run.
        """
        pipeline, batcher = self.pipeline, self.batcher
        # Before any work: nobody should wait for an answer that cannot be given.
        items = len(payload.value) if isinstance(payload.value, list) else 1
        media = pipeline.negotiate(accept, items if payload.kind == "image" else 1)
        admitted = not pipeline.cheap and self._admit(payload, items)
        # The handle covers the transforms too: this version must not go between them and the model.
        batcher.inflight += 1
        try:
            began = monotonic()
            prepared = await self._prepare(payload, items)
            ready = monotonic()
            request = _request(payload, prepared.inputs, prepared.rows)
            request.admitted = admitted
            response: Response = await self.predict(request)
            answered = monotonic()
            media, body = await self._render(response, prepared, media)
        finally:
            batcher.release()
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

    async def _prepare(self, payload: Payload, rows: int) -> Prepared:
        """Run the input transforms; who comes meanwhile waits for these rows, too."""
        if self.pipeline.cheap:
            return self.pipeline.prepare(payload)
        self.batcher.expect(payload.priority, rows)
        try:
            return await self._pool.run(self._preparing, rows, partial(self.pipeline.prepare, payload))
        finally:
            self.batcher.expect(payload.priority, -rows)

    def _admit(self, payload: Payload, rows: int) -> bool:
        """Refuse before the transforms, which cost more than that, what would be refused after them.

        Whether it was let in for good: where its answer may be known, that is decided after the transforms.
        """
        if self.knows and payload.priority != LOWEST:
            return False
        try:
            self.batcher.admit(payload, self._pool.wait())
        except Overloaded as error:
            if isinstance(self.predict, Witness):
                self.predict.refused(_request(payload, {}, rows), error)
            raise
        return True

    async def _render(self, response: Response, prepared: Prepared, media: str) -> tuple[str, bytes]:
        if self.pipeline.cheap:
            return _finish(self.pipeline, response, prepared, media)
        finish = partial(_finish, self.pipeline, response, prepared, media)
        return await self._pool.run(self._finishing, prepared.rows, finish)


def _request(payload: Payload, inputs: Tensors, rows: int) -> Request:
    return Request(inputs, rows, (), payload.deadline, payload.priority, payload.arrived, payload.call)


def _finish(pipeline: Pipeline, response: Response, prepared: Prepared, media: str) -> tuple[str, bytes]:
    results = pipeline.finish(response.outputs, prepared)
    return pipeline.content_type(results, media), pipeline.render(results, media)

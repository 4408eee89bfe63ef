"""A candidate answers copies of what the live version is asked, and nobody waits for it.

One thread of the lowest priority computes and compares, so the scheduler gives it what the live version leaves. A
copy is dropped when the live version has a queue, or when a few are waiting already: under load the shadow goes first.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from math import inf
from time import perf_counter, time

import numpy as np

from rung.domain.errors import RungError, Unsupported
from rung.domain.predictions import Request, Response
from rung.domain.records import CONSTANT, NOT_FINITE, ShadowRecord
from rung.domain.tensors import Array, Tensors
from rung.ports import Predictor
from rung.serving.servable import Servable

__all__ = ["Mirror", "difference"]

_WAITING = 4
"""Copies that may wait; each holds its request's tensors."""
_LOWEST = 19
_RTOL, _ATOL = 1e-3, 1e-4
"""As golden examples are compared."""


class Mirror:
    """Copies of one model's requests for one candidate.

    Guarantees:
        1. Nobody waits for a copy, and whatever the candidate does changes nothing about the live answer.
        2. At most `_WAITING` copies are held; the others are counted in `shed`.
        3. The candidate is not unloaded while a copy is being computed.
    """

    def __init__(self, candidate: Servable, report: Callable[[ShadowRecord], object]) -> None:
        self.candidate = candidate
        self._report = report
        self.shed = 0
        self._held = 0
        """Copies that wait or are being computed; written on the event loop alone."""
        self.compared = 0
        """Copies that are finished; written by the thread alone, as are the two below."""
        self.differing = 0
        self.failed = 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="rung-shadow", initializer=_step_back)

    def wrap(self, live: Servable, inner: Predictor) -> Predictor:
        """`inner`, with a copy of each request for the candidate."""

        async def predict(request: Request) -> Response:
            response: Response = await inner(request)
            if request.call is not None:
                self._offer(live, request, response)
            return response

        return predict

    def _offer(self, live: Servable, request: Request, response: Response) -> None:
        if self._held >= _WAITING or live.batcher.wait() > 0:
            self.shed += 1
            return
        loop = asyncio.get_running_loop()

        def done(copy: "Future[None]") -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody counts any more
                loop.call_soon_threadsafe(self._release)

        try:
            copy = self._pool.submit(self._compare, request, response)
        except RuntimeError:
            self.shed += 1  # closed meanwhile, or there is no thread to be had
            return
        self._held += 1
        self.candidate.batcher.inflight += 1
        copy.add_done_callback(done)

    def _release(self) -> None:
        self._held -= 1
        self.candidate.batcher.release()

    def _compare(self, request: Request, response: Response) -> None:
        call, candidate = request.call, self.candidate
        assert call is not None
        record = ShadowRecord(
            call.prediction_id,
            time(),
            response.model,
            response.version,
            candidate.manifest.version,
            call.epoch,
            call.unit,
        )
        try:
            outputs = self._answer(request, record)
            record.difference, record.equal = difference(response.outputs, outputs)
            record.flags = _flags(outputs)
        except RungError as error:
            record.error = type(error).__name__
        except Exception as error:  # noqa: BLE001 - whatever a candidate does stays with it
            record.error = type(error).__name__
        finally:
            self.failed += bool(record.error)
            self.differing += not record.equal and not record.error
            self.compared += 1
        self._report(record)

    def _answer(self, request: Request, record: ShadowRecord) -> Tensors:
        candidate = self.candidate
        candidate.manifest.signature.check(request.inputs)
        if candidate.model is None:
            raise Unsupported("a graph of models cannot be a shadow: its models answer for it")
        began = perf_counter()
        outputs = candidate.model.predict(request.inputs)
        record.computed = perf_counter() - began
        return {name: outputs[name] for name in request.outputs} if request.outputs else outputs

    def close(self) -> None:
        """Drop what waits, and end the thread when it is done with what it has."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def difference(live: Tensors, other: Tensors) -> tuple[float, bool]:
    """Largest absolute difference over all outputs, and whether they agree as golden examples have to.

    Other names, shapes or datatypes, and a NaN on one side, differ infinitely.
    """
    if live.keys() != other.keys():
        return inf, False
    largest, agree = 0.0, True
    for name, array in live.items():
        beside = other[name]
        if array.shape != beside.shape or array.dtype.kind != beside.dtype.kind:
            return inf, False
        if array.dtype.kind not in "fiu":
            same = bool(np.array_equal(array, beside))
            largest, agree = max(largest, 0.0 if same else inf), agree and same
        elif array.size:
            # Infinity less infinity, and what is beyond the largest number.
            with np.errstate(invalid="ignore", over="ignore"):
                largest = max(largest, _largest(array, beside))
                agree = agree and bool(np.allclose(beside, array, _RTOL, _ATOL, equal_nan=True))
    return largest, agree


def _largest(one: Array, other: Array) -> float:
    one, other = one.astype(np.float64), other.astype(np.float64)
    gap = np.abs(one - other)
    # Where both are NaN, or the same infinity, they agree.
    gap = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, gap)
    return inf if np.isnan(gap).any() else float(gap.max())


def _flags(outputs: Tensors) -> int:
    floats = [array for array in outputs.values() if array.dtype.kind == "f"]
    bad = NOT_FINITE if any(not np.isfinite(array).all() for array in floats) else 0
    wide = [array for array in outputs.values() if array.size > 1 and array.dtype.kind in "fiu"]
    return bad | (CONSTANT if wide and all((array == array.flat[0]).all() for array in wide) else 0)


def _step_back() -> None:
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)

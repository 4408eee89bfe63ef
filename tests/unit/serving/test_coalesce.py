import asyncio
import gc
import weakref
from time import monotonic

import numpy as np
import pytest

from rung.domain.errors import DeadlineExceeded, ModelError
from rung.domain.predictions import LOWEST, NEVER, Request, Response
from rung.serving.coalesce import Coalescer, fingerprint
from rung.serving.recorder import Recorder


def request(value: float, deadline: float = NEVER) -> Request:
    return Request({"x": np.full((1, 2), value, np.float32)}, deadline=deadline, arrived=monotonic())


class Slow:
    """A predictor that answers when told to."""

    def __init__(self) -> None:
        self.started: list[float] = []
        self.cancelled = 0
        self.go = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        value = float(request.inputs["x"][0, 0])
        self.started.append(value)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if value < 0:
            raise ModelError("negative")
        return Response("m", 1, {"y": request.inputs["x"] * 2})


async def call(predictor: Coalescer, one: Request) -> Response:
    return await predictor(one)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_equal_requests_in_flight_are_computed_once_and_later_ones_anew():
    inner = Slow()
    predictor = Coalescer(inner)
    waiting = [asyncio.ensure_future(call(predictor, request(value))) for value in (1, 2, 1, 1)]
    await settle()
    assert inner.started == [1, 2]
    inner.go.set()
    assert [float((await one).outputs["y"][0, 0]) for one in waiting] == [2, 4, 2, 2]
    assert predictor.joined == 2
    await predictor(request(1))
    assert inner.started == [1, 2, 1], "an answer that is out is not kept"


@pytest.mark.asyncio
async def test_each_caller_keeps_its_own_deadline():
    inner = Slow()
    predictor = Coalescer(inner)
    patient = asyncio.ensure_future(call(predictor, request(1)))
    with pytest.raises(DeadlineExceeded):
        await predictor(request(1, deadline=monotonic() + 0.02))
    inner.go.set()
    assert float((await patient).outputs["y"][0, 0]) == 2


@pytest.mark.asyncio
async def test_the_work_goes_on_until_the_last_caller_has_left():
    inner = Slow()
    predictor = Coalescer(inner)
    first, second = (asyncio.ensure_future(call(predictor, request(1))) for _ in range(2))
    await settle()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert inner.cancelled == 0
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await settle()
    assert inner.cancelled == 1
    inner.go.set()
    assert float((await predictor(request(1))).outputs["y"][0, 0]) == 2


@pytest.mark.asyncio
async def test_a_failure_is_everybodys():
    inner = Slow()
    inner.go.set()
    predictor = Coalescer(inner)
    answers = await asyncio.gather(*(predictor(request(-1)) for _ in range(3)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ModelError] * 3


def test_only_requests_that_are_equal_in_every_respect_are_equal():
    x = np.arange(4, dtype=np.float32).reshape(2, 2)
    texts = [np.array([[b"a", b"bc"]], object), np.array([[b"ab", b"c"]], object)]
    requests = [
        Request({"x": x}),
        Request({"y": x}),
        Request({"x": x.reshape(1, 4)}),
        Request({"x": x.astype(np.float64)}),
        Request({"x": x + 1}),
        Request({"x": x}, outputs=("a",)),
        *(Request({"x": text}) for text in texts),
    ]
    assert len({fingerprint(one) for one in requests}) == len(requests)
    assert fingerprint(Request({"x": x})) == fingerprint(Request({"x": np.asfortranarray(x)}))


def test_an_empty_input_is_an_input_like_any_other():
    empty = [Request({"x": np.zeros(shape, np.float32)}) for shape in ((1, 0), (0, 1))]
    assert fingerprint(empty[0]) != fingerprint(empty[1])


def test_numbers_are_compared_bit_by_bit():
    def of(*values: float) -> bytes:
        return fingerprint(Request({"x": np.array([values], np.float32)}))

    assert of(0.0) != of(-0.0)
    assert of(np.nan) == of(np.nan)


class Holding:
    """A version with its handles and its recorder, and nothing else."""

    def __init__(self) -> None:
        self.recorder = Recorder("m", 1)
        self.inflight = 0

    def release(self) -> None:
        self.inflight -= 1


@pytest.mark.asyncio
async def test_a_version_is_held_from_the_first_moment_until_the_computation_has_ended():
    inner, held = Slow(), Holding()
    predictor = Coalescer(inner, held)
    first = predictor(request(1))
    assert held.inflight == 1
    inner.go.set()
    await first
    await settle()
    assert held.inflight == 0
    gone = predictor(request(1))
    gone.cancel()  # before the computation has taken its first step
    await settle()
    assert (held.inflight, inner.started) == (0, [1])


@pytest.mark.asyncio
async def test_each_request_is_counted_once_and_the_computation_counts_one_of_them():
    inner, held = Slow(), Holding()
    predictor = Coalescer(inner, held)
    waiting = [asyncio.ensure_future(call(predictor, request(1))) for _ in range(4)]
    await settle()
    waiting[0].cancel()
    with pytest.raises(DeadlineExceeded):
        await predictor(request(1, deadline=monotonic() + 0.01))
    inner.go.set()
    await asyncio.gather(*waiting, return_exceptions=True)
    statistics = held.recorder.read()
    assert statistics.success.count == 2
    assert statistics.failures == {"Cancelled": 1, "DeadlineExceeded": 1}


@pytest.mark.asyncio
async def test_a_flight_that_was_given_up_does_not_end_the_next_one_of_its_key():
    inner = Slow()
    predictor = Coalescer(inner)
    gone = asyncio.ensure_future(call(predictor, request(1)))
    await settle()
    gone.cancel()
    await asyncio.sleep(0)  # given up, and its task has not yet noticed
    waiting = [asyncio.ensure_future(call(predictor, request(1)))]
    await settle()
    waiting.append(asyncio.ensure_future(call(predictor, request(1))))
    await settle()
    assert inner.started == [1, 1]
    inner.go.set()
    await asyncio.gather(*waiting, gone, return_exceptions=True)
    assert predictor.joined == 1


@pytest.mark.asyncio
async def test_what_several_callers_get_none_of_them_can_change():
    inner = Slow()
    inner.go.set()
    predictor = Coalescer(inner)
    answers = await asyncio.gather(*(call(predictor, request(1)) for _ in range(2)))
    with pytest.raises(ValueError, match="read-only"):
        answers[0].outputs["y"][0, 0] = 9


@pytest.mark.asyncio
async def test_an_error_that_nobody_foresaw_reaches_everybody_too():
    async def broken(request: Request) -> Response:
        raise TypeError("a slip of ours")

    predictor = Coalescer(broken)
    answers = await asyncio.gather(*(predictor(request(1)) for _ in range(2)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [TypeError] * 2


@pytest.mark.asyncio
async def test_an_answer_is_freed_when_the_last_caller_drops_it():
    inner = Slow()
    inner.go.set()
    predictor = Coalescer(inner)
    gc.disable()
    try:
        response = await predictor(request(1))
        seen = weakref.ref(response.outputs["y"])
        del response
        await settle()
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.asyncio
async def test_nobody_is_made_to_wait_for_what_can_wait():
    inner = Slow()
    predictor = Coalescer(inner)
    lowest = [request(1), request(1)]
    for one in lowest:
        one.priority = LOWEST
    waiting = [asyncio.ensure_future(call(predictor, one)) for one in (lowest[0], request(1), lowest[1])]
    await settle()
    assert inner.started == [1, 1], "one for those that can wait, one for the other"
    inner.go.set()
    assert [float((await one).outputs["y"][0, 0]) for one in waiting] == [2, 2, 2]

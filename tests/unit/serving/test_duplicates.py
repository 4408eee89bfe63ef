import asyncio

import numpy as np
import pytest

from rung.domain.predictions import Call, Request, Response
from rung.serving.cache import AnswerKey
from rung.serving.duplicates import DuplicateMeter, Metered


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Model:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def __call__(self, request: Request) -> Response:
        return Response("m", 3, {"y": np.zeros((request.rows, 1000), np.float32)}, computed=self.seconds)


def request(number: int, call: Call | None = None) -> Request:
    return Request({"x": np.random.default_rng(number).random((1, 3, 16, 16), np.float32)}, call=call)


async def drive(numbers, *, seconds: float = 0.05, within: float = 600.0, pause: float = 0.02, private=False, every=16):
    """Send these requests, `pause` seconds apart on the meter's clock."""
    clock = Clock()
    meter = DuplicateMeter("m", 3, within, every=every, clock=clock)
    predictor = Metered(Model(seconds), AnswerKey("d", private=private), meter)
    calls = (Call(unit="ann"), Call(unit="bob"))
    for at, number in enumerate(numbers):
        clock.now += pause
        await predictor(request(int(number), calls[at % 2] if private else None))
    return meter


@pytest.mark.asyncio
async def test_the_measured_rate_and_the_saving_are_those_of_the_traffic():
    # 8,000 requests, of which every third repeats one of the 400 before it.
    rng = np.random.default_rng(7)
    numbers: list[int] = []
    for at in range(8000):
        numbers.append(numbers[-rng.integers(1, min(len(numbers), 400) + 1)] if at % 3 == 2 else at)
    advice = (await drive(numbers, every=4)).advice()
    assert advice is not None
    assert advice.share == pytest.approx(1 / 3, abs=0.06)
    # 50 requests a second, a third of them 50 ms each, nine of ten caught.
    assert advice.saved == pytest.approx(50 * 60 / 3 * 0.05 * 0.9, rel=0.25)
    # Repeats come from up to 400 requests back; an answer weighs 4 kB and a bit.
    assert 1 << 20 <= advice.size <= 4 << 20
    assert advice.text() == (
        f"{advice.share:.0%} of the requests to m were duplicates within 600 s: "
        f"--cache {advice.size >> 20}MiB would save {advice.saved:.1f} s of compute per minute"
    )


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("numbers", "options"),
    [
        (range(4000), {}),  # nothing repeats
        ([n % 200 for n in range(4000)], {"within": 1.0}),  # what repeats has expired by then
        ([n % 200 for n in range(4000)], {"seconds": 1e-5}),  # computing is cheaper than looking up
        ([n % 20 for n in range(200)], {}),  # too little was seen
        ([n // 2 for n in range(4000)], {"private": True}),  # two callers send the same
    ],
    ids=["none", "expired", "cheap", "few", "private"],
)
async def test_nothing_is_advised_where_a_cache_would_not_pay(numbers, options):
    assert (await drive(numbers, **options)).advice() is None


@pytest.mark.asyncio
async def test_equal_requests_are_sampled_together_whatever_their_layout():
    meter = DuplicateMeter("m", 1, 60.0)
    sampled = 0
    for number in range(2000):
        array = request(number).inputs["x"]
        answers = {meter.samples(Request({"x": one})) for one in (array, np.asfortranarray(array), array.copy())}
        assert len(answers) == 1
        sampled += answers.pop()
    assert 80 <= sampled <= 170  # 125 expected; the bounds are 4 standard deviations away


def test_text_is_sampled_too():
    meter = DuplicateMeter("m", 1, 60.0)
    texts = [Request({"t": np.array([[f"text {number}".encode()]], object)}) for number in range(1600)]
    assert 60 <= sum(map(meter.samples, texts)) <= 140


@pytest.mark.asyncio
async def test_an_error_is_nobodys_duplicate():
    async def broken(request: Request) -> Response:
        raise RuntimeError("no")

    meter = DuplicateMeter("m", 1, 60.0, every=1)
    predictor = Metered(broken, AnswerKey("d"), meter)
    answers = await asyncio.gather(*(predictor(request(1)) for _ in range(3)), return_exceptions=True)
    assert len(answers) == 3
    assert meter._count == 0

from random import Random

import pytest

from rung.serving.idle import Idle


def met(rate: float, call: float, *, requests: int = 40_000, seed: int = 1) -> tuple[float, int]:
    """Share of requests, Poisson at `rate` a second and 5 ms each, that met a call of `call` seconds of work that can
    wait and is always there; and how many of those there were."""
    random, idle = Random(seed), Idle()
    idle.open(0.0)
    now = hits = started = 0.0
    for number in range(requests):
        at = now + random.expovariate(rate)
        # Between two requests calls follow one another, from when the first may start.
        start = now + idle.wait(now)
        idle.lowest = int(start < at)
        if start < at:
            started += int((at - start) / call) + 1
        idle.came(at)
        if number > requests // 4:
            hits += idle.lowest
        idle.lowest = 0
        idle.calls += 1
        assert idle.wait(at) > 0.0, "never beside another's call"
        idle.calls -= 1
        now = at + 0.005
        idle.left(now)
    return hits / (requests * 3 / 4), int(started)


@pytest.mark.parametrize("rate", [5.0, 20.0, 100.0])
def test_fewer_than_one_request_in_a_hundred_meets_a_call(rate: float) -> None:
    """The stated rate is log(1 / (1 - 0.003)) / log(2) = 0.43 %; of 30,000 it is found within 0.15 points."""
    share, _ = met(rate, 0.02)
    assert share == pytest.approx(0.0043, abs=0.0015)


def test_where_hardly_anything_fits_between_even_fewer_do() -> None:
    assert met(1000.0, 0.02)[0] < 0.0043


def test_where_few_ask_the_rest_of_the_time_is_used() -> None:
    share, started = met(0.05, 0.02, requests=400)
    assert share > 0.5, "each may meet one call"
    assert started * 0.02 > 0.85 * 400 / 0.05, "of the time that nobody asks"


def test_nothing_is_counted_before_there_is_work_that_can_wait() -> None:
    idle = Idle()
    assert not idle.active
    idle.open(10.0)
    assert idle.wait(10.0) == pytest.approx(0.01), "what was before has not been seen"
    assert idle.wait(10.1) == 0.0
    idle.open(20.0)
    assert idle.wait(20.0) == 0.0

import numpy as np
import pytest

from rung.fleet.tally import FLAGS, Answers, Tally, flag, key_of
from rung.stats.quantiles import Histogram

ANSWERED, ERRORS = flag("answered"), flag("errors")


def test_a_unit_counts_once_however_many_requests_it_makes() -> None:
    tally = Tally(100)
    for number in range(50):
        tally.add(key_of("ann"), key_of(f"a{number}"), 1, 0.01, ERRORS if number == 7 else ANSWERED)
    tally.add(key_of("bob"), key_of("b"), 1, 0.02, ANSWERED)
    assert (tally.units, tally.requests) == (2, 51)
    assert dict(zip(FLAGS, tally.flagged, strict=True))["errors"] == 1
    assert tally.latency.count == 2
    assert tally.heaviest == pytest.approx(50 / 51)
    assert tally.began == {1: 2}


def test_the_latency_of_a_unit_is_that_of_one_of_its_requests_in_any_order() -> None:
    requests = [(key_of(f"{unit}"), key_of(f"{unit}-{n}"), 0.001 * (n + 1)) for unit in range(30) for n in range(20)]
    forwards, backwards = Tally(100), Tally(100)
    for key, request, seconds in requests:
        forwards.add(key, request, 0, seconds, ANSWERED)
    for key, request, seconds in reversed(requests):
        backwards.add(key, request, 0, seconds, ANSWERED)
    drawn = {key: min((request, seconds) for k, request, seconds in requests if k == key)[1] for key, _, _ in requests}
    assert forwards.latency == backwards.latency == Histogram.of(drawn.values())


@pytest.mark.parametrize("seconds", [0.0, 4e-7, 1e-6, 1.0099e-6, 0.001, 0.0123, 1.0, 1234.5, 1e9])
def test_one_latency_falls_into_the_bin_that_many_do(seconds: float) -> None:
    assert Histogram.of([seconds]).bins == {Histogram.place(seconds): 1}


def test_beyond_the_cap_a_random_share_of_the_units_is_kept_and_counted_right() -> None:
    rng = np.random.default_rng(1)
    small, whole = Tally(1_000), Tally(100_000)
    for number in range(20_000):
        flags = ERRORS if rng.random() < 0.3 else ANSWERED
        for tally in (small, whole):
            tally.add(key_of(f"u{number}"), key_of(f"r{number}"), number // 10_000, rng.random(), flags)
    assert small.units <= 1_000
    assert small.requests == whole.requests == 20_000
    # Five standard deviations of a sample of about 700.
    assert small.units / small.rate == pytest.approx(20_000, rel=0.2)
    assert small.flagged[1] / small.units == pytest.approx(0.3, abs=0.09)
    assert small.latency.count == small.units
    assert sum(small.began.values()) == small.units
    assert sum(small.flagged[:2]) == small.units


def test_runs_of_one_answer_are_counted_by_distinct_inputs() -> None:
    answers = Answers()
    for _ in range(100):
        answers.add(b"same input", b"same answer")
    assert answers.run == 1
    for number in range(40):
        answers.add(str(number).encode(), b"same answer")
    assert answers.run == 41
    answers.add(b"x", b"another")
    assert (answers.run, answers.inputs, answers.commonest) == (1, 42, 41)

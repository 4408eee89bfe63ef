import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, ttest_ind

from rung.domain.errors import InvalidInput
from rung.stats.intervals import bootstrap, clopper_pearson, welch, wilson
from rung.stats.sequential import Moments


@settings(max_examples=50)
@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([0.8, 0.95, 0.999]))
def test_rates_are_those_of_scipy(events: int, others: int, level: float) -> None:
    count = events + others
    if not count:
        return
    test = binomtest(events, count)
    for ours, method in (
        (wilson(events, count, level=level), "wilson"),
        (clopper_pearson(events, count, level=level), "exact"),
    ):
        theirs = test.proportion_ci(level, method=method)
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
        assert 0 <= ours.low <= ours.estimate <= ours.high <= 1


@settings(max_examples=40)
@given(
    st.lists(st.integers(-1_000, 1_000), min_size=2, unique=True), st.lists(st.integers(-9, 9), min_size=2, unique=True)
)
def test_welch_is_that_of_scipy(a: list[float], b: list[float]) -> None:
    theirs = ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    ours = welch(Moments.of(a), Moments.of(b))

    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), rel=1e-4, abs=1e-4)
    assert ours.low <= ours.estimate <= ours.high


def test_welch_without_variation() -> None:
    ours = welch(Moments.of([1, 1]), Moments.of([2, 2]))

    assert (ours.low, ours.high) == (1, 1)
    with pytest.raises(InvalidInput, match="two units"):
        welch(Moments.of([1]), Moments.of([1, 2]))


def test_coverage_of_a_rate() -> None:
    """Added up over every outcome: Clopper-Pearson never below its level, Wilson near it."""
    for rate in (0.01, 0.05, 0.3):
        events = np.arange(121)
        likely = binom(120, rate).pmf(events)
        for method, least in ((clopper_pearson, 0.95), (wilson, 0.92)):
            ends = [method(int(one), 120) for one in events]
            held = [one.low <= rate <= one.high for one in ends]
            assert likely @ held >= least


def test_it_names_its_method_and_counts() -> None:
    assert str(wilson(3, 60)) == "0.05 [0.01715, 0.137] (95 %, Wilson; 3 events, 60 units)"


@pytest.mark.parametrize(("events", "count"), [(0, 0), (3, 2), (-1, 2)])
def test_no_rate(events: int, count: int) -> None:
    with pytest.raises(InvalidInput):
        wilson(events, count)
    with pytest.raises(InvalidInput):
        clopper_pearson(events, count)


def test_the_bootstrap_draws_units() -> None:
    """Ten equal values of one user are one value: the interval must not get narrower."""
    rng = np.random.default_rng(61)
    alone = [np.array([one]) for one in rng.normal(0, 1, 60)]
    tenfold = [np.repeat(one, 10) for one in alone]

    one = bootstrap(alone, np.mean, rng=np.random.default_rng(1), repeats=500)
    ten = bootstrap(tenfold, np.mean, rng=np.random.default_rng(1), repeats=500)

    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))
    assert ten.counts == {"units": 60, "values": 600, "draws": 500}
    assert one.low <= one.estimate <= one.high
    assert one.high - one.low == pytest.approx(2 * 1.96 / 60**0.5, rel=0.3)
    with pytest.raises(InvalidInput):
        bootstrap([], np.mean, rng=rng)


def test_coverage_of_the_bootstrap() -> None:
    rng = np.random.default_rng(62)
    held = 0
    for _ in range(100):
        units = [
            rng.normal(mean, 0.1, size=int(size))
            for mean, size in zip(rng.normal(0, 1, 50), rng.integers(1, 6, 50), strict=True)
        ]
        interval = bootstrap(units, np.mean, rng=rng, repeats=200)
        held += interval.low <= 0 <= interval.high

    assert held >= 0.88 * 100

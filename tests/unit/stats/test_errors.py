import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, multinomial

from rung.domain.errors import InvalidInput
from rung.domain.rules import Metric, Rule
from rung.stats.errors import errors, log_wealth
from rung.stats.sequential import Moments
from rung.stats.simulate import Traffic, simulate

RULE = Metric("failed", "errors")
ARM = st.tuples(st.integers(0, 30), st.integers(30, 3_000)).map(lambda one: Moments.of_rate(*one))
SHARE = st.floats(0.02, 0.98)


@pytest.mark.parametrize(
    ("share", "rate", "margin"), [(0.5, 0.1, 0.0), (0.05, 0.2, 0.0), (0.5, 0.3, 0.1), (0.2, 0.0, 0.05)]
)
def test_the_evidence_is_1_on_average_at_the_margin(share: float, rate: float, margin: float) -> None:
    """Exactly, by adding up every outcome of 14 units."""
    units = 14
    chance = [(1 - share) * rate, share * (rate + margin)]
    outcomes = [(a, b) for a, b in itertools.product(range(units + 1), repeat=2) if a + b <= units]
    counts = [(a, b, units - a - b) for a, b in outcomes]
    likely = multinomial(units, [*chance, 1 - sum(chance)]).pmf(counts)
    a, b, _ = np.transpose(counts)
    wealth = np.exp(log_wealth(a, b, np.full(len(a), units), share, margin))

    assert (wealth >= 0).all()
    assert likely @ wealth == pytest.approx(1)
    # Below the margin it is less: the candidate is not to be failed for being better.
    better = [chance[0], share * rate * 0.5]
    likely = multinomial(units, [*better, 1 - sum(better)]).pmf(counts)
    assert likely @ wealth <= 1


@given(ARM, ARM, SHARE, st.floats(0, 0.05), st.floats(0, 0.05))
def test_the_interval_agrees_with_the_test(a: Moments, b: Moments, share: float, margin: float, more: float) -> None:
    verdict = errors(a, b, share=share, margin=margin, tolerance=margin + more)
    shown = verdict.evidence

    assert shown["low"] <= shown["high"]
    assert 0 <= shown["p"] <= 1
    # The ends are found by bisection, to 1e-11.
    assert verdict.outcome == "fail" or shown["low"] <= margin + 1e-9
    assert verdict.outcome != "fail" or shown["low"] >= margin - 1e-9
    assert verdict.outcome != "pass" or shown["high"] <= margin + more + 1e-9


@given(ARM, ARM)
def test_the_interval_holds_the_estimate_of_arms_of_one_size(a: Moments, b: Moments) -> None:
    b = Moments.of_rate(min(b.events, a.count), a.count)
    shown = errors(a, b).evidence

    assert shown["low"] <= shown["estimate"] <= shown["high"]


@given(ARM, ARM, SHARE)
def test_swapping_the_arms_turns_the_interval_round(a: Moments, b: Moments, share: float) -> None:
    there, back = errors(a, b, share=share).evidence, errors(b, a, share=1 - share).evidence

    assert there["low"] == pytest.approx(-back["high"], abs=1e-6)
    assert there["p_pass"] == pytest.approx(back["p"])


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_p_only_falls(steps: list[tuple[int, int]]) -> None:
    a = b = Moments()
    p = 1.0
    for in_a, in_b in steps:
        a, b = a + Moments.of_rate(in_a, 50), b + Moments.of_rate(in_b, 50)
        verdict = errors(a, b, before=p)
        assert verdict.evidence["p"] <= p
        p = verdict.evidence["p"]


def test_a_candidate_that_always_fails_is_stopped_within_a_dozen_units() -> None:
    assert errors(Moments.of_rate(0, 12), Moments.of_rate(12, 12)).outcome == "fail"
    assert errors(Moments.of_rate(0, 3), Moments.of_rate(3, 3)).outcome == "inconclusive"


def test_without_failures_it_takes_units_to_pass() -> None:
    assert errors(Moments.of_rate(0, 500), Moments.of_rate(0, 500), tolerance=0.005).outcome == "inconclusive"
    assert errors(Moments.of_rate(0, 2_500), Moments.of_rate(0, 2_500), tolerance=0.005).outcome == "pass"
    assert errors(Moments(), Moments(), tolerance=0.005).outcome == "inconclusive"


def test_it_costs_little_against_the_test_of_one_look() -> None:
    """The binomial test may be made once, this one at every look: that costs a factor of sixty here."""
    a, b = Moments.of_rate(20, 20_000), Moments.of_rate(60, 20_000)
    once = binomtest(60, 80, 0.5, alternative="greater").pvalue

    assert once < errors(a, b).evidence["p"] < 100 * once


def test_the_share_is_one() -> None:
    with pytest.raises(InvalidInput, match="share"):
        errors(Moments(), Moments(), share=1.0)


@pytest.mark.parametrize("rate", [0.001, 0.05])
@pytest.mark.parametrize("share", [0.5, 0.05])
@pytest.mark.parametrize("margin", [0.0, 0.001])
def test_false_alarms(rate: float, share: float, margin: float) -> None:
    """Measured: 0.9 to 1.5 % at an alpha of 5 %."""
    rule, traffic = Rule(RULE, alpha=0.05, margin=margin), Traffic(rate, margin, share, units=80_000, looks=100)
    ours = simulate(rule, traffic, runs=1_500, rng=np.random.default_rng(21))

    assert ours.high <= 0.05, str(ours)


@pytest.mark.parametrize(
    ("rate", "effect", "units", "least"),
    [
        (0.001, 0.002, 60_000, 0.9),  # 1 in 1,000 to 3 in 1,000, 30,000 units per arm. Measured: 97 %
        (0.001, 0.009, 10_000, 0.98),  # to 1 in 100, 5,000 per arm. Measured: all of 2,000
        (0.05, 0.01, 80_000, 0.97),  # what the guard on rates finds in 99.7 %. Measured: 98.7 %
    ],
)
def test_power(rate: float, effect: float, units: int, least: float) -> None:
    found = simulate(Rule(RULE), Traffic(rate, effect, units=units), runs=1_000, rng=np.random.default_rng(22))

    assert found.low >= least, str(found)


@pytest.mark.nightly
@pytest.mark.parametrize("rate", [0.0001, 0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("margin", [0.0, 0.001, 0.02])
def test_false_alarms_everywhere(rate: float, share: float, margin: float) -> None:
    for alpha in (0.05, 0.005):
        rule, traffic = Rule(RULE, alpha=alpha, margin=margin), Traffic(rate, margin, share, units=100_000)
        ours = simulate(rule, traffic, runs=4_000, rng=np.random.default_rng(23))
        assert ours.low <= alpha, str(ours)
        assert math.isfinite(ours.rate)

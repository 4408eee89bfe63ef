import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate
from scipy.stats import norm

from rung.domain.errors import InvalidInput
from rung.domain.rules import Metric, Rule
from rung.stats.sequential import (
    MIN_EVENTS,
    MIN_UNITS,
    Moments,
    compare,
    harm,
    log_mixture,
    log_mixture_above,
    null_variance,
    radius_above,
)
from rung.stats.simulate import Sums, Traffic, draw, evidence, measure, simulate

RATE = Metric("rate")
VALUES = st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), max_size=40)
RATES = st.tuples(st.integers(0, 2_000), st.integers(2_000, 20_000)).map(lambda one: Moments.of_rate(*one))


# --- what is kept


@given(VALUES, VALUES)
def test_the_parts_merge_to_the_whole(first: list[float], second: list[float]) -> None:
    whole, merged = Moments.of(first + second), Moments.of(first) + Moments.of(second)

    assert (merged.count, merged.events) == (whole.count, whole.events)
    assert merged.total == pytest.approx(whole.total, abs=1e-6)
    assert merged.squares == pytest.approx(whole.squares, abs=1e-6)
    assert merged + Moments() == merged
    if first + second:
        assert whole.mean == pytest.approx(np.mean(first + second), abs=1e-6)
        assert whole.variance == pytest.approx(np.var(first + second), abs=1e-4)


def test_a_rate_is_the_mean_of_noughts_and_ones() -> None:
    assert Moments.of([1, 0, 0, 1]) == Moments.of_rate(2, 4)
    assert Moments.of_rate(2, 4).binary
    assert not Moments.of([1, 0.5]).binary


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(InvalidInput, match="leave out"):
        Moments.of([1.0, bad])
    with pytest.raises(InvalidInput):
        Moments.of_rate(3, 2)


# --- the formula


@pytest.mark.parametrize(("d", "v", "tau"), [(0.01, 1e-5, 0.01), (-0.02, 1e-4, 0.01), (0.0, 1e-5, 0.02)])
def test_the_closed_forms_are_the_mixtures(d: float, v: float, tau: float) -> None:
    def weighed(x: float) -> float:
        return float(norm.pdf(x, scale=tau)) * math.exp(x * d / v - x * x / (2 * v))

    whole = integrate.quad(weighed, -10 * tau, 10 * tau, epsabs=1e-12, limit=500)[0]
    above = 2 * integrate.quad(weighed, 0, 10 * tau, epsabs=1e-12, limit=500)[0]

    assert log_mixture(d, v, tau) == pytest.approx(math.log(whole), abs=1e-6)
    assert log_mixture_above(d, v, tau) == pytest.approx(math.log(above), abs=1e-6)


@pytest.mark.parametrize("v", [1e-4, 1e-5, 1e-6])
def test_the_evidence_is_1_on_average_under_the_null(v: float) -> None:
    def expected(log: Callable[..., float], shift: float) -> float:
        ends = 12 * math.sqrt(v + 0.01**2)
        likely = norm(loc=shift, scale=math.sqrt(v)).logpdf
        return integrate.quad(lambda d: math.exp(likely(d) + log(d, v, 0.01)), -ends, ends, points=[0], limit=500)[0]

    assert expected(log_mixture, 0.0) == pytest.approx(1, abs=1e-3)
    assert expected(log_mixture_above, 0.0) == pytest.approx(1, abs=1e-3)
    assert expected(log_mixture_above, -0.003) < 1


def test_variance_is_the_larger_of_plug_in_and_pooled() -> None:
    noisy, calm = Moments.of([-10, 10] * 100), Moments.of([0.9, 1.1] * 5_000)
    plug_in = noisy.variance / noisy.count + calm.variance / calm.count

    # Pooled alone would hide the noise of the small arm: the large one is calm.
    assert null_variance(calm, noisy) == pytest.approx(plug_in)
    few, many = Moments.of_rate(0, 200), Moments.of_rate(500, 10_000)
    rate = 500 / 10_200
    assert null_variance(many, few) == pytest.approx(rate * (1 - rate) * (1 / 200 + 1 / 10_000))


# --- verdicts


@given(RATES, RATES)
def test_swapping_the_arms_turns_the_verdict_round(one: Moments, other: Moments) -> None:
    there, back = compare(one, other, tau=0.01), compare(other, one, tau=0.01)

    assert there.evidence["p"] == pytest.approx(back.evidence["p"])
    assert there.evidence["estimate"] == pytest.approx(-back.evidence["estimate"])
    assert {there.outcome, back.outcome} in ({"pass", "fail"}, {"inconclusive"})
    if there.evidence["low"] is not None:
        assert there.evidence["low"] == pytest.approx(-back.evidence["high"])
    turned = harm(one, other, tau=0.01), harm(other, one, tau=0.01, worse="lower")
    assert turned[0].outcome == turned[1].outcome
    assert turned[0].evidence["p"] == pytest.approx(turned[1].evidence["p"])


@given(RATES, RATES, st.floats(0, 0.02), st.floats(0, 0.02))
def test_interval_holds_the_estimate_and_agrees_with_the_test(
    a: Moments, b: Moments, margin: float, more: float
) -> None:
    for verdict, limits in (
        (compare(a, b, tau=0.01), (0.0, 0.0)),
        (harm(a, b, tau=0.01, margin=margin, tolerance=margin + more), (margin, margin + more)),
    ):
        shown = verdict.evidence
        if shown["low"] is None:
            assert verdict.outcome == "inconclusive"
            continue
        assert shown["low"] <= shown["estimate"] <= shown["high"]
        assert 0 <= shown["p"] <= 1
        assert (verdict.outcome == "fail") == (shown["low"] > limits[0])
        if verdict.outcome != "fail":
            assert (verdict.outcome == "pass") == (shown["high"] < limits[1])


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=30))
def test_p_only_falls_and_a_guard_that_failed_stays_failed(steps: list[tuple[int, int]]) -> None:
    a = b = Moments()
    p, failed = 1.0, False
    for in_a, in_b in steps:
        a, b = a + Moments.of_rate(in_a, 100), b + Moments.of_rate(in_b, 100)
        verdict = harm(a, b, tau=0.02, before=p)
        assert verdict.evidence["p"] <= p
        assert not failed or verdict.outcome == "fail"
        p, failed = verdict.evidence["p"], verdict.outcome == "fail"


def test_three_answers() -> None:
    stable = Moments.of_rate(1_500, 30_000)

    bad = harm(stable, Moments.of_rate(1_800, 30_000), tau=0.01)
    good = harm(stable, Moments.of_rate(1_510, 30_000), tau=0.01, tolerance=0.01)
    open_ = harm(stable, Moments.of_rate(1_510, 30_000), tau=0.01)

    assert [one.outcome for one in (bad, good, open_)] == ["fail", "pass", "inconclusive"]
    assert "0.06 of 30000 units against 0.05 of 30000" in bad.why


def test_where_lower_is_worse() -> None:
    before, after = Moments.of([0.7, 0.9] * 200), Moments.of([0.2, 0.4] * 200)

    assert harm(before, after, tau=0.1, worse="lower").outcome == "fail"
    assert harm(after, before, tau=0.1, worse="lower", tolerance=0.01).outcome == "pass"
    assert compare(before, after, tau=0.1, worse="lower").outcome == "fail"


def test_too_early_to_look() -> None:
    few = Moments.of_rate(50, MIN_UNITS - 1)
    assert "99 of at least 100 units" in harm(few, Moments.of_rate(90, 10_000), tau=0.01).why
    rare = Moments.of_rate(MIN_EVENTS - 1, 10_000)
    assert "kind `errors`" in compare(rare, rare, tau=0.01).why
    same = Moments.of([2.0] * 500)
    assert "same value" in compare(same, same, tau=0.01).why
    # A baseline that never fails is no reason to overlook a candidate that always does.
    assert harm(Moments.of_rate(0, 200), Moments.of_rate(200, 200), tau=0.05).outcome == "fail"


def test_a_simulated_run_is_judged_as_a_real_one() -> None:
    rng = np.random.default_rng(5)
    rule = Rule(RATE, alpha=0.05, tau=0.01, margin=0.002)
    baseline, candidate = draw(Traffic(0.05, 0.01, 0.3, units=20_000, looks=40), runs=3, rng=rng)
    found = evidence(rule, baseline, candidate)
    for run, look in np.ndindex(found.shape):
        a, b = (Moments.of_rate(int(s.total[run, look]), int(s.count[run, look])) for s in (baseline, candidate))
        p = harm(a, b, tau=rule.tau, margin=rule.margin).evidence["p"]
        assert p == pytest.approx(math.exp(-max(found[run, look], 0)))


@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_the_bound_is_where_the_evidence_decides(alpha: float) -> None:
    for variance in (1e-3, 1e-5, 1e-8):
        radius = radius_above(variance, 0.01, alpha)
        assert log_mixture_above(radius, variance, 0.01) == pytest.approx(math.log(1 / alpha), abs=1e-6)


# --- how often it is wrong


def test_false_alarms_under_peeking() -> None:
    """A/A, base rate 5 %, 200 looks to 20,000 units per arm. Measured: peeking 43.5 %, mSPRT 2.1 %."""
    rng = np.random.default_rng(11)
    rule = Rule(RATE, alpha=0.05, tau=0.01)
    baseline, candidate = draw(Traffic(0.05, units=40_000), runs=2_000, rng=rng)
    units = baseline.count + candidate.count
    ours = measure(evidence(rule, baseline, candidate, two_sided=True), 0.05, units)
    z = candidate.total / candidate.count - baseline.total / baseline.count
    z = np.abs(z) / np.sqrt(null_variance(baseline, candidate))

    assert (z > norm.isf(0.025)).any(axis=1).mean() > 0.4
    assert (z[:, -1] > norm.isf(0.025)).mean() < 0.065
    assert ours.high <= 0.05, str(ours)


@pytest.mark.parametrize("units", [80_000, 400_000])
def test_false_alarms_at_95_to_5(units: int) -> None:
    """400 units a look, then to 20,000 in the small arm. Measured: 0.6 % and 1.7 %."""
    rng = np.random.default_rng(12)
    ours = simulate(
        Rule(RATE, alpha=0.05, tau=0.01), Traffic(0.05, share=0.05, units=units), runs=2_000, rng=rng, two_sided=True
    )

    assert ours.high <= 0.05, str(ours)


@pytest.mark.parametrize(("share", "margin"), [(0.5, 0.0), (0.05, 0.0), (0.5, 0.005), (0.05, 0.005)])
def test_false_alarms_of_the_guard(share: float, margin: float) -> None:
    """Harm exactly at the margin, where false alarms are most frequent."""
    rng = np.random.default_rng(13)
    loose, strict = (Rule(RATE, alpha=alpha, margin=margin) for alpha in (0.05, 0.005))
    baseline, candidate = draw(Traffic(0.05, margin, share, units=80_000), runs=3_000, rng=rng)
    found, units = evidence(loose, baseline, candidate), baseline.count + candidate.count

    assert measure(found, loose.alpha, units).high <= 0.05
    assert measure(found, strict.alpha, units).low <= 0.005
    assert measure(found, strict.alpha, units).rate <= 0.005


def test_per_request_is_wrong_and_per_unit_is_right() -> None:
    """Ten requests per user, who differ: A/A. Measured: per request 28 %, per user 1.8 %."""
    rng = np.random.default_rng(14)
    runs, looks, step, requests = 900, 40, 100, 10

    def arm() -> tuple[Sums, Sums]:
        unhappy = rng.random((runs, looks * step)) < 0.1
        seen = np.where(
            unhappy, rng.binomial(requests, 0.32, unhappy.shape), rng.binomial(requests, 0.02, unhappy.shape)
        )
        at = slice(step - 1, None, step)
        count = np.broadcast_to(np.arange(1, looks * step + 1), seen.shape)[:, at].astype(float)
        total, squares = seen.cumsum(axis=1)[:, at].astype(float), (seen**2).cumsum(axis=1)[:, at].astype(float)
        per_request = Sums(count * requests, total, total)
        return per_request, Sums(count, total / requests, squares / requests**2)

    (request_a, unit_a), (request_b, unit_b) = arm(), arm()
    rule = Rule(RATE, alpha=0.05, tau=0.01)
    wrong = measure(evidence(rule, request_a, request_b, two_sided=True), 0.05, request_a.count)
    right = measure(evidence(rule, unit_a, unit_b, two_sided=True), 0.05, unit_a.count)

    assert wrong.low > 0.1, str(wrong)
    assert right.high <= 0.05, str(right)


def test_moments_are_made_of_one_value_per_unit() -> None:
    """Thousand requests of one user are one unit, so one caller cannot outvote the rest or end a burn-in."""
    rng = random.Random(3)
    log = [("loud", 1.0)] * 1_000 + [(f"user {rng.randrange(150)}", float(rng.random() < 0.05)) for _ in range(1_000)]
    by_unit: dict[str, list[float]] = {}
    for unit, value in log:
        by_unit.setdefault(unit, []).append(value)
    arm = Moments.of(sum(values) / len(values) for values in by_unit.values())

    assert arm.count == len(by_unit) <= 151
    assert arm.mean < 0.1
    assert not arm.binary


def test_values_with_a_long_tail() -> None:
    """Log-normal values, 95/5, the candidate as the baseline: the normal approximation holds after the burn-in."""
    rng = np.random.default_rng(15)
    steps_b, steps_a = np.full((300, 100), 20), np.full((300, 100), 380)

    def arm(steps: np.ndarray) -> Sums:
        size = int(steps[0, 0])
        total, squares = np.empty(steps.shape), np.empty(steps.shape)
        for look in range(steps.shape[1]):
            values = rng.lognormal(0, 1, size=(len(steps), size)).astype(np.float32)
            total[:, look], squares[:, look] = values.sum(axis=1), (values**2).sum(axis=1)
        return Sums(steps.cumsum(axis=1).astype(float), total.cumsum(axis=1), squares.cumsum(axis=1))

    baseline, candidate = arm(steps_a), arm(steps_b)
    found = evidence(Rule(RATE, alpha=0.05, tau=0.3), baseline, candidate, two_sided=True)

    assert measure(found, 0.05, baseline.count).high <= 0.05


# --- how often it finds what is there


@pytest.mark.parametrize(
    ("effect", "units", "least"),
    [
        (0.01, 80_000, 0.97),  # 40,000 per arm. Measured: 99.7 %
        (0.01, 48_000, 0.85),  # 24,000 per arm. Measured: 90 %
        (0.05, 3_000, 0.94),  # 1,500 per arm. Measured: 96 %; the fixed test reaches 99.6 % in one look
        (0.05, 4_400, 0.99),  # 2,200 per arm. Measured: 99.8 %
    ],
)
def test_power_of_the_guard(effect: float, units: int, least: float) -> None:
    rng = np.random.default_rng(16)
    found = simulate(Rule(RATE), Traffic(0.05, effect, units=units), runs=2_000, rng=rng)

    assert found.low >= least, str(found)


def test_power_against_the_whole_stable_arm() -> None:
    """1,500 units of the candidate at 5 % against all 28,500 others: 5 points more are found in 99 %."""
    found = simulate(
        Rule(RATE), Traffic(0.05, 0.05, share=0.05, units=30_000), runs=2_000, rng=np.random.default_rng(17)
    )

    assert found.low >= 0.99, str(found)


@pytest.mark.nightly
@pytest.mark.parametrize("rate", [0.002, 0.01, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("share", [0.5, 0.25, 0.05, 0.01])
def test_false_alarms_everywhere(rate: float, share: float) -> None:
    rng = np.random.default_rng(18)
    baseline, candidate = draw(Traffic(rate, share=share, units=200_000), runs=4_000, rng=rng)
    units = baseline.count + candidate.count
    for tau in (rate / 10, rate / 2):
        rule = Rule(RATE, alpha=0.05, tau=tau)
        assert measure(evidence(rule, baseline, candidate, two_sided=True), 0.05, units).low <= 0.05
        assert measure(evidence(rule, baseline, candidate), 0.05, units).low <= 0.05
        assert measure(evidence(rule, baseline, candidate), 0.005, units).low <= 0.005

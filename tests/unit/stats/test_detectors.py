import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import InvalidInput
from rung.stats.detectors import Baseline, EDetector

losses = st.lists(st.floats(0, 1), max_size=60)


def quiet_alarms(rng: np.random.Generator, runs: int) -> float:
    alarms = 0
    for _ in range(runs):
        detector = EDetector(0.1)
        detector.feed((rng.random(30_000) < 0.1).astype(float))
        alarms += detector.alarm
    return alarms / runs


def delays(rng: np.random.Generator, runs: int, rate: float, margin: float = 0.0) -> list[int]:
    found = []
    for _ in range(runs):
        detector = EDetector.against(Baseline(0.1, 0.1), margin=margin)
        detector.feed((rng.random(5_000) < 0.1).astype(float))
        if not detector.alarm:
            detector.feed((rng.random(10_000) < rate).astype(float))
            found.append(10_000 if detector.at is None else detector.at - 5_000)
    return found


def test_quiet_streams_seldom_alarm_and_a_rise_is_found_soon() -> None:
    rng = np.random.default_rng(3)
    # At most 30,000 / 50,000 can; it is 37 %.
    assert quiet_alarms(rng, 40) < 0.6
    assert np.median(delays(rng, 40, 0.15)) < 800


@pytest.mark.nightly
def test_the_alarms_of_quiet_streams_come_as_seldom_as_promised() -> None:
    rng = np.random.default_rng(4)
    assert quiet_alarms(rng, 1_000) < 0.45
    assert np.median(delays(rng, 400, 0.15)) < 800
    assert np.median(delays(rng, 400, 0.15, margin=0.01)) < 800
    lengths = []
    for _ in range(200):
        detector = EDetector(0.1, 500.0)
        while not detector.alarm and detector.count < 50_000:
            detector.feed((rng.random(500) < 0.1).astype(float))
        lengths.append(detector.at or detector.count)
    assert np.mean(lengths) >= 500


@pytest.mark.nightly
def test_a_test_that_is_repeated_each_day_alarms_almost_always() -> None:
    rng = np.random.default_rng(5)
    days = rng.random((500, 60, 500)) < 0.1
    z = (days.mean(axis=2) - 0.1) / np.sqrt(0.1 * 0.9 / 500)
    assert (z > 1.645).any(axis=1).mean() > 0.9


def test_a_baseline_that_is_an_estimate_does_not_cost_the_run_length() -> None:
    rng = np.random.default_rng(6)
    bounded = plain = 0
    for _ in range(30):
        before = (rng.random(1_000) < 0.1).astype(float)
        after = (rng.random(10_000) < 0.1).astype(float)
        with_bound, without = EDetector.against(Baseline.of(before)), EDetector(float(before.mean()))
        with_bound.feed(after)
        without.feed(after)
        bounded += with_bound.alarm
        plain += without.alarm
    assert bounded <= 5
    assert plain > 2 * bounded


@given(losses, st.integers(0, 60), st.floats(0.01, 0.9))
def test_in_parts_or_at_once_by_way_of_json_or_not(values: list[float], cut: int, limit: float) -> None:
    whole, parts = EDetector(limit, 20.0), EDetector(limit, 20.0)
    whole.feed(values)
    parts.feed(values[:cut])
    parts = msgspec.json.decode(msgspec.json.encode(parts), type=EDetector)
    parts.feed(values[cut:])
    assert parts.count == whole.count == len(values)
    assert parts.level == pytest.approx(whole.level, rel=1e-6)
    assert parts.highest == pytest.approx(whole.highest, rel=1e-6)
    if abs(whole.highest - 20.0) > 1e-6:
        assert (parts.alarm, parts.at) == (whole.alarm, whole.at)


@given(losses, st.floats(0.01, 0.9))
def test_the_level_is_that_of_the_recursion(values: list[float], limit: float) -> None:
    detector = EDetector(limit)
    detector.feed(values)
    bets = np.geomspace(0.005, 0.5, 8) / limit
    levels = np.zeros(8)
    for value in values:
        levels = (levels + 1) * (1 + bets * (value - limit))
    assert detector.level == pytest.approx(float(levels.mean()), rel=1e-6, abs=1e-9)


def test_it_says_when_the_rise_began_and_an_alarm_stays() -> None:
    detector = EDetector(0.2, 1_000.0)
    detector.feed(np.tile([0.2, 0.0], 200))
    detector.feed(np.ones(40))
    assert detector.alarm
    assert detector.at is not None
    assert 401 <= detector.at <= 430
    assert detector.began == 401
    detector.feed(np.zeros(2_000))
    assert detector.alarm
    assert detector.level < 1_000 < detector.highest


def test_it_may_go_on_for_ever() -> None:
    detector = EDetector(0.5)
    detector.feed(np.ones(100_000))
    assert np.isfinite(detector.level)
    detector.feed(np.zeros(400_000))
    assert detector.level < 100
    assert detector.alarm


@pytest.mark.parametrize("bad", [[0.1, np.nan], [1.1], [-0.1], [[0.1]]])
def test_what_is_no_loss_is_refused_and_changes_nothing(bad: list[float]) -> None:
    detector = EDetector(0.1)
    with pytest.raises(InvalidInput, match="from 0 to 1"):
        detector.feed(bad)
    assert detector.count == 0
    with pytest.raises(InvalidInput):
        Baseline.of(bad)


def test_what_makes_no_detector_is_refused() -> None:
    for limit, length in ((0.0, 100.0), (1.0, 100.0), (0.5, 1.0)):
        with pytest.raises(InvalidInput, match="limit"):
            EDetector(limit, length)
    with pytest.raises(InvalidInput, match="margin"):
        EDetector.against(Baseline(0.1, 0.1), margin=-0.1)
    with pytest.raises(InvalidInput, match="limit"):
        EDetector.against(Baseline(0.9, 0.95), margin=0.1)
    with pytest.raises(InvalidInput, match="no loss"):
        Baseline.of([])
    with pytest.raises(InvalidInput, match="baseline"):
        Baseline(0.2, 0.1)


@pytest.mark.parametrize("kind", ["rate", "amount"])
def test_the_bound_of_a_baseline_holds(kind: str) -> None:
    rng = np.random.default_rng(7)
    missed = 0
    for _ in range(80):
        x = (rng.random(300) < 0.1).astype(float) if kind == "rate" else rng.beta(1, 9, 300)
        baseline = Baseline.of(x)
        missed += baseline.high < 0.1
        assert baseline.high < 0.2
    assert missed <= 10

import numpy as np
import pytest

from rung.stats.delays import Delays, arrived


def test_maturity_is_learned_from_delays_in_spite_of_labels_still_to_come() -> None:
    """Predictions every second, delays exponential with a mean of 100 s: 90 % are there after 230 s."""
    rng = np.random.default_rng(3)
    errors, naive = [], []
    for _ in range(40):
        delays, now, seen = Delays(), 700.0, []
        for second in range(700):
            delay = rng.exponential(100.0)
            if second + delay <= now:
                delays.add(int(rng.integers(2**63)), float(second), second + delay)
                seen.append(delay)
        age = delays.maturity(now)
        assert age is not None
        errors.append(age - 100 * np.log(10))
        naive.append(np.quantile(seen, 0.9) - 100 * np.log(10))
    assert abs(np.mean(errors)) < 12
    assert np.mean(naive) < -30  # what forgetting the truncation would give


def test_maturity_is_unknown_while_labels_were_not_watched_for_long_enough() -> None:
    rng = np.random.default_rng(4)
    delays = Delays()
    assert delays.maturity(0.0) is None
    for second in range(600):
        delay = rng.uniform(0, 86_400)  # a day, of which we have seen ten minutes
        if second + delay <= 600:
            delays.add(int(rng.integers(2**63)), float(second), second + delay)
    for second in range(30):
        delays.add(second, 0.0, 500.0 + second)
    assert delays.maturity(600.0) is None
    quick = Delays()
    for second in range(30):
        quick.add(second, float(second), second + 0.5)
    assert quick.maturity(60.0) == pytest.approx(0.5)


def test_memory_of_delays_is_bounded() -> None:
    rng = np.random.default_rng(5)
    delays = Delays()
    for second in range(20_000):
        delays.add(int(rng.integers(2**64, dtype=np.uint64)), float(second), second + 1.0)
    assert len(delays.curve(30_000.0)) == 1
    assert len(delays._delays) <= 2_000


def test_a_prediction_without_a_label_is_censored_and_not_a_no() -> None:
    """By hand: five predictions; labels after 1 and 3, and three without, of the ages 2, 4 and 9."""
    steps = arrived([9, 9, 2, 4, 9], [1, 3, np.nan, np.nan, np.nan])
    assert [delay for delay, _ in steps] == [1, 3]
    # 1 of 5, then 1 of the 3 that were old enough for a delay of 3.
    assert [share for _, share in steps] == pytest.approx([0.2, 1 - 0.8 * 2 / 3])
    assert arrived([1.0], [np.nan]) == ()
    assert arrived([], []) == ()


def test_the_share_that_gets_a_label_is_right_in_spite_of_young_predictions() -> None:
    rng = np.random.default_rng(6)
    ages = rng.uniform(0, 1_000, 4_000)
    delays = np.where(rng.random(4_000) < 0.6, rng.exponential(200, 4_000), np.inf)
    seen = np.where(delays <= ages, delays, np.nan)
    steps = dict(arrived(ages, seen))
    at = max(delay for delay in steps if delay <= 400)
    assert steps[at] == pytest.approx(0.6 * (1 - np.exp(-2)), abs=0.03)
    # What counting "no label yet" as "no label" would give.
    assert np.isfinite(seen).mean() < 0.5

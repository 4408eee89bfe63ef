import numpy as np
import pytest

from rung.stats.delays import Delays


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

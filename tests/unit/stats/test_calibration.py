import numpy as np
import pytest

from rung.domain.errors import InvalidInput
from rung.stats.calibration import reliability


def _drawn(rng: np.random.Generator, rows: int, pull: float) -> tuple[np.ndarray, np.ndarray]:
    """Confidence, and whether it was so; the truth is `pull` of the way to one half."""
    said = rng.beta(2, 1, rows)
    return said, rng.random(rows) < said + pull * (0.5 - said)


def test_a_model_that_is_right_about_itself_has_an_error_that_begins_at_zero() -> None:
    """In at least 95 % of 200 cards; the plain mean distance would be off by 0.05 in all of them."""
    rng = np.random.default_rng(1)
    found = [reliability(*_drawn(rng, 300, 0.0)).error for _ in range(200)]

    assert np.mean([one.low == 0 for one in found]) >= 0.95
    assert np.mean([one.estimate for one in found]) < 0.03


@pytest.mark.parametrize(("rows", "pull"), [(400, 0.4), (1_000, 0.3)])
def test_coverage_of_the_error(rows: int, pull: float) -> None:
    """At least 0.88 of 300 intervals at 95 %: with few bins the normal form is a little too narrow."""
    rng = np.random.default_rng(2)
    said, right = _drawn(rng, 400_000, pull)
    places = np.searchsorted(np.quantile(said, np.linspace(0, 1, 11)[1:-1]), said)
    truth = np.sqrt(np.mean([(right - said)[places == one].mean() ** 2 for one in range(10)]))

    found = [reliability(*_drawn(rng, rows, pull)).error for _ in range(300)]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.88


def test_rows_of_one_group_make_the_interval_wider() -> None:
    rng = np.random.default_rng(3)
    said, right = _drawn(rng, 60, 0.4)
    said, right, groups = np.repeat(said, 10), np.repeat(right, 10), np.repeat(np.arange(60), 10)

    alone, grouped = reliability(said, right).error, reliability(said, right, groups).error
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)
    assert grouped.method == "debiased square by group"


def test_bins_that_were_all_right_are_not_certain() -> None:
    said = np.r_[np.full(20, 0.9), np.full(20, 0.1)]
    found = reliability(said, said > 0.5)

    assert found.error.low == 0
    assert [one.estimate for one in found.right] == [0, 1]
    assert found.right[1].low < 0.9


def test_too_few_rows() -> None:
    with pytest.raises(InvalidInput, match="too few"):
        reliability(np.linspace(0, 1, 39), np.ones(39, bool))

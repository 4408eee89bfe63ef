import numpy as np
import pytest

from rung.domain.releases import LADDER
from rung.fleet.expect import expect, growth, served
from rung.fleet.policy import read_policy
from rung.stats.quantiles import Histogram
from rung.stats.sequential import Moments

POLICY = read_policy({})
ERRORS = POLICY.guards[0].rule
LATENCY = POLICY.guards[1].rule


def test_what_a_rollout_needs_is_said_before_it_starts() -> None:
    found = expect(POLICY, 0.05)
    assert found.least == served(POLICY, LADDER, 30_000) == 200 + 50_000 + 40_000 + 30_000 + 40_000
    assert found.passes is not None
    assert 10_000 < found.passes < 30_000
    assert found.found[0.05] < 2_500 < found.found[0.01] < 30_000
    assert found.percent == {0.01: 50.0, 0.05: 5.0}
    assert "160,200 units served in all" in str(found)


def test_it_can_be_said_of_a_service_that_never_fails_and_without_an_errors_guard() -> None:
    assert expect(POLICY, 0.0).passes is not None
    assert expect(read_policy({"guard": ["latency"]})).passes is None


def test_how_much_more_of_the_same_decides() -> None:
    few = (Moments.of_rate(50, 1_000), Moments.of_rate(50, 1_000))
    more = growth(ERRORS, *few)
    assert more is not None
    assert 10 < more < 25
    assert growth(ERRORS, *few, "fail") is None
    worse = growth(ERRORS, Moments.of_rate(50, 1_000), Moments.of_rate(65, 1_000), "fail")
    assert worse is not None
    assert worse > 2
    assert growth(ERRORS, Moments(), Moments()) is None
    quick = Histogram.of(np.full(60, 0.01))
    assert growth(LATENCY, quick, quick) == pytest.approx(3, abs=3)

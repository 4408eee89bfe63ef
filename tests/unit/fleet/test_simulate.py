"""The promise of a rollout, on paper: how often it is wrong and what it finds, by the plan that the controller uses.

Errors of 5 % of the units; the errors guard has the half of alpha = 1 % that it has beside the latency guard.
"""

import numpy as np
import pytest

from rung.domain.releases import LADDER, shares_of
from rung.fleet.policy import Policy, read_policy
from rung.fleet.simulate import Climb, climb, released, share_of
from rung.stats.quantiles import Histogram

ERRORS = read_policy({"guard": ["errors"], "alpha": 0.005})
SEVERAL = 1_000


def climbs(harm: float, runs: int, *, seed: int, looks: int = 12, policy: Policy = ERRORS) -> list[Climb]:
    rng = np.random.default_rng(seed)
    return [climb(policy, rate=0.05, harm=harm, rng=rng, looks=looks) for _ in range(runs)]


def test_equal_versions_are_promoted() -> None:
    found = climbs(0.0, 30, seed=1)
    assert share_of(found, "rolled back").count == 0
    assert share_of(found, "promoted").count >= 29
    assert all(one.percent == 50.0 for one in found if one.end == "promoted")


def test_one_point_of_harm_is_found_by_80_000_units_at_25_and_50_percent() -> None:
    found = climbs(0.01, 30, seed=2)
    assert share_of(found, "rolled back", late=80_000).count >= 25
    assert share_of(found, "promoted").count == 0


def test_five_points_of_harm_are_found_before_25_percent() -> None:
    found = climbs(0.05, 60, seed=3)
    assert share_of(found, "rolled back", late=0).count == 60


def test_a_candidate_that_fails_everybody_reaches_a_handful_of_units() -> None:
    found = climbs(0.95, 20, seed=4, looks=100)
    assert all(one.end == "rolled back" and one.percent == 0.0 for one in found)  # its copies give it away
    unshadowed = read_policy({"guard": ["errors"], "ladder": LADDER[1:]})
    found = climbs(0.95, 20, seed=5, looks=100, policy=unshadowed)
    assert all(one.rule == "wire: errors" and one.percent == 1.0 for one in found)
    # 1 % of them by the candidate: about five units each time it was looked.
    assert max(one.units for one in found) <= 1_500


def test_latencies_take_part() -> None:
    seconds = Histogram.of(np.random.default_rng(6).lognormal(-4, 0.5, 20_000))
    rng = np.random.default_rng(7)
    found = [climb(read_policy({}), rate=0.05, harm=0.0, rng=rng, looks=3, seconds=seconds) for _ in range(3)]
    assert {one.end for one in found} == {"promoted"}


def test_a_release_on_paper_is_one_of_a_real_ladder() -> None:
    for stage, percent in enumerate(LADDER[:-1]):
        release = released(LADDER, stage)
        assert release.rollout is not None
        assert release.rollout.percent == percent
        shares = shares_of(release.ranges)
        assert shares.get("canary", 0) == shares.get("baseline", 0) == percent * 10_000


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_a_thousand_rollouts_of_each_kind(capsys: pytest.CaptureFixture[str]) -> None:
    equal, small, large = (climbs(harm, SEVERAL, seed=11, looks=20) for harm in (0.0, 0.01, 0.05))
    false = share_of(equal, "rolled back")
    found = share_of(small, "rolled back", late=80_000)
    early = share_of(large, "rolled back", late=0)
    with capsys.disabled():
        print(f"\nA/A taken back: {false}; promoted: {share_of(equal, 'promoted')}")
        print(f"1 point more, taken back by 80,000 units at 25-50 %: {found}")
        print(f"5 points more, taken back before 25 %: {early}")
    assert false.rate <= 0.01
    assert found.rate >= 0.85
    assert early.rate >= 0.99

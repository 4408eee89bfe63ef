"""What the next release is: on paper, without a repository."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain import moves
from rung.domain.errors import InvalidInput
from rung.domain.releases import BUCKETS, LADDER, UNIT, Arm, Move, Rollout, Segment, arm_at, shares_of

BY = Move("release", "ana")


def stable(version=1):
    return Arm("stable", version, f"d{version}", "stable", BUCKETS)


def first(version=1):
    return moves.whole(None, "m", version, f"d{version}", BY)


def climb(ladder):
    """The release at each stage of a rollout of version 2."""
    draft, found = first(), []
    for stage in range(len(ladder)):
        draft = moves.at_stage(draft, stable(), Rollout(2, "d2", tuple(ladder), stage))
        found.append(draft)
    return found


def buckets_of(release, name):
    return [(start, stop) for start, stop, arm in release.ranges if arm == name]


def within(inner, outer):
    return all(any(low <= start and stop <= high for low, high in outer) for start, stop in inner)


def test_a_first_release_answers_everybody():
    made = first()
    assert made.arms == (stable(),)
    assert made.ranges == ((0, BUCKETS, "stable"),)
    assert (made.unit, made.salt, made.keep, made.latched) == (UNIT, "m:1", (), ())
    assert made.main == made.stable == made.arm("stable")
    assert made.shadow is None
    assert made.arm("canary") is None


def test_the_version_before_stays_loaded_and_only_that():
    second = moves.whole(first(), "m", 2, "d2", BY)
    third = moves.whole(second, "m", 3, "d3", BY)
    assert (second.keep, second.versions) == ((1,), (1, 2))
    assert (third.keep, third.versions) == ((2,), (2, 3))
    # The same again changes nothing about that.
    assert moves.whole(third, "m", 3, "d3", BY).keep == (2,)


@pytest.mark.parametrize(
    ("percent", "shares"),
    [
        (0.0, {"stable": BUCKETS}),
        (1.0, {"stable": 980_000, "canary": 10_000, "baseline": 10_000}),
        (5.0, {"stable": 900_000, "canary": 50_000, "baseline": 50_000}),
        (50.0, {"canary": 500_000, "baseline": 500_000}),
        (75.0, {"canary": 750_000, "baseline": 250_000}),
        (0.0001, {"stable": 999_998, "canary": 1, "baseline": 1}),
    ],
)
def test_a_stage_has_a_baseline_beside_its_canary(percent, shares):
    [release] = climb([percent])
    assert shares_of(release.ranges) == shares
    assert {arm.name: arm.share for arm in release.arms if arm.share} == shares
    roles = {arm.name: (arm.role, arm.version) for arm in release.arms}
    if percent:
        assert roles == {"stable": ("stable", 1), "canary": ("canary", 2), "baseline": ("baseline", 1)}
    else:
        assert roles == {"stable": ("stable", 1), "shadow": ("shadow", 2)}
        assert release.shadow == Arm("shadow", 2, "d2", "shadow", 0)
    assert release.rollout.percent == percent
    assert release.versions == (1, 2)


@given(st.lists(st.floats(0.0001, 50.0), min_size=1, max_size=8, unique=True))
def test_whoever_is_in_an_experiment_stays_in_its_arm_while_it_climbs(stages):
    for one, other in pairwise(climb([0.0, *sorted(stages)])):
        for name in ("canary", "baseline"):
            assert within(buckets_of(one, name), buckets_of(other, name)), name


def test_beyond_half_the_canary_still_keeps_whom_it_has():
    for one, other in pairwise(climb([5.0, 50.0, 70.0, 90.0])):
        assert within(buckets_of(one, "canary"), buckets_of(other, "canary"))


def test_a_stage_ends_audiences():
    before = first()
    draft = moves.begin(before, "m", stable(), BY)
    assert moves.at_stage(draft, stable(), Rollout(2, "d2", (5.0,))).segments == ()


def test_releasing_whole_forgets_that_it_was_taken_back():
    from msgspec.structs import replace

    latched = replace(first(), latched=("d2", "d3"))
    assert moves.whole(latched, "m", 2, "d2", BY).latched == ("d3",)


@pytest.mark.parametrize(("asked", "becomes"), [("", "cookie:s"), ("json:user", "json:user"), ("address", "address")])
def test_a_unit_stays_until_another_is_asked_for(asked, becomes):
    before = moves.begin(None, "m", stable(), BY, "cookie:s")
    assert before.unit == "cookie:s"
    assert moves.begin(before, "m", stable(), BY, asked).unit == becomes
    with pytest.raises(InvalidInput, match="is none of"):
        moves.begin(before, "m", stable(), BY, "who")


@pytest.mark.parametrize("ladder", [LADDER, (0.0,), (100.0,), (5.0, 50.0), (0.0001,), (99.9999, 100.0)])
def test_ladders(ladder):
    assert moves.check_ladder(ladder) == ladder


@pytest.mark.parametrize(
    "ladder",
    [(), (5.0, 5.0), (5.0, 1.0), (-1.0, 5.0), (100.1,), (float("nan"),), (float("inf"),), (0.00005,), (99.99995,)],
)
def test_what_is_no_ladder_is_refused(ladder):
    with pytest.raises(InvalidInput, match="must rise and be percentages") as caught:
        moves.check_ladder(ladder)
    assert caught.value.field == "ladder"


def test_percentages_become_buckets_that_leave_nobody_out():
    assert moves.buckets({1: 95.0, 2: 5.0}) == {1: 950_000, 2: 50_000}
    assert moves.buckets({1: 100.0, 2: 0.0}) == {1: BUCKETS, 2: 0}
    thirds = moves.buckets({1: 100 / 3, 2: 100 / 3, 3: 100 / 3})
    assert sum(thirds.values()) == BUCKETS
    assert sorted(thirds.values()) == [333_333, 333_333, 333_334]


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20))
def test_any_shares_sum_to_all_and_are_what_was_asked_for(weights):
    asked = {number: weight * 100 / sum(weights) for number, weight in enumerate(weights, 1)}
    found = moves.buckets(asked)
    assert sum(found.values()) == BUCKETS
    assert all(abs(found[one] / BUCKETS * 100 - asked[one]) <= 0.002 for one in asked)


@pytest.mark.parametrize(
    "shares",
    [{}, {1: 50.0}, {1: 95.0, 2: 6.0}, {1: 105.0, 2: -5.0}, {1: float("nan"), 2: 5.0}, {1: float("inf")}],
    ids=repr,
)
def test_percentages_that_do_not_sum_to_100_are_refused(shares):
    with pytest.raises(InvalidInput, match="percentages that sum to 100"):
        moves.buckets(shares)


def test_an_audience_needs_an_attribute_and_an_arm():
    moves.check_segments((Segment("header:plan", ("beta",), "v2"),), {"v1", "v2"})
    with pytest.raises(InvalidInput, match=r"goes to 'v3'; there are \['v1', 'v2'\]"):
        moves.check_segments((Segment("header:plan", ("beta",), "v3"),), {"v1", "v2"})
    with pytest.raises(InvalidInput, match="is none of header:NAME, cookie:NAME, json:NAME"):
        moves.check_segments((Segment("address", ("10.0.0.1",), "v1"),), {"v1"})


def test_every_bucket_of_a_stage_belongs_to_an_arm_that_there_is():
    for release in climb(LADDER[:-1]):
        names = {arm.name for arm in release.arms}
        assert {arm_at(release.ranges, at) for at in range(0, BUCKETS, 9973)} <= names

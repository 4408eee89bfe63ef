"""Units, buckets, and what a change of shares moves."""

from bisect import bisect_right
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import InvalidInput
from rung.domain.releases import BUCKETS, arm_at, bucket, check_attribute, divide, shares_of

NAMES = ("a", "b", "c", "d")


@st.composite
def shares(draw):
    """Shares of up to four arms that sum to all buckets; some may be 0."""
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, BUCKETS), min_size=len(names) - 1, max_size=len(names) - 1)))
    return {name: stop - start for name, (start, stop) in zip(names, pairwise([0, *cuts, BUCKETS]), strict=True)}


def moved(before, after):
    """Buckets whose arm changed, and the (from, to) of each."""
    edges = sorted({edge for start, stop, _ in (*before, *after) for edge in (start, stop)})
    pairs = Counter()
    for start, stop in pairwise(edges):
        one, other = arm_at(before, start), arm_at(after, start)
        if one != other:
            pairs[one, other] += stop - start
    return pairs


def covers(ranges):
    return [start for start, _, _ in ranges] == [0, *(stop for _, stop, _ in ranges[:-1])] and ranges[-1][1] == BUCKETS


@given(st.lists(shares(), min_size=1, max_size=6))
def test_dividing_again_and_again_moves_exactly_what_has_to_move(steps):
    ranges = ()
    for wanted in steps:
        before, ranges = ranges, divide(ranges, wanted)
        assert covers(ranges)
        assert all(start < stop for start, stop, _ in ranges)
        assert all(one[2] != other[2] for one, other in pairwise(ranges)), "neighbours of one arm are one range"
        assert shares_of(ranges) == {name: share for name, share in wanted.items() if share}
        if not before:
            continue
        had = shares_of(before)
        pairs = moved(before, ranges)
        growth = {name: wanted.get(name, 0) - had.get(name, 0) for name in had.keys() | wanted.keys()}
        assert sum(pairs.values()) == sum(change for change in growth.values() if change > 0)
        # Who leaves an arm leaves one that shrinks, and comes into one that grows.
        assert all(growth[one] < 0 < growth[other] for one, other in pairs)


@given(shares())
def test_the_same_shares_move_nobody(wanted):
    ranges = divide((), wanted)
    assert divide(ranges, dict(reversed(wanted.items()))) == ranges


@pytest.mark.parametrize(
    "wanted", [{}, {"a": BUCKETS - 1}, {"a": BUCKETS + 1, "b": -1}, {"a": BUCKETS, "b": 1}], ids=repr
)
def test_shares_that_do_not_add_up_are_refused(wanted):
    with pytest.raises(InvalidInput, match="sum to 1000000"):
        divide((), wanted)


def test_ranges_that_end_too_soon_cover_nobody_there():
    with pytest.raises(ValueError, match="no range covers bucket 7"):
        arm_at(((0, 5, "a"),), 7)


# --- units ------------------------------------------------------------------------------------------


def test_a_unit_keeps_its_bucket_for_ever():
    # Written down: another release of rung must put everybody where they were.
    assert [bucket("m:1", unit) for unit in ("", "u1", "Zoë", "10.0.0.1")] == [890801, 29959, 224194, 769992]


def chi_square(counts, expected):
    return sum((count - expected) ** 2 / expected for count in counts)


def test_buckets_are_uniform():
    count, cells = 200_000, 100
    counts = Counter(bucket("m:1", f"user-{number}") * cells // BUCKETS for number in range(count))
    # 99 degrees of freedom: beyond 160 by chance once in 10,000 choices of the salt. The hash does not change.
    assert chi_square((counts[cell] for cell in range(cells)), count / cells) < 160


def test_buckets_of_two_salts_have_nothing_to_do_with_each_other():
    count, cells = 100_000, 10
    pairs = Counter(
        (bucket("m:1", f"{number}") * cells // BUCKETS, bucket("m:2", f"{number}") * cells // BUCKETS)
        for number in range(count)
    )
    expected = count / cells**2
    assert chi_square((pairs[one, other] for one in range(cells) for other in range(cells)), expected) < 160


def test_a_million_units_get_the_shares_that_were_asked_for_and_only_the_needed_move():
    wanted = {"stable": 0.85, "canary": 0.05, "baseline": 0.10}
    first = divide((), {name: round(share * BUCKETS) for name, share in wanted.items()})
    second = divide(first, {"stable": 650_000, "canary": 250_000, "baseline": 100_000})
    stops = [[stop for _, stop, _ in ranges] for ranges in (first, second)]
    names = [[name for _, _, name in ranges] for ranges in (first, second)]
    seen, moves = Counter(), Counter()
    for number in range(1_000_000):
        at = bucket("m:1", f"unit {number}")
        one = names[0][bisect_right(stops[0], at)]
        other = names[1][bisect_right(stops[1], at)]
        seen[one] += 1
        if one != other:
            moves[one, other] += 1
    for name, share in wanted.items():
        assert abs(seen[name] / 1e6 - share) < 0.001, (name, seen)
    assert moves.keys() == {("stable", "canary")}
    assert abs(moves["stable", "canary"] / 1e6 - 0.20) < 0.001
    # The same in another process, whatever its hash seed: it is a function of salt and unit.
    assert arm_at(first, bucket("m:1", "unit 7")) == names[0][bisect_right(stops[0], bucket("m:1", "unit 7"))]


def test_a_unit_of_any_text_has_a_bucket():
    for unit in ("\udcff", "a" * 100_000, "\0", "é"):
        assert 0 <= bucket("m:1", unit) < BUCKETS


@pytest.mark.parametrize("attribute", ["header:rung-unit", "cookie:session", "json:user", "header:x:y"])
def test_attributes(attribute):
    assert check_attribute(attribute) == attribute
    assert check_attribute(attribute, address=True) == attribute


@pytest.mark.parametrize(
    "attribute", ["", "address", "header", "header:", "query:x", "cookie:a\nb", "HEADER:x", 'json:a"', "json:a\\b"]
)
def test_what_is_no_attribute_is_refused_with_what_is(attribute):
    with pytest.raises(InvalidInput, match=r"is none of header:NAME, cookie:NAME, json:NAME$") as caught:
        check_attribute(attribute)
    assert caught.value.field == "unit"


def test_an_address_may_be_a_unit_but_no_audience():
    assert check_attribute("address", address=True) == "address"
    with pytest.raises(InvalidInput, match="json:NAME, address"):
        check_attribute("nobody", address=True)

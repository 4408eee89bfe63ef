from math import exp, lgamma, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.loop.exposition import Gains, Sample, least_share, read


def test_reads_names_labels_and_values() -> None:
    page = '# HELP a b\na 1\nb_total{x="1",y="q\\"\\\\\\n,}"} 2.5\nc{} NaN\nbroken{ 1\nd{x="1"} word\n'
    found = list(read(page))
    assert found[:2] == [Sample("a", {}, 1.0), Sample("b_total", {"x": "1", "y": 'q"\\\n,}'}, 2.5)]
    assert [one.name for one in found] == ["a", "b_total", "c"]


@given(st.text())
def test_takes_any_text(page: str) -> None:
    list(read(page))


def test_gains_over_a_window_with_counters_that_begin_anew() -> None:
    gains = Gains(60)
    a, b, late = ("p", "a"), ("p", "b"), ("q", "a")
    assert gains.look(1000, {a: 500.0}) is None
    assert gains.look(1010, {a: 510.0, b: 3.0, late: 1e6}) == {a: 10.0, b: 3.0, late: 0.0}
    assert gains.look(1020, {b: 3.0}) == {a: 10.0, b: 3.0, late: 0.0}  # not seen is not gone
    assert gains.look(1030, {a: 4.0, b: 3.0}) == {a: 14.0, b: 3.0, late: 0.0}
    assert gains.look(1075, {a: 4.0, b: 3.0}) == {a: 4.0, b: 0.0}
    assert gains.look(10, {a: 5.0, b: 3.0}) == {a: 1.0, b: 0.0}  # the clock was set back


@pytest.mark.parametrize(("count", "share", "alpha"), [(50, 0.01, 1e-3), (400, 0.01, 1e-6), (2000, 0.05, 0.01)])
def test_the_least_share_is_too_large_no_more_often_than_it_says(count: int, share: float, alpha: float) -> None:
    """Exactly, summed over all that can be seen."""
    wrong = sum(
        exp(
            lgamma(count + 1)
            - lgamma(seen + 1)
            - lgamma(count - seen + 1)
            + seen * log(share)
            + (count - seen) * log(1 - share)
        )
        for seen in range(min(count, 300) + 1)
        if least_share(seen, count, alpha) > share
    )
    assert wrong <= alpha


def test_the_least_share_is_not_far_below_what_is_seen() -> None:
    assert least_share(0, 100, 1e-6) == 0.0
    assert least_share(0, 0, 1e-6) == 0.0
    assert least_share(100, 100, 1e-6) == pytest.approx(0.871, abs=1e-3)
    assert least_share(1000, 10_000, 1e-6) == pytest.approx(0.0846, abs=1e-3)
    assert least_share(5, 100, 1e-6) < 0.01 < least_share(12, 100, 1e-6)

"""A line through two small trials, which never promises less than was seen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.training.smoke import extrapolate

rows = st.integers(1, 10**6)
values = st.floats(0, 1e6)


@given(rows, rows, rows, st.floats(0, 100), st.floats(0, 10))
def test_what_grows_with_the_rows_is_told_exactly(few, more, rest, fixed, each):
    large, whole = few + more, few + more + rest
    found = extrapolate(few, fixed + each * few, large, fixed + each * large, whole)
    assert found == pytest.approx(fixed + each * whole, rel=1e-3, abs=1e-3)


@given(rows, values, rows, values, rows)
def test_it_is_never_less_than_what_was_seen(few, value, large, more, whole):
    assert extrapolate(few, value, large, more, whole) >= max(value, more)

"""The best report is kept, and waiting for a better one ends."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.training.stopping import Plateau

values = st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=30)


def test_it_ends_after_so_many_reports_without_progress():
    plateau = Plateau(minimize=True, patience=2)
    seen = [(plateau.report(step, value), plateau.over) for step, value in enumerate([3.0, 2.0, 2.0, 2.5, 1.0])]
    assert seen == [(True, False), (True, False), (False, False), (False, True), (True, False)]
    assert (plateau.best, plateau.best_step) == (1.0, 4)


def test_without_patience_it_never_ends():
    plateau = Plateau(minimize=False)
    for step in range(100):
        plateau.report(step, -float(step))
    assert not plateau.over
    assert plateau.best_step == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_never_the_best(value):
    plateau = Plateau(minimize=value < 0, patience=1)
    assert not plateau.report(1, value)
    assert plateau.over


@given(values, st.booleans(), st.integers(0, 5))
def test_the_best_is_the_first_best_of_all_that_are_finite(reports, minimize, patience):
    plateau = Plateau(minimize, patience)
    for step, value in enumerate(reports):
        plateau.report(step, value)
    finite = [(value if minimize else -value, step) for step, value in enumerate(reports) if math.isfinite(value)]
    if finite:
        best, step = min(finite)
        assert plateau.best == (best if minimize else -best)
        assert plateau.best_step == step
    else:
        assert plateau.best is None


@given(values, values, st.booleans(), st.integers(0, 5))
def test_it_goes_on_from_what_was_written_as_if_nothing_had_happened(first, second, minimize, patience):
    whole, stopped = Plateau(minimize, patience), Plateau(minimize, patience)
    for step, value in enumerate(first):
        whole.report(step, value)
        stopped.report(step, value)
    again = msgspec.json.decode(msgspec.json.encode(stopped), type=Plateau)
    for step, value in enumerate(second):
        assert whole.report(step, value) == again.report(step, value)
        assert whole.over == again.over

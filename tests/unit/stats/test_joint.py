import math

import numpy as np
import pytest

from rung.stats.drift import judge, numbers
from rung.stats.joint import area_margin, area_under_curve, together

MARGIN = 0.25


def rows(rng, count, *, columns=8, alike=0.0):
    """Normal columns, of which the first two go together by a correlation."""
    found = rng.normal(size=(count, columns))
    found[:, 1] = alike * found[:, 0] + math.sqrt(1 - alike**2) * found[:, 1]
    return found


def test_columns_that_move_only_together_are_seen_where_each_alone_is_quiet():
    rng = np.random.default_rng(1)
    before, now = rows(rng, 1_500, columns=20), rows(rng, 1_000, columns=20, alike=0.8)
    alone = [numbers(before[:, place], now[:, place], margin=MARGIN) for place in range(20)]
    assert min(one.p for one in alone) * 20 > 0.05
    assert {judge(one, significant=one.p < 0.05) for one in alone} == {"quiet"}
    shift = together(before, now, margin=MARGIN)
    assert judge(shift, significant=shift.p < 1e-6) == "drifted"
    assert shift.effect > 0.6


def test_a_mean_and_a_spread_are_seen_too():
    rng = np.random.default_rng(2)
    before = rows(rng, 2_000)
    for now in (rows(rng, 600) + 0.4, rows(rng, 600) * 1.6):
        shift = together(before, now, margin=MARGIN)
        assert judge(shift, significant=shift.p < 0.001) == "drifted"


def test_no_change_alarms_no_more_often_than_is_said():
    rng = np.random.default_rng(3)
    found = [together(rows(rng, 500, columns=5), rows(rng, 200, columns=5), margin=MARGIN) for _ in range(60)]
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.13
    assert np.mean([one.low > 0.5 for one in found]) <= 0.13
    assert np.mean([one.effect for one in found]) == pytest.approx(0.5, abs=0.01)


def test_few_rows_cannot_tell():
    rng = np.random.default_rng(4)
    shift = together(rows(rng, 500), rows(rng, 30), margin=MARGIN)
    assert (shift.p, shift.effect) == (1.0, 0.5)
    assert judge(shift, significant=False) == "underpowered"


def test_rows_that_are_worth_less_show_less():
    rng = np.random.default_rng(5)
    before, now = rows(rng, 1_000), rows(rng, 400) + 0.3
    assert together(before, now, margin=MARGIN, rows=220).p > together(before, now, margin=MARGIN).p


def test_equal_rows_give_equal_answers():
    rng = np.random.default_rng(6)
    before, now = rows(rng, 500), rows(rng, 200)
    assert together(before, now, margin=MARGIN) == together(before, now, margin=MARGIN)


def test_columns_of_one_value_do_no_harm():
    rng = np.random.default_rng(7)
    before, now = rows(rng, 500), rows(rng, 200)
    before[:, 3] = now[:, 3] = 4.0
    assert together(before, now, margin=MARGIN).p > 0.001


def test_the_area_of_normal_distributions_is_the_margin():
    rng = np.random.default_rng(8)
    area = area_under_curve(rng.normal(size=200_000), rng.normal(0.25, 1, 200_000))
    assert area_margin(0.25) == pytest.approx(area, abs=0.003)
    assert area_under_curve(np.array([1.0, 1.0]), np.array([1.0])) == 0.5


def test_rows_of_a_unit_that_are_the_same_are_not_learned_by_heart():
    """Forty users who ask the same again and again: between learned and tested rows none is shared."""
    rng = np.random.default_rng(9)
    before, units = rows(rng, 1_000), np.repeat(np.arange(40), 10)
    areas, naive = [], []
    for _ in range(12):
        now = np.repeat(rows(rng, 40), 10, axis=0)
        areas.append(together(before, now, margin=MARGIN, units=units).effect)
        naive.append(together(before, now, margin=MARGIN).effect)
    assert np.mean(areas) < np.mean(naive) - 0.05
    assert np.mean(areas) == pytest.approx(0.5, abs=0.05)

"""The gate passes what is shown to be good enough, and nothing else."""

import msgspec
import numpy as np
import pytest

from rung.domain.scorecards import Figure
from rung.stats.estimates import mean, paired
from rung.training.compress import gate


def difference(value, low, high, unit=""):
    return Figure("iou", value, low, high, 500, 500, "paired t", unit=unit)


@pytest.mark.parametrize(
    ("low", "high", "direction", "outcome"),
    [
        (-0.008, 0.002, "maximize", "pass"),
        (-0.02, 0.0, "maximize", "inconclusive"),
        (-0.05, -0.02, "maximize", "fail"),
        (-0.002, 0.008, "minimize", "pass"),
        (0.0, 0.02, "minimize", "inconclusive"),
        (0.02, 0.05, "minimize", "fail"),
        (0.02, 0.05, "maximize", "pass"),
    ],
)
def test_three_answers(low, high, direction, outcome):
    assert gate.drop(difference((low + high) / 2, low, high), 0.01, direction).outcome == outcome


def test_several_looks_take_a_wider_interval():
    found = difference(-0.004, -0.009, 0.001)
    assert gate.drop(found, 0.01, "maximize").outcome == "pass"
    wide = gate.drop(found, 0.01, "maximize", looks=12)
    assert wide.outcome == "inconclusive"
    assert wide.evidence["level"] == pytest.approx(1 - 0.05 / 12)


def test_an_error_may_grow_by_a_share_of_itself_and_a_share_by_points():
    share = difference(0.9, 0.88, 0.92)
    assert gate.allowed(0.01, share) == 0.01
    assert gate.allowed(0.01, msgspec.structs.replace(share, value=250.0, unit="label")) == 2.5


def test_one_guard_that_fails_closes_the_gate():
    small = gate.drop(difference(0, -0.001, 0.001), 0.01, "maximize")
    assert gate.judge(small, gate.size(10, 0)).outcome == "pass"
    assert gate.judge(small, gate.size(10, 10)).outcome == "pass"
    assert gate.judge(small, gate.size(11, 10)).outcome == "fail"


def test_a_model_that_is_too_bad_passes_at_most_one_time_in_forty():
    # Drops of exactly the limit: 2 % more wrong than the original, judged on 400 rows.
    rng, passed, tried = np.random.default_rng(0), 0, 1000
    for _ in range(tried):
        old = (rng.random(400) < 0.9).astype(float)
        new = np.where(rng.random(400) < 0.02 / 0.9, 0.0, old)
        found = paired(mean("accuracy", new, "share"), mean("accuracy", old, "share"))
        figure = Figure("accuracy", found.estimate, found.low, found.high, 400, 400, found.method)
        passed += gate.drop(figure, 0.02, "maximize").outcome == "pass"
    # 2.5 % is promised. Three standard errors of 1,000 trials are 1.5 %.
    assert passed / tried < 0.04


@pytest.mark.parametrize(("rows", "outcome"), [(300, "inconclusive"), (500, "pass")])
def test_equal_answers_on_few_rows_show_little(rows, outcome):
    # No row in `rows` turned: the drop is under 3.7 / rows with 97.5 % (the exact binomial bound).
    right = (np.arange(rows) % 10 > 0).astype(float)
    found = paired(mean("accuracy", right, "share"), mean("accuracy", right, "share"))
    figure = Figure("accuracy", found.estimate, found.low, found.high, rows, rows, found.method)
    assert gate.drop(figure, 0.01, "maximize").outcome == outcome

"""What is tried, and in which order."""

import pytest

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.training.compress.plans import Wanted, plans


def names(wanted, *, size=1000, calibrated=True):
    return [", ".join(step.name for step in plan) for plan in plans(wanted, size=size, calibrated=calibrated)]


def test_without_a_budget_all_that_was_asked_for_is_done_at_once():
    wanted = Wanted(freeze=True, int8="dynamic", prune=0.5)
    assert names(wanted) == ["freeze, prune 0.5, int8 dynamic"]


def test_with_a_budget_the_least_harmful_comes_first():
    assert names(Wanted(budget=10))[:5] == [
        "freeze",
        "freeze, int8 static",
        "freeze, int8 dynamic",
        "freeze, prune 0.25",
        "freeze, prune 0.25, int8 static",
    ]
    assert names(Wanted(budget=10))[-1] == "freeze, prune 0.75, int8 dynamic"
    assert not any("static" in name for name in names(Wanted(budget=10), calibrated=False))


def test_with_a_budget_only_what_was_asked_for_is_used():
    assert names(Wanted(int8="static", prune=0.5, budget=10)) == [
        "int8 static",
        "prune 0.25",
        "prune 0.25, int8 static",
        "prune 0.5",
        "prune 0.5, int8 static",
    ]


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InvalidInput, match="--freeze"):
        names(Wanted())
    with pytest.raises(InvalidInput, match="prune is 1"):
        Wanted(prune=1.0)
    with pytest.raises(InvalidInput, match="max-drop"):
        Wanted(freeze=True, max_drop=-0.1)
    with pytest.raises(ConfigurationError, match="nothing to do"):
        names(Wanted(budget=1000))

"""What may be searched, and how a trial draws it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.domain.studies import Range
from rung.settings.file import parse
from rung.training.search_space import check, draw

PARAMS = {"depth": 3, "rate": 0.1, "kind": "a", "quiet": True}
_FILE = """
[models.m]
params = {{ depth = 3 }}
[models.m.tune]
space = {{ depth = {} }}
"""


class _Dice:
    """Draws the lowest of everything, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        self.asked[name] = (low, high, step, log)
        return low

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        self.asked[name] = (low, high, step, log)
        return float(low)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked[name] = choices
        return choices[0]


def test_a_trial_draws_what_is_searched_and_keeps_the_rest() -> None:
    dice = _Dice()
    space = {"depth": Range(2, 12, step=2), "rate": Range(1e-4, 1, log=True), "quiet": (True, False)}
    assert draw(dice, space, PARAMS) == {"depth": 2, "rate": 1e-4, "kind": "a", "quiet": True}
    assert dice.asked == {"depth": (2, 12, 2, False), "rate": (1e-4, 1, None, True), "quiet": [True, False]}


def test_whole_bounds_of_a_fraction_give_fractions() -> None:
    assert isinstance(draw(_Dice(), {"rate": Range(0, 1)}, PARAMS)["rate"], float)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "has no space to search"),
        ({"width": Range(1, 2)}, "'width', which is no parameter of the model; params has: depth, rate"),
        ({"kind": Range(1, 2)}, "'a', which is no number: list its values"),
        ({"quiet": Range(0, 1)}, "True, which is no number"),
        ({"depth": Range(0.5, 2)}, "whole number 3"),
        ({"kind": ("a",)}, "two different values"),
        ({"kind": ("a", "a")}, "two different values"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(space: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        check(space, PARAMS, "m")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("{ low = 5, high = 5 }", "low has to be below high"),
        ("{ low = 0, high = 5, log = true }", "begins above 0"),
        ("{ low = 1, high = 5, step = 9 }", "step = 9"),
        ("{ low = 1, high = 5, step = 0.5 }", "has to be whole"),
        ("{ low = 1, high = 5, log = true, step = 2 }", "goes without log"),
        ("{ low = 1, hihg = 5 }", "hihg"),
        ("7", "Expected"),
    ],
)
def test_the_file_says_where_a_range_is_wrong(values: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"rung.toml:5: .*{said}"):
        parse(_FILE.format(values))


@given(st.integers(-99, 99), st.integers(-99, 99))
def test_a_range_is_good_or_refused(low: int, high: int) -> None:
    if low < high:
        assert Range(low, high).whole
    else:
        with pytest.raises(InvalidInput):
            Range(low, high)

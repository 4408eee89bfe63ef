"""Which values a search may try, and how a trial draws them. Pure but for what `trial` draws."""

from collections.abc import Mapping
from typing import Any, Protocol

from rung.domain.errors import ConfigurationError
from rung.domain.studies import Range, Space

__all__ = ["Draws", "check", "draw"]


class Draws(Protocol):
    """The part of Optuna's `Trial` that this needs."""

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number, both ends included."""
        ...

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A number, both ends included."""
        ...

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of several values."""
        ...


def check(space: Space, params: Mapping[str, Any], model: str) -> None:
    """Refuse a space that does not fit the model's parameters.

    Raises:
        ConfigurationError: it is empty, names what is no parameter, or holds values of another kind.
    """
    section = f"[models.{model}.tune]"
    if not space:
        raise ConfigurationError(
            f"{section} has no space to search: add space = {{ NAME = {{ low = 1, high = 10 }} }}, or "
            'NAME = ["a", "b"], for parameters of the model'
        )
    for name, values in space.items():
        if name not in params:
            there = ", ".join(params) or "none"
            raise ConfigurationError(
                f"{section} searches {name!r}, which is no parameter of the model; params has: {there}"
            )
        if not isinstance(values, Range):
            if len(set(map(repr, values))) < 2:
                raise ConfigurationError(f"{section}: {name} needs two different values at least, not {list(values)}")
            continue
        old = params[name]
        if isinstance(old, bool) or not isinstance(old, int | float):
            raise ConfigurationError(f"{section}: {name} is {old!r}, which is no number: list its values instead")
        if isinstance(old, int) and not values.whole:
            raise ConfigurationError(
                f"{section}: {name} is the whole number {old}: write low and high as whole numbers, or the parameter "
                f"as {float(old)}"
            )


def draw(trial: Draws, space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of one trial: those of the space drawn, all others as they are.

    A parameter that is a float gets floats, also from `{ low = 0, high = 1 }`.
    """
    made = dict(params)
    for name, values in space.items():
        if not isinstance(values, Range):
            made[name] = trial.suggest_categorical(name, list(values))
        elif values.whole and not isinstance(params[name], float):
            made[name] = trial.suggest_int(
                name, int(values.low), int(values.high), step=int(values.step or 1), log=values.log
            )
        else:
            made[name] = trial.suggest_float(name, values.low, values.high, step=values.step, log=values.log)
    return made

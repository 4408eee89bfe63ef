"""Parameters of a run: those of the project's file, with some changed."""

from collections.abc import Mapping
from typing import Any

from rung.domain.errors import InvalidInput
from rung.domain.names import rather

__all__ = ["with_params"]

_KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text", list: "list", dict: "table"}


def with_params(params: Mapping[str, Any], given: Mapping[str, Any], model: str) -> dict[str, Any]:
    """`params` with those of `given` put in; a whole number may stand for a number.

    Raises:
        InvalidInput: a name that the file does not have, or a value of another kind than the file's.
    """
    made = dict(params)
    for key, value in given.items():
        if key not in params:
            raise InvalidInput(f"[models.{model}] has no parameter {key!r}; {rather(key, params)}", field="set")
        old = params[key]
        number = isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool)
        if not number and type(value) is not type(old):
            kind = _KINDS.get(type(old), type(old).__name__)
            raise InvalidInput(f"the parameter {key} is {old!r}, and {value!r:.80} is no {kind}", field="set")
        made[key] = float(value) if number else value
    return made

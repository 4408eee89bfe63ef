"""How good predictions were, by what turned out to be right: values of a report on live quality."""

import math
from typing import Any

from rung.domain.records import Kind

__all__ = ["quality_of"]


def quality_of(kind: Kind, value: Any, predicted: str = "") -> float | None:
    """How good a prediction was by its feedback, higher is better; None where it does not say.

    A score is a number or true/false. A label names the class that would have been right, which is compared with the
    one `predicted`, or says so by `{"correct": true}` or `{"score": 0.8}`, or is itself true/false. A correction says
    that the answer was wrong, but nobody corrects what was right: it counts on its own.
    """
    if kind == "label" and predicted and isinstance(value, str | int) and not isinstance(value, bool):
        return float(str(value) == predicted)
    if kind in ("label", "mask") and isinstance(value, dict):
        value = value.get("correct", value.get("score"))
    elif kind != "score" and not isinstance(value, bool):
        return None
    if kind == "correction" or not isinstance(value, bool | int | float):
        return None
    number = float(value)
    return number if math.isfinite(number) else None

"""A retraining: why it was asked for, and what was decided at each step on the way to a release. Pure.

    extract -> validate -> train -> gate -> release

Each step leaves one decision. After one that is not `pass` the rest is left out, and the retraining has ended.
"""

from typing import Any, Literal, get_args

import msgspec

from rung.domain.rules import Outcome

__all__ = ["CAUSES", "STEPS", "Cause", "Decision", "Request", "Retraining", "Step"]

Cause = Literal["manual", "schedule", "labels", "quality", "drift"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
Step = Literal["extract", "validate", "train", "gate", "release"]
STEPS: tuple[Step, ...] = get_args(Step)


class Request(msgspec.Struct, frozen=True):
    """That a model be trained anew."""

    cause: Cause
    occasion: str
    """What tells two requests of a cause apart: one occasion is one retraining, whoever notices it."""
    why: str
    """A sentence for a person."""
    at: float
    """Seconds since the epoch."""
    by: str = "loop"
    """Who asked: a person, or the loop."""
    evidence: dict[str, Any] = {}
    """Plain JSON values that it rests on."""


class Decision(msgspec.Struct, frozen=True):
    """How a step ended."""

    outcome: Outcome
    why: str
    at: float
    """Seconds since the epoch."""
    result: dict[str, Any] = {}
    """What the next steps go by, and what the decision rests on: plain JSON values."""


class Retraining(msgspec.Struct, frozen=True):
    """A request with the decisions so far, in the order of the steps."""

    model: str
    number: int
    request: Request
    decisions: dict[Step, Decision] = {}

    @property
    def stopped(self) -> Decision | None:
        """The decision that ended it before its release; None while there is none."""
        return next((one for one in self.decisions.values() if one.outcome != "pass"), None)

    @property
    def over(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self.stopped is not None or "release" in self.decisions

    @property
    def next(self) -> Step | None:
        """The step that is due; None when it is over."""
        return None if self.over else next(step for step in STEPS if step not in self.decisions)

    @property
    def standing(self) -> str:
        """In a word or two."""
        if self.stopped is not None:
            step = next(step for step, one in self.decisions.items() if one is self.stopped)
            return f"ended at {step}"
        return "released" if self.over else f"{self.next} is due"

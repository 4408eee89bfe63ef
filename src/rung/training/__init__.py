"""Runs: from data and a training function to a registered version that anyone can reproduce.

What a project's own functions import: `from rung.training import Context, Trained`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rung.training.context import Context
    from rung.training.trained import Trained

__all__ = ["Context", "Trained"]


def __getattr__(name: str) -> Any:
    # Late: what lists runs has no use for what trains.
    if name == "Context":
        from rung.training.context import Context

        return Context
    if name == "Trained":
        from rung.training.trained import Trained

        return Trained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""When to end: a metric that no longer gets better. Pure."""

import math

import msgspec

__all__ = ["Plateau"]


class Plateau(msgspec.Struct):
    """Remembers the best report, and says when waiting for a better one is over.

    A value that is not a number is never the best, and counts as a report without progress.
    """

    minimize: bool
    patience: int = 0
    """Reports in a row without progress after which to end; 0: never."""
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    """Reports since the best one."""

    @property
    def over(self) -> bool:
        """Whether to end."""
        return 0 < self.patience <= self.waited

    def report(self, step: int, value: float) -> bool:
        """Take the value at a step; says whether it is the best so far."""
        better = math.isfinite(value) and (
            self.best is None or (value < self.best if self.minimize else value > self.best)
        )
        if better:
            self.best, self.best_step, self.waited = value, step, 0
        else:
            self.waited += 1
        return better

"""A search for good parameters: what is tried, how, and what came of it."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from rung.domain.errors import InvalidInput

__all__ = [
    "Choices",
    "Pruner",
    "Range",
    "Sampler",
    "Space",
    "State",
    "StudyPlan",
    "StudyResult",
    "TrialResult",
    "best_of",
]

Sampler = Literal["tpe", "random", "cmaes"]
"""Who proposes parameters: a tree-structured Parzen estimator (Bayesian; Bergstra et al., 2011), chance, or an
evolution strategy (Hansen & Ostermeier, 2001) for numbers."""

Pruner = Literal["none", "median", "hyperband"]
"""Who ends a trial early: nobody, the median of the others at the same report, or brackets of ever longer trials
(Li et al., 2018)."""

State = Literal["complete", "pruned", "failed", "lost", "running", "waiting"]
"""Where a trial stands; `lost`: its process died or was asked to end, and a later trial repeats it."""


class Range(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers from `low` to `high`, both included; whole ones where both are."""

    low: int | float
    high: int | float
    log: bool = False
    """Whether each order of magnitude is tried as often as the next: for rates and sizes."""
    step: int | float | None = None
    """Distance of the values that are tried; none: 1 for whole numbers, any value for others."""

    def __post_init__(self) -> None:
        shown = f"{{ low = {self.low}, high = {self.high} }}"
        if not self.low < self.high:
            raise InvalidInput(f"{shown}: low has to be below high", field="space")
        if self.log and self.low <= 0:
            raise InvalidInput(f"{shown}: a logarithmic range begins above 0", field="space")
        if self.step is not None and (self.log or not 0 < self.step <= self.high - self.low):
            raise InvalidInput(
                f"{shown}: step = {self.step} has to be above 0, within the range, and goes without log", field="space"
            )
        if self.whole and self.step is not None and self.step != int(self.step):
            raise InvalidInput(f"{shown}: step = {self.step} has to be whole, as low and high are", field="space")

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Choices = tuple[bool | int | float | str, ...]
"""Values without an order, of which one is taken."""

Space = dict[str, Range | Choices]
"""Parameter -> what may be tried."""


class StudyPlan(msgspec.Struct, frozen=True):
    """What a study does; kept with it, so that whoever goes on with it does the same."""

    model: str
    space: Space
    metric: str
    minimize: bool
    trials: int = 20
    """In all; whoever goes on with a study may ask for more."""
    sampler: Sampler = "tpe"
    pruner: Pruner = "median"
    seed: int = 0
    retries: int = 2
    """Times that a trial is tried again whose process died."""
    params: dict[str, Any] = {}
    """Those that stay as they are, too."""


class TrialResult(msgspec.Struct, frozen=True):
    """One set of parameters, and what came of it."""

    number: int
    """Within the study, from 0."""
    state: State
    params: dict[str, Any] = {}
    value: float | None = None
    """Of the metric that counts; of the last report where it was pruned."""
    run: str = ""
    reason: str = ""
    """Why it failed."""
    reports: int = 0
    seconds: float = 0.0
    retry_of: int | None = None
    """Number of the trial that it repeats."""


def best_of(trials: Sequence[TrialResult], plan: StudyPlan) -> TrialResult | None:
    """The complete trial with the best value; None where there is none."""
    done = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    sign = 1 if plan.minimize else -1
    return min(done, key=lambda trial: sign * (trial.value or 0.0), default=None)


class StudyResult(msgspec.Struct, frozen=True):
    """Where a study stands."""

    study: str
    plan: StudyPlan
    trials: list[TrialResult] = []
    best: TrialResult | None = None
    importance: dict[str, float] = {}
    """Parameter -> its share in what makes trials differ, the largest first (PED-ANOVA; Watanabe et al., 2023).
    Empty where too few trials are complete."""
    pictures: list[str] = []
    """Paths."""
    dataset: str = ""
    """Digest of the data that all trials saw."""
    run: str = ""
    """That trained the winner once more and registered it."""
    version: int = 0

    def count(self, state: State) -> int:
        """Trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def retried(self) -> int:
        """Trials that were tried again because a process died."""
        return sum(trial.retry_of is not None for trial in self.trials)

"""Rules on metrics, and the verdicts they give.

There are three answers. `inconclusive` is its own: it never means `pass`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from rung.domain.errors import ConfigurationError

__all__ = ["Metric", "Outcome", "Rule", "Verdict", "combine", "split_alpha"]

Outcome = Literal["pass", "fail", "inconclusive"]


class Metric(msgspec.Struct, frozen=True):
    """One number per unit (a user, not a request), and which way it gets worse."""

    name: str
    kind: Literal["mean", "errors", "quantile"] = "mean"
    """`mean` for values and rates, `errors` for rare yes-or-no failures, `quantile` for latencies."""
    worse: Literal["higher", "lower"] = "higher"
    measure: str = ""
    """What one is measured in: `s`, `IoU`; empty for a share from 0 to 1."""


class Rule(msgspec.Struct, frozen=True):
    """How much worse than its baseline a candidate may be in a metric.

    It fails when it is shown to be worse by more than `margin`, and passes when it is shown to be worse by less
    than `tolerance`. Between the two stands what no number of units can decide.

    Raises:
        ConfigurationError: when the numbers do not fit together.
    """

    metric: Metric
    margin: float = 0.0
    """Harm that does not matter, in the metric's measure."""
    tolerance: float | None = None
    """Harm that would matter; `margin` if left out, and then a margin of 0 cannot pass without being better."""
    alpha: float = 0.005
    """Largest probability of a false `fail`, over all looks together; the same again for a false `pass`."""
    tau: float = 0.02
    """For `mean`: the size of effect at which the test decides fastest, in the metric's measure."""
    quantile: float = 0.99
    """For `quantile`: which."""
    ratio: float = 1.25
    """For `quantile`: how many times the baseline's the candidate's may be."""

    def __post_init__(self) -> None:
        name = self.metric.name
        if not 0 < self.alpha < 1:
            raise ConfigurationError(f"`alpha` of the rule on {name} is {self.alpha}; use a number between 0 and 1.")
        if self.tolerance is not None and self.tolerance < self.margin:
            raise ConfigurationError(
                f"`tolerance` of the rule on {name} is {self.tolerance}, below its `margin` of {self.margin}; "
                "what passes may not be stricter than what fails."
            )
        if not self.tau > 0 or not 0 < self.quantile < 1 or not self.ratio > 0:
            raise ConfigurationError(
                f"The rule on {name} needs a `tau` and a `ratio` above 0 and a `quantile` between 0 and 1."
            )


class Verdict(msgspec.Struct, frozen=True):
    """What a rule says now, and on what grounds."""

    outcome: Outcome
    rule: str
    """The rule or test that says so."""
    why: str
    """A sentence for a person."""
    evidence: dict[str, Any] = {}
    """Plain JSON values. Of a single test: `method`, `alpha`, `p` (the smallest so far), `estimate`, `low`, `high`
    (None where unbounded), `counts`. Of several: `verdicts`."""


def combine(guards: Sequence[Verdict], *, checks: Sequence[Verdict] = (), rule: str = "guards") -> Verdict:
    """One verdict out of several: `fail` if one fails, `pass` only if every one passes.

    `checks` are tests of the experiment itself, such as that of the split. One that fails blocks every verdict of the
    guards: what they compare may not be comparable. One that does not fail says nothing.
    No guards at all is `inconclusive`.
    """
    verdicts = [*checks, *guards]
    evidence = {"verdicts": [msgspec.to_builtins(one) for one in verdicts]}
    broken = [one for one in checks if one.outcome == "fail"]
    if broken:
        return Verdict("inconclusive", rule, "Blocked: " + " ".join(one.why for one in broken), evidence)
    failed = [one for one in guards if one.outcome == "fail"]
    if failed:
        return Verdict("fail", rule, " ".join(one.why for one in failed), evidence)
    open_ = [one for one in guards if one.outcome == "inconclusive"]
    if open_ or not guards:
        return Verdict("inconclusive", rule, " ".join(one.why for one in open_) or "There is no guard.", evidence)
    return Verdict("pass", rule, " ".join(one.why for one in guards), evidence)


def split_alpha(alpha: float, weights: Mapping[str, float]) -> dict[str, float]:
    """Share a probability of false alarm among tests by weight, so that together they stay under it (Bonferroni).

    Raises:
        ConfigurationError: when a weight is not above 0.
    """
    if any(not weight > 0 for weight in weights.values()):
        raise ConfigurationError("Each weight of a guard must be above 0.")
    total = sum(weights.values())
    return {name: alpha * weight / total for name, weight in weights.items()}

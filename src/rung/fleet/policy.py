"""How a rollout is judged: the ladder, what a candidate must show at each stage, and what it must not break."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.domain.moves import check_ladder
from rung.domain.releases import LADDER
from rung.domain.rules import Metric, Rule, split_alpha
from rung.fleet.wires import UNITS

__all__ = ["GUARDS", "Guard", "Policy", "minimum_units", "read_policy"]

GUARDS: dict[str, Rule] = {
    "errors": Rule(Metric("errors", "errors"), tolerance=0.01),
    "latency": Rule(Metric("latency", "quantile", measure="s"), quantile=0.95, ratio=1.25),
    "quality": Rule(Metric("quality", "mean", "lower"), tolerance=0.02, tau=0.02),
    "corrections": Rule(Metric("corrections", "errors"), tolerance=0.01),
}
"""Guards by name, with what they allow where a project says nothing.

`errors`: share of units with an error that is the server's fault. `latency`: p95 over units. `quality`: mean over units
of what feedback says of mature predictions. `corrections`: share of units that corrected an answer.
"""

_UNITS = ((50.0, 30_000), (25.0, 10_000), (5.0, 2_500), (0.1, 500), (0.0, 200))


class Guard(msgspec.Struct, frozen=True):
    """A rule, and whether a candidate has to pass it or only must not fail it."""

    rule: Rule
    required: bool = True

    @property
    def name(self) -> str:
        """Name of its metric."""
        return self.rule.metric.name


class Policy(msgspec.Struct, frozen=True):
    """What `rollout.plan` goes by."""

    ladder: tuple[float, ...] = LADDER
    """Percent of the units at each stage, for a rollout to begin with; one that is under way has its own."""
    guards: tuple[Guard, ...] = ()
    units: tuple[int, ...] = ()
    """Canary units since the rollout began that each stage needs at least; empty: `minimum_units`."""
    seconds: tuple[float, ...] = (300.0,)
    """Least time at each stage; the last stands for all that follow."""
    longest: float = 7 * 86_400.0
    """Seconds after which a stage that has not decided ends as inconclusive."""
    srm_alpha: float = 0.003
    """Probability that a split that is right is ever held for a mismatch, shared by its three checks."""
    maturity: float = 0.0
    """Age in seconds at which a prediction's label counts; 0: learned from how long labels take."""
    wire_units: int = UNITS

    def units_at(self, stage: int, percent: float) -> int:
        """Canary units that a stage needs at least."""
        return self.units[min(stage, len(self.units) - 1)] if self.units else minimum_units(percent)

    def seconds_at(self, stage: int) -> float:
        """Seconds that a stage takes at least."""
        return self.seconds[min(stage, len(self.seconds) - 1)]


def minimum_units(percent: float) -> int:
    """Canary units before a stage of so many percent may end, since the rollout began.

    Chosen by simulation (`fleet.simulate`): with errors at 5 % of the units, 2,500 are enough to take back a candidate
    that adds 5 percentage points in over 99 % of rollouts before 25 % of the units are asked, and 30,000 one that adds
    1 point in over 85 %.
    """
    return next(units for least, units in _UNITS if percent >= least)


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A guard as a project writes it."""

    metric: str
    margin: float | None = None
    tolerance: float | None = None
    tau: float | None = None
    quantile: float | None = None
    ratio: float | None = None
    weight: float = 1.0
    required: bool = True


def read_policy(section: Mapping[str, Any], where: str = "release") -> Policy:
    """The policy that a project's `[models.NAME.release]` describes; what it leaves out is as by default.

    Args:
        section: `ladder`, `guard` (names, or tables with `metric` and what differs), `alpha`, `units`, `seconds`,
            `longest`, `maturity`, `wire_units`; further keys are not looked at.
        where: Name of the section, for messages.

    Raises:
        ConfigurationError: naming the field.
    """
    given = section.get("guard") or ("errors", "latency")
    tables = [_table(one, f"{where}.guard") for one in given]
    names = [table.metric for table in tables]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"[{where}] guard names {names}: each may stand there once")
    alphas = split_alpha(float(section.get("alpha", 0.01)), {table.metric: table.weight for table in tables})
    try:
        ladder = check_ladder(tuple(section.get("ladder") or LADDER))
    except InvalidInput as error:
        raise ConfigurationError(f"[{where}] ladder: {error}") from None
    fields = {key: section[key] for key in ("longest", "maturity", "wire_units") if key in section}
    guards = tuple(Guard(_rule(table, alphas[table.metric]), table.required) for table in tables)
    return Policy(
        ladder,
        guards,
        units=_each(section.get("units", ()), int),
        seconds=_each(section.get("seconds", 300.0), float) or (300.0,),
        **fields,
    )


def _each(value: Any, kind: type[Any]) -> tuple[Any, ...]:
    return tuple(kind(one) for one in value) if isinstance(value, Sequence) else (kind(value),)


def _table(given: Any, where: str) -> _Table:
    try:
        table: _Table = msgspec.convert({"metric": given} if isinstance(given, str) else given, _Table)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"[{where}] {given!r:.200} is no guard: {error}") from None
    if table.metric not in GUARDS:
        raise ConfigurationError(f"[{where}] there is no guard {table.metric!r:.60}; there are {', '.join(GUARDS)}")
    return table


def _rule(table: _Table, alpha: float) -> Rule:
    changed = {
        name: value
        for name in ("margin", "tolerance", "tau", "quantile", "ratio")
        if (value := getattr(table, name)) is not None
    }
    return msgspec.structs.replace(GUARDS[table.metric], alpha=alpha, **changed)

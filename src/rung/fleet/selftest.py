"""Is the judge fit to judge? The user's own quiet traffic, split by chance many times, and whole rollouts on paper.

What the stable version answered while nothing else did is an A/A test that has already run: every guard that fires on
it fires without cause, and the same with a harm added shows what it would find.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from rung.domain.errors import InvalidInput
from rung.domain.quality import quality_of
from rung.domain.records import FeedbackRecord, PredictionRecord, Record
from rung.domain.rules import Rule
from rung.fleet.policy import Policy
from rung.fleet.simulate import Climb, Share, climb, share_of
from rung.stats.replay import Plan, replay
from rung.stats.simulate import Measured

if TYPE_CHECKING:
    import numpy as np

__all__ = ["GuardTest", "LadderTest", "Quiet", "climb_ladder", "quiet", "replay_guards"]

_MOST = 100_000
_LEAST = 400
"""Units below which a replay says nothing."""


class Quiet(msgspec.Struct):
    """One value per unit of a guard's metric, in the order in which the units first came."""

    errors: list[float]
    latency: list[float]
    quality: list[float]
    corrections: list[float]

    def of(self, name: str) -> list[float]:
        """Values of one guard."""
        found: list[float] = getattr(self, name)
        return found


class GuardTest(msgspec.Struct, frozen=True):
    """How often a guard fires on the user's own traffic."""

    name: str
    units: int
    rate: float
    """Mean of the values."""
    false_alarms: Measured | None
    """Without harm; None where there is too little to say."""
    harm: float
    """That was added, in the metric's measure; a factor less 1 for latency."""
    power: Measured | None
    """With it, on as many units as there are."""
    alpha: float
    note: str = ""


class LadderTest(msgspec.Struct, frozen=True):
    """How whole simulated rollouts end."""

    rate: float
    harm: float
    taken_back: Share
    early: Share
    """Taken back before 25 % of the units were asked."""
    promoted: Share


def quiet(records: Iterable[Record], model: str, most: int = _MOST) -> Quiet:
    """What the stable arm (or everything, before there was a release) did, unit by unit; at most the first `most`."""
    rows: dict[str, list[float]] = {}
    ids: dict[str, tuple[str, str]] = {}
    """Prediction -> its unit, and the class that it named."""
    marks: dict[str, dict[str, float]] = {}
    corrected: set[str] = set()
    for record in records:
        if getattr(record, "model", None) != model:
            continue
        if isinstance(record, PredictionRecord) and record.arm in ("", "stable"):
            if record.unit not in rows and len(rows) >= most:
                continue
            row = rows.setdefault(record.unit, [0.0, -1.0])
            row[0] = max(row[0], float(record.blame == "server"))
            if not record.error:
                # One request stands for its unit: the first, which no later one can change.
                row[1] = record.total if row[1] < 0 else row[1]
                ids[record.id] = record.unit, record.predicted
        elif isinstance(record, FeedbackRecord) and record.id in ids:
            unit, named = ids[record.id]
            value = quality_of(record.kind, record.value, named)
            if value is not None:
                marks.setdefault(unit, {})[record.id] = value
            if record.kind == "correction":
                corrected.add(unit)
    return Quiet(
        [row[0] for row in rows.values()],
        [row[1] for row in rows.values() if row[1] >= 0],
        [sum(marks[unit].values()) / len(marks[unit]) for unit in rows if unit in marks],
        [float(unit in corrected) for unit in rows],
    )


def replay_guards(policy: Policy, values: Quiet, *, rng: "np.random.Generator", runs: int = 500) -> list[GuardTest]:
    """Replay every guard of a policy on quiet traffic, without harm and with what its rule calls a harm."""
    return [_test(guard.name, guard.rule, values.of(guard.name), rng, runs) for guard in policy.guards]


def _test(name: str, rule: Rule, values: list[float], rng: "np.random.Generator", runs: int) -> GuardTest:
    import numpy as np

    known = np.asarray(values, dtype=float)
    rate = float(known.mean()) if len(known) else 0.0
    # A latency that is over its limit by half as much again; otherwise the harm that would matter.
    harm = 1.5 * rule.ratio - 1 if rule.metric.kind == "quantile" else rule.tolerance or rule.margin or rule.tau
    if len(known) < _LEAST:
        note = f"{len(known)} units are too few: at least {_LEAST} are needed"
        return GuardTest(name, len(known), rate, None, harm, None, rule.alpha, note)
    quiet_ = replay(rule, known, Plan(runs=runs), rng=rng)
    try:
        power = replay(rule, known, Plan(runs=runs, harm=harm), rng=rng)
    except InvalidInput as error:
        return GuardTest(name, len(known), rate, quiet_, harm, None, rule.alpha, str(error))
    return GuardTest(name, len(known), rate, quiet_, harm, power, rule.alpha)


def climb_ladder(
    policy: Policy, rate: float, harm: float, *, rng: "np.random.Generator", runs: int = 100, looks: int = 12
) -> LadderTest:
    """Let made-up candidates climb the policy's ladder by the plan that the controller goes by.

    Only errors are simulated: other guards are taken to be silent, and keep their share of alpha.
    """
    alone = msgspec.structs.replace(policy, guards=tuple(one for one in policy.guards if one.name == "errors"))
    climbs: list[Climb] = [climb(alone, rate=rate, harm=harm, rng=rng, looks=looks) for _ in range(runs)]
    return LadderTest(
        rate,
        harm,
        share_of(climbs, "rolled back"),
        share_of(climbs, "rolled back", late=0),
        share_of(climbs, "promoted"),
    )

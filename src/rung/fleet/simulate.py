"""Whole rollouts on paper: made-up units go through the real `plan`, to say how often it is wrong.

What is drawn is sums per look, never single records, so that a thousand rollouts take minutes. Every unit is a new one
and answers are independent: the case in which the counts say most for their size, and the one that the guards assume.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np

from rung.domain import moves
from rung.domain.releases import BUCKETS, Arm, Move, Release, Rollout
from rung.fleet.evidence import COMPARED, ArmEvidence, Snapshot
from rung.fleet.policy import Policy
from rung.fleet.rollout import Advance, Hold, Promote, RollBack, plan
from rung.fleet.tally import FLAGS
from rung.stats.assignment import Stage
from rung.stats.intervals import clopper_pearson
from rung.stats.quantiles import Histogram

__all__ = ["Climb", "Share", "climb", "released", "share_of"]

_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class Climb(msgspec.Struct, frozen=True):
    """How one simulated rollout went."""

    end: str
    """`promoted`, `rolled back`, `held`, or `open` when its units ran out."""
    rule: str
    percent: float
    """Stage at which it ended."""
    units: int
    """Served in all."""
    late: int
    """Served at stages of 25 % and more."""


class Share(msgspec.Struct, frozen=True):
    """In how many rollouts something came about, with the 95 % interval by Clopper and Pearson."""

    count: int
    runs: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """As a share."""
        return self.count / self.runs

    def __str__(self) -> str:
        return f"{100 * self.rate:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] of {self.runs}"


def share_of(climbs: Sequence[Climb], end: str, *, late: int | None = None) -> Share:
    """In how many rollouts this was the end, with at most `late` units served at 25 % and more."""
    count = sum(one.end == end and (late is None or one.late <= late) for one in climbs)
    interval = clopper_pearson(count, len(climbs))
    return Share(count, len(climbs), interval.low, interval.high)


def climb(
    policy: Policy,
    *,
    rate: float,
    harm: float,
    rng: np.random.Generator,
    looks: int = 40,
    most: int = 400_000,
    seconds: Histogram | None = None,
) -> Climb:
    """Let one candidate climb.

    Args:
        policy: What it is judged by.
        rate: Share of the units of the stable version with an error.
        harm: How much higher that of the candidate is.
        rng: Where chance comes from.
        looks: In the least units of each stage, at equal distances; then it goes on at that pace.
        most: Units served at 25 % and more at which it is given up.
        seconds: Distribution of latencies, the same in both arms; None leaves latencies out.
    """
    release, now = released(policy.ladder), _BEGAN
    sums = _Sums(rate, harm, rng, seconds)
    before = late = 0
    while True:
        rollout = release.rollout
        assert rollout is not None
        need = policy.units_at(rollout.stage, rollout.percent)
        arriving = max(1, (need - before) // looks) / max(rollout.percent / 100, 0.01 if rollout.percent else 1.0)
        served = max(int(arriving), 1)
        sums.serve(release, served)
        late += served if rollout.percent >= 25 else 0
        now += timedelta(seconds=policy.seconds_at(rollout.stage) / looks)
        action = plan(release, sums.snapshot(), policy, now.timestamp())
        if isinstance(action, Advance):
            before = need if rollout.percent else 0
            release = _next(release, now)
        elif isinstance(action, Promote | RollBack | Hold):
            ends = {Promote: "promoted", RollBack: "rolled back", Hold: "held"}
            return Climb(ends[type(action)], action.rule, rollout.percent, sums.units, late)
        elif late >= most:
            return Climb("open", "", rollout.percent, sums.units, late)


def released(ladder: tuple[float, ...], stage: int = 0) -> Release:
    """A release at a stage of a ladder, each entered a second after the one before, that lies in no chain."""
    stable = Arm("stable", 1, "a" * 64, "stable", BUCKETS)
    began = _BEGAN.isoformat(timespec="microseconds")
    draft = moves.begin(None, "model", stable, Move("release", "simulation"))
    at_first = moves.at_stage(draft, stable, Rollout(2, "b" * 64, ladder, 0, began, began))
    release = msgspec.structs.replace(at_first, epoch=1, at=began)
    for number in range(stage):
        release = _next(release, _BEGAN + timedelta(seconds=number + 1))
    return release


def _next(release: Release, now: datetime) -> Release:
    rollout, stable = release.rollout, release.stable
    assert rollout is not None
    assert stable is not None
    at = now.isoformat(timespec="microseconds")
    moved = moves.at_stage(release, stable, msgspec.structs.replace(rollout, stage=rollout.stage + 1, entered=at))
    return msgspec.structs.replace(moved, epoch=release.epoch + 1, at=at)


class _Sums:
    """Units so far, by arm."""

    def __init__(self, rate: float, harm: float, rng: np.random.Generator, seconds: Histogram | None) -> None:
        self.units = 0
        self._rates = {"stable": rate, "baseline": rate, "canary": rate + harm, "shadow": rate + harm}
        self._rng = rng
        self._counts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._assigned: dict[int, Stage] = {}
        self._seconds = dict.fromkeys(COMPARED, Histogram())
        self._places = np.array(list(seconds.bins)) if seconds else None
        self._weights = np.array(list(seconds.bins.values()) if seconds else [1]) / (seconds.count if seconds else 1)

    def serve(self, release: Release, units: int) -> None:
        """So many new units are answered under this release."""
        rollout = release.rollout
        assert rollout is not None
        arms = [arm for arm in release.arms if arm.role != "shadow"]
        drawn = self._rng.multinomial(units, [arm.share / BUCKETS for arm in arms])
        counts = {arm.name: int(count) for arm, count in zip(arms, drawn, strict=True)}
        if release.shadow is not None:
            counts["shadow"] = units
        for name, count in counts.items():
            self._counts[name] += count
            self._errors[name] += int(self._rng.binomial(count, self._rates[name]))
            if self._places is not None and name in COMPARED:
                fresh = self._rng.multinomial(count, self._weights)
                bins = {int(place): int(n) for place, n in zip(self._places, fresh, strict=True) if n}
                self._seconds[name] += Histogram(bins)
        shares = {arm.name: arm.share / BUCKETS for arm in arms}
        order = ("stable", *COMPARED)
        was = self._assigned.get(rollout.stage, Stage((0, 0, 0), tuple(shares.get(name, 0.0) for name in order)))
        added = tuple(count + counts.get(name, 0) for count, name in zip(was.counts, order, strict=True))
        self._assigned[rollout.stage] = Stage(added, was.shares)
        self.units += units

    def snapshot(self) -> Snapshot:
        """The sums as the log would give them."""
        arms = {name: self._arm(name, count) for name, count in self._counts.items()}
        exposed = tuple(self._counts[name] for name in COMPARED)
        exposure = (Stage(exposed, (0.5, 0.5)),) if sum(exposed) else ()
        return Snapshot(arms, tuple(self._assigned.values()), exposure)

    def _arm(self, name: str, count: int) -> ArmEvidence:
        flagged = [0] * len(FLAGS)
        flagged[FLAGS.index("errors")] = self._errors[name]
        flagged[FLAGS.index("answered")] = count - self._errors[name]
        latency = self._seconds.get(name, Histogram())
        return ArmEvidence(units=count, requests=count, flagged=tuple(flagged), latency=latency)

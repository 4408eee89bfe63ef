"""From the records of the prediction log to what is known of each arm of one rollout.

Fed record by record, in any order between replicas, it gives the same sums: whoever was killed reads the log again
from the start. What was not drawn by lot is left out: testers who force an arm, and audiences sent by a segment.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from rung.domain.errors import Conflict
from rung.domain.quality import quality_of
from rung.domain.records import CONSTANT, NOT_FINITE, FeedbackRecord, PredictionRecord, Record, ShadowRecord
from rung.domain.releases import BUCKETS, Ranges, Release, arm_at, bucket, shares_of
from rung.fleet.labels import Labels, Mature
from rung.fleet.tally import FLAGS, Tally, flag, key_of
from rung.stats.assignment import Stage
from rung.stats.delays import Delays
from rung.stats.quantiles import Histogram

__all__ = ["COMPARED", "ArmEvidence", "Evidence", "Snapshot", "identity_of"]

COMPARED = ("canary", "baseline")
"""The two arms that are compared: of equal size at the same time."""
_DRAWN = ("stable", *COMPARED)
_ARMS = (*_DRAWN, "shadow")
_WAITING = 10_000
"""Feedback that is kept until its prediction is read from another replica's log."""
_CRASHES = frozenset({"WorkerDied", "NotReady"})
_REFUSALS = frozenset({"InvalidInput", "BundleError", "Unsupported"})


class ArmEvidence(msgspec.Struct, frozen=True):
    """What is known of one arm since the rollout began. Counts are of kept units, unless they say otherwise."""

    units: int = 0
    """Units seen."""
    requests: int = 0
    """Requests of all units, exactly."""
    rate: float = 1.0
    """Share of the arm's units that are kept: a random sample beyond a cap, otherwise all."""
    flagged: tuple[int, ...] = (0,) * len(FLAGS)
    """Units to which each of `tally.FLAGS` happened."""
    latency: Histogram = Histogram()
    """One answered request per unit."""
    heaviest: float = 0.0
    """Largest share of the requests that one unit made."""
    mature: Mature = Mature()
    labelled: int = 0
    """Units with a label, mature or not."""
    run: int = 0
    """Distinct inputs in a row that had one and the same output."""
    inputs: int = 0
    commonest: int = 0
    """How many of the first `inputs` distinct inputs had the most frequent output."""

    def of(self, name: str) -> int:
        """Units to which one of `tally.FLAGS` happened."""
        return self.flagged[FLAGS.index(name)]


class Snapshot(msgspec.Struct, frozen=True):
    """What `rollout.plan` decides on: plain sums, cheap to make up in a simulation."""

    arms: dict[str, ArmEvidence] = {}
    """`stable`, `canary`, `baseline`, `shadow`, as far as they were seen."""
    assignment: tuple[Stage, ...] = ()
    """New units of the arms (stable, canary, baseline) by stage, whatever became of their requests."""
    exposure: tuple[Stage, ...] = ()
    """Units by arm (canary, baseline) that first reached the model in each stage."""
    feedback: tuple[Stage, ...] = ()
    """Units by arm (canary, baseline) with a label."""
    maturity: float | None = None
    """Age in seconds from which predictions count as mature; None while it is not known."""
    placed: int = 0
    """Requests that a segment or a tester's header sent to an arm: left out."""
    stood_in: int = 0
    """Requests that the stable arm answered for another that was not loaded: left out."""
    copies: int = 0
    """Requests that a shadow answered too."""
    unequal: int = 0
    """Copies whose answer was another."""
    difference: float = 0.0
    """Largest difference of a finite copy."""
    lost: int = 0
    """Records of this model that the log had to drop."""

    def arm(self, name: str) -> ArmEvidence:
        """What is known of an arm; of one that was not seen, nothing."""
        return self.arms.get(name, ArmEvidence())


class _Epoch(msgspec.Struct, frozen=True):
    """How units were divided under one release of the rollout."""

    stage: int
    salt: str
    ranges: Ranges
    shares: dict[str, int]


class Evidence:
    """The sums of one rollout, or of a plain split.

    Guarantees:
        1. A record of another rollout, model or time changes nothing but the delays of labels.
        2. Memory is bounded by `cap` units and `cap` predictions per arm; beyond it a random sample, by hash, is kept.
        3. The same event twice counts once.
    """

    def __init__(self, release: Release, *, cap: int = 100_000, maturity: float = 0.0, candidate: str = "") -> None:
        """Of the rollout that `release` belongs to; or of its split, in which the arm `candidate` is compared.

        There the largest arm is called `baseline` and the candidate, the next largest unless it is named, `canary`.
        """
        self.model = release.model
        self.identity = identity_of(release)
        self._names = {name: name for name in _ARMS} if release.rollout else _in_split(release, candidate)
        self._main = self._names[release.main.name]
        self._maturity = maturity
        self._cap = cap
        self._epochs: dict[int, _Epoch] = {}
        self._tallies = {name: Tally(cap) for name in _ARMS}
        self._labels = {name: Labels(cap) for name in COMPARED}
        self._delays = Delays()
        self._seen: set[int] = set()
        self._seen_below = 2**64
        self._assigned: dict[int, list[int]] = {}
        self._waiting: dict[int, FeedbackRecord] = {}
        self._placed = self._stood_in = self._copies = self._unequal = self._lost = 0
        self._difference = 0.0
        self.know(release)

    def know(self, release: Release) -> bool:
        """Learn how a release of this rollout divides the units; whether it is of this rollout."""
        if release.model != self.model or identity_of(release) != self.identity:
            return False
        ranges = tuple((start, stop, self._names.get(name, "")) for start, stop, name in release.ranges)
        stage = release.rollout.stage if release.rollout else 0
        self._epochs[release.epoch] = _Epoch(stage, release.salt, ranges, shares_of(ranges))
        return True

    def named(self, release: Release) -> Release:
        """The release with its arms called as the evidence calls them."""
        arms = tuple(
            msgspec.structs.replace(arm, name=self._names[arm.name]) for arm in release.arms if arm.name in self._names
        )
        return msgspec.structs.replace(release, arms=arms)

    def feed(self, record: Record) -> bool:
        """Take in a record; False where it is of a release later than all that are known: tell me, then come again."""
        if isinstance(record, PredictionRecord | ShadowRecord):
            if record.model != self.model:
                return True
            epoch = self._epochs.get(record.epoch)
            if epoch is None:
                return record.epoch <= max(self._epochs)
            if isinstance(record, PredictionRecord):
                self._prediction(record, epoch)
            else:
                self._copy(record, epoch)
        elif isinstance(record, FeedbackRecord):
            if record.model == self.model:
                self._feedback(record)
        elif getattr(record, "model", None) == self.model:
            self._lost += getattr(record, "count", 0)
        return True

    def snapshot(self, now: float) -> Snapshot:
        """What is known at a time, in seconds since the epoch."""
        maturity = self._maturity or self._delays.maturity(now)
        exposure = _joined(
            Stage(tuple(self._tallies[name].began.get(stage, 0) for name in COMPARED), self._shares(stage, COMPARED))
            for stage in sorted({stage for name in COMPARED for stage in self._tallies[name].began})
        )
        return Snapshot(
            arms={name: self._arm(name, now, maturity) for name, tally in self._tallies.items() if tally.requests},
            assignment=tuple(
                Stage(tuple(self._assigned[stage]), self._shares(stage, _DRAWN)) for stage in sorted(self._assigned)
            ),
            exposure=exposure,
            feedback=self._answered(exposure),
            maturity=maturity,
            placed=self._placed,
            stood_in=self._stood_in,
            copies=self._copies,
            unequal=self._unequal,
            difference=self._difference,
            lost=self._lost,
        )

    # --- taking in --------------------------------------------------------------------------------

    def _prediction(self, record: PredictionRecord, epoch: _Epoch) -> None:
        arm = self._names.get(record.arm)
        if arm is None:
            return
        drawn = arm_at(epoch.ranges, bucket(epoch.salt, record.unit))
        stood_in = arm == self._main and drawn != arm and record.propensity > 0
        if drawn != arm and not stood_in:
            self._placed += 1
            return
        key, request = key_of(record.unit), key_of(record.id)
        self._assign(key, drawn, epoch.stage)
        if stood_in:
            # Its arm was not loaded there yet: what answered it was not chosen by lot.
            self._stood_in += 1
            return
        tally = self._tallies[arm]
        answered = not record.error
        flags = (flag("answered") if answered else 0) | _flags_of(record.error, record.blame, record.flags)
        kept = tally.add(key, request, epoch.stage, record.total if answered else -1.0, flags)
        if answered and record.input_digest and record.output_digest:
            tally.answers.add(record.input_digest, record.output_digest)
        if arm in COMPARED:
            self._even_out()
            if kept and answered:
                self._labels[arm].predicted(request, key, record.time, record.predicted)
                early = self._waiting.pop(request, None)
                if early is not None:
                    self._feedback(early)

    def _copy(self, record: ShadowRecord, epoch: _Epoch) -> None:
        flags = (0 if record.error else flag("answered")) | _flags_of(record.error, "server", record.flags)
        seconds = -1.0 if record.error else record.computed
        self._tallies["shadow"].add(key_of(record.unit), key_of(record.id), epoch.stage, seconds, flags)
        self._copies += 1
        if not record.error and not record.equal:
            self._unequal += 1
            if record.difference != float("inf"):
                self._difference = max(self._difference, record.difference)

    def _feedback(self, record: FeedbackRecord) -> None:
        request = key_of(record.id)
        self._delays.add(request, record.predicted, record.received)
        arm = self._names.get(record.arm, "")
        labels = self._labels.get(arm)
        if labels is None:
            return
        unit = labels.unit(request)
        if unit is None:
            # Its prediction may stand in another replica's log, which is read after this one.
            if len(self._waiting) < _WAITING:
                self._waiting[request] = record
            return
        if record.kind == "correction":
            self._tallies[arm].mark(unit, flag("corrected"))
        value = quality_of(record.kind, record.value, labels.named(request))
        if value is not None:
            labels.label(request, value, record.time)

    def _assign(self, key: int, arm: str, stage: int) -> None:
        if key >= self._seen_below or key in self._seen:
            return
        self._seen.add(key)
        counts = self._assigned.setdefault(stage, [0] * len(_DRAWN))
        counts[_DRAWN.index(arm)] += 1
        if len(self._seen) > self._cap:
            # What was counted stays counted; from here on, new units are a sample of the same kind in every arm.
            self._seen_below //= 2
            self._seen = {one for one in self._seen if one < self._seen_below}

    def _even_out(self) -> None:
        """Keep the same units, by hash, in both arms that are compared: their shares stay what they are."""
        below = min(self._tallies[name].below for name in COMPARED)
        for name in COMPARED:
            if self._tallies[name].below > below:
                self._tallies[name].thin(below)

    # --- giving out -------------------------------------------------------------------------------

    def _arm(self, name: str, now: float, maturity: float | None) -> ArmEvidence:
        tally, labels = self._tallies[name], self._labels.get(name)
        mature = labels.mature(now - maturity) if labels is not None and maturity is not None else Mature()
        return ArmEvidence(
            units=tally.units,
            requests=tally.requests,
            rate=tally.rate,
            flagged=tuple(tally.flagged),
            latency=tally.latency,
            heaviest=tally.heaviest,
            mature=mature,
            labelled=len(labels.units) if labels is not None else 0,
            run=tally.answers.run,
            inputs=tally.answers.inputs,
            commonest=tally.answers.commonest,
        )

    def _shares(self, stage: int, names: tuple[str, ...]) -> tuple[float, ...]:
        shares = next(epoch.shares for epoch in self._epochs.values() if epoch.stage == stage)
        return tuple(shares.get(name, 0) / BUCKETS for name in names)

    def _answered(self, exposure: tuple[Stage, ...]) -> tuple[Stage, ...]:
        """Units with a label, which come back in proportion to the units that were exposed."""
        labelled = tuple(len(self._labels[name].units) for name in COMPARED)
        if not sum(labelled) or not exposure:
            return ()
        alike = exposure[0].shares if len(exposure) == 1 else None
        shares = alike or tuple(float(sum(stage.counts[arm] for stage in exposure)) for arm in range(len(COMPARED)))
        return (Stage(labelled, shares),)


def identity_of(release: Release) -> tuple[Any, ...]:
    """What the releases of one rollout, or of one split whose shares move, have in common."""
    run = release.rollout
    if run is not None:
        return run.candidate, run.digest, run.began
    return release.salt, *sorted((arm.name, arm.digest) for arm in release.arms)


def _in_split(release: Release, candidate: str) -> dict[str, str]:
    arms = sorted((arm for arm in release.arms if arm.role != "shadow"), key=lambda arm: -arm.share)
    others = [arm.name for arm in arms[1:]]
    if not others or (candidate and candidate not in others):
        there = f"there are {', '.join(others)}" if others else "one version answers everybody"
        raise Conflict(f"{release.model} has no arm {candidate or 'to compare'}: {there}")
    return {arms[0].name: "baseline", candidate or others[0]: "canary"}


def _flags_of(error: str, blame: str, flags: int) -> int:
    found = 0
    if error:
        found |= flag("errors") if blame == "server" else 0
        found |= flag("crash") if error in _CRASHES else flag("refused") if error in _REFUSALS else 0
    found |= flag("not finite") if flags & NOT_FINITE else 0
    return found | (flag("constant") if flags & CONSTANT else 0)


def _joined(stages: Iterable[Stage]) -> tuple[Stage, ...]:
    """Stages in a row between which two arms kept their proportion, as one: more units to judge it by."""
    found: list[Stage] = []
    for stage in stages:
        total = sum(stage.shares)
        shares = tuple(round(share / total, 6) for share in stage.shares) if total else stage.shares
        if found and found[-1].shares == shares:
            counts = tuple(a + b for a, b in zip(found[-1].counts, stage.counts, strict=True))
            found[-1] = Stage(counts, shares)
        elif total:
            found.append(Stage(stage.counts, shares))
    return tuple(found)

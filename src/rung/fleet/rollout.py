"""The canary ladder: whether a candidate goes up, stays, or is taken back. Pure; acting twice does no harm.

    shadow -> 1 -> 5 -> 25 -> 50 -> 100 % of the units, beside a baseline of equal size that the stable version answers

In this order:
    1. A tripped wire takes it back at once.
    2. Where the split is not as asked for, nothing that is compared means anything: hold.
    3. A guard that fails takes it back, at any stage, held or not.
    4. Between stages it climbs when it has had its least units and time, and every required guard has something to go
       by. That it is not shown to do harm is enough to ask some more units, never to be promoted.
    5. From the last stage that is compared it is promoted only when every required guard passes: the harm is
       shown to be below what would matter, with the guard's alpha as the probability of being wrong.
    6. A stage that has not decided in its longest time is held as inconclusive: a person decides.
"""

from datetime import datetime
from typing import Any

import msgspec

from rung.domain.releases import Release
from rung.domain.rules import Verdict
from rung.fleet.evidence import COMPARED, ArmEvidence, Snapshot
from rung.fleet.policy import Guard, Policy
from rung.fleet.tally import FLAGS
from rung.fleet.wires import tripped
from rung.stats.assignment import srm
from rung.stats.guards import judge
from rung.stats.quantiles import Histogram
from rung.stats.sequential import MIN_UNITS, Moments

__all__ = [
    "Action",
    "Advance",
    "Hold",
    "Look",
    "Promote",
    "RollBack",
    "Wait",
    "began",
    "describe",
    "entered",
    "figures_of",
    "look",
    "plan",
    "summary",
]


class Wait(msgspec.Struct, frozen=True):
    """Nothing to do now."""

    reason: str


class Hold(msgspec.Struct, frozen=True):
    """Climb no further without a person."""

    rule: str
    reason: str
    evidence: dict[str, Any] = {}


class Advance(msgspec.Struct, frozen=True):
    """Go to the next stage."""

    rule: str
    reason: str
    evidence: dict[str, Any] = {}


class Promote(msgspec.Struct, frozen=True):
    """Let the candidate answer everybody."""

    rule: str
    reason: str
    evidence: dict[str, Any] = {}


class RollBack(msgspec.Struct, frozen=True):
    """Take the candidate back."""

    rule: str
    reason: str
    evidence: dict[str, Any] = {}


Action = Wait | Hold | Advance | Promote | RollBack


class Look(msgspec.Struct, frozen=True):
    """What wires, checks and guards say now."""

    wire: Verdict | None
    checks: tuple[Verdict, ...]
    """Of the split: `fail` or `inconclusive`."""
    guards: tuple[tuple[Guard, Verdict], ...]

    @property
    def mismatch(self) -> Verdict | None:
        """The first check of the split that fails."""
        return next((one for one in self.checks if one.outcome == "fail"), None)

    @property
    def failed(self) -> Verdict | None:
        """The first guard that fails, required or not."""
        return next((verdict for _, verdict in self.guards if verdict.outcome == "fail"), None)

    @property
    def open(self) -> list[Verdict]:
        """Required guards that do not pass."""
        return [verdict for guard, verdict in self.guards if guard.required and verdict.outcome != "pass"]

    @property
    def passed(self) -> bool:
        """Whether every required guard passes; never where there is none."""
        return any(guard.required for guard, _ in self.guards) and not self.open


def look(release: Release, snapshot: Snapshot, policy: Policy) -> Look:
    """Ask the wires, the checks of the split and, where arms are compared, the guards."""
    compared = release.arm("canary") is not None
    wire = tripped(snapshot, "canary" if compared else "shadow", policy.wire_units)
    stages = {"assignment": snapshot.assignment, "exposure": snapshot.exposure, "feedback": snapshot.feedback}
    checks = [
        msgspec.structs.replace(srm(found, alpha=policy.srm_alpha / len(stages)), rule=f"sample ratio: {name}")
        for name, found in stages.items()
        if found
    ]
    guards = [(guard, _judge(guard, snapshot, _share(release))) for guard in policy.guards] if compared else []
    return Look(wire, tuple(checks), tuple(guards))


def plan(release: Release, evidence: Snapshot, policy: Policy, now: float) -> Action:
    """What to do about the candidate of a release now.

    Args:
        release: The last link of the model's chain.
        evidence: What is known of its arms since its rollout began.
        policy: What it is judged by.
        now: Seconds since the epoch, by a clock that is not set: a jump must not end a stage.
    """
    rollout = release.rollout
    if rollout is None:
        return Wait("no candidate is under way")
    seen = look(release, evidence, policy)
    alone = rollout.percent == 0 and len(rollout.ladder) == 1
    verdict = seen.wire or (None if seen.mismatch else seen.failed)
    if verdict is not None and alone:
        # Copies harm nobody, and whoever asked for them wants to see more of them.
        return _hold(release, evidence, policy, now, seen, verdict)
    if verdict is not None:
        return RollBack(verdict.rule, verdict.why, describe(release, evidence, seen, now))
    if seen.mismatch is not None:
        return _hold(release, evidence, policy, now, seen, seen.mismatch)
    if rollout.held:
        return Wait(f"held: {rollout.held}")
    if rollout.digest and rollout.digest in release.latched:
        return Wait("this version was taken back before: only a person may let it climb")
    if rollout.stage + 1 >= len(rollout.ladder):
        return Wait("this is its last stage: a person promotes it or takes it back")
    return _climb(release, evidence, policy, now, seen)


def _climb(release: Release, evidence: Snapshot, policy: Policy, now: float, seen: Look) -> Action:
    """The candidate is not shown to do harm: may it go on?"""
    rollout = release.rollout
    assert rollout is not None
    last = rollout.ladder[rollout.stage + 1] >= 100
    open_ = _too_early(release, evidence, policy, now, seen) or (_not_passed(seen) if last else "")
    if not open_:
        percent = rollout.ladder[rollout.stage + 1]
        why = " ".join(verdict.why for _, verdict in seen.guards) or "No wire was tripped."
        proof = describe(release, evidence, seen, now)
        return Promote("every guard passes", why, proof) if last else Advance(f"next stage: {percent:g} %", why, proof)
    if _elapsed(release, now) > policy.longest:
        verdict = Verdict("inconclusive", "longest time", f"Inconclusive after {policy.longest:g} s: {open_}")
        return _hold(release, evidence, policy, now, seen, verdict)
    return Wait(open_)


def _too_early(release: Release, evidence: Snapshot, policy: Policy, now: float, seen: Look) -> str:
    """Why this stage may not end yet; empty when it may."""
    rollout = release.rollout
    assert rollout is not None
    arms = ("shadow",) if rollout.percent == 0 else COMPARED
    units = min(int(evidence.arm(name).units / evidence.arm(name).rate) for name in arms)
    need = policy.units_at(rollout.stage, rollout.percent)
    if units < need:
        return f"{units} of at least {need} units per arm"
    left = policy.seconds_at(rollout.stage) - _elapsed(release, now)
    if left > 0:
        return f"{left:.0f} s of at least {policy.seconds_at(rollout.stage):g} s are left"
    blind = [guard.name for guard, _ in seen.guards if guard.required and _units_judged(guard, evidence) < MIN_UNITS]
    return f"no data yet for {', '.join(blind)}: it needs {MIN_UNITS} units per arm" if blind else ""


def _not_passed(seen: Look) -> str:
    """Why it may not be promoted; empty when it may."""
    if not seen.guards:
        return "no stage compares it with the stable version"
    return "" if seen.passed else " ".join(one.why for one in seen.open) or "no guard is required"


def _hold(
    release: Release, evidence: Snapshot, policy: Policy, now: float, seen: Look, verdict: Verdict
) -> Wait | Hold:
    """Hold once: what is held already only waits."""
    assert release.rollout is not None
    if release.rollout.held:
        return Wait(f"held: {release.rollout.held}")
    return Hold(verdict.rule, verdict.why, describe(release, evidence, seen, now))


def began(release: Release) -> float:
    """When an experiment began, in seconds since the epoch: its rollout, or the present shares of a split."""
    return datetime.fromisoformat(release.rollout.began if release.rollout else release.at).timestamp()


def entered(release: Release) -> float:
    """When the stage of a rollout began, in seconds since the epoch."""
    assert release.rollout is not None
    return datetime.fromisoformat(release.rollout.entered).timestamp()


def _elapsed(release: Release, now: float) -> float:
    return now - entered(release)


def _share(release: Release) -> float:
    canary, baseline = release.arm("canary"), release.arm("baseline")
    if canary is None or baseline is None or not canary.share + baseline.share:
        return 0.5
    return canary.share / (canary.share + baseline.share)


def _judge(guard: Guard, snapshot: Snapshot, share: float) -> Verdict:
    rule = guard.rule
    baseline, candidate = (figures_of(guard, snapshot.arm(name)) for name in ("baseline", "canary"))
    if guard.name == "quality" and snapshot.maturity is None:
        return Verdict("inconclusive", guard.name, "quality: how long labels take is not known yet.")
    if rule.metric.kind == "errors" and share != 0.5:
        # The exact test needs one share all along; a stage over 50 % has another than those before.
        rule = msgspec.structs.replace(rule, metric=msgspec.structs.replace(rule.metric, kind="mean"))
    return judge(rule, baseline, candidate, share=share)


def figures_of(guard: Guard, arm: ArmEvidence) -> Moments | Histogram:
    """What an arm has shown of a guard's metric, per unit."""
    if guard.name == "latency":
        return arm.latency
    if guard.name == "quality":
        return arm.mature.quality
    name = "errors" if guard.name == "errors" else "corrected"
    return Moments.of_rate(arm.of(name), arm.units)


def _units_judged(guard: Guard, snapshot: Snapshot) -> int:
    """Units of the smaller arm that a guard has something to go by."""
    return min(figures_of(guard, snapshot.arm(name)).count for name in COMPARED)


def describe(release: Release, snapshot: Snapshot, seen: Look, now: float) -> dict[str, Any]:
    """What a move rests on, as plain JSON for the ledger: counts, intervals, label coverage, verdicts."""
    rollout = release.rollout
    assert rollout is not None
    return {
        "stage": rollout.stage,
        "percent": rollout.percent,
        "seconds": round(_elapsed(release, now), 3),
        **summary(snapshot, seen),
    }


def summary(snapshot: Snapshot, seen: Look) -> dict[str, Any]:
    """Counts, labels and verdicts as plain JSON."""
    verdicts = [*([seen.wire] if seen.wire else []), *seen.checks, *(verdict for _, verdict in seen.guards)]
    return {
        "arms": {name: _arm(arm) for name, arm in snapshot.arms.items()},
        "verdicts": [_finite(msgspec.to_builtins(one)) for one in verdicts],
        "maturity": snapshot.maturity,
        "placed": snapshot.placed,
        "stood_in": snapshot.stood_in,
        "copies": {"count": snapshot.copies, "unequal": snapshot.unequal, "difference": snapshot.difference},
        "lost": snapshot.lost,
    }


def _arm(arm: ArmEvidence) -> dict[str, Any]:
    return {
        "units": arm.units,
        "requests": arm.requests,
        "kept": arm.rate,
        "flagged": dict(zip(FLAGS, arm.flagged, strict=True)),
        "p50": arm.latency.at(0.5),
        "p95": arm.latency.at(0.95),
        "heaviest": arm.heaviest,
        "quality": {"units": arm.mature.quality.count, "mean": arm.mature.quality.mean},
        "labels": {
            "units": arm.labelled,
            "mature": arm.mature.labelled,
            "of": arm.mature.predictions,
            "coverage": arm.mature.coverage,
        },
    }


def _finite(value: Any) -> Any:
    """The same without infinities, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value

"""How an experiment stands: arms, counts, intervals, labels, the split, every guard, and when it could decide."""

import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from rung.catalog import releases
from rung.domain.errors import Conflict
from rung.domain.records import Record
from rung.domain.releases import BUCKETS, Release
from rung.domain.rules import Verdict
from rung.fleet.controller import gather
from rung.fleet.evidence import COMPARED, ArmEvidence, Evidence, Snapshot, identity_of
from rung.fleet.expect import growth
from rung.fleet.policy import Guard, Policy
from rung.fleet.rollout import Action, Look, figures_of, look, plan, summary
from rung.ports import BlobStore
from rung.stats.intervals import clopper_pearson

__all__ = ["GuardState", "Moment", "Report", "as_json", "as_text", "observe"]

_FIRST = 100
_PACE = 1.3
"""How much longer the log gets between two points of the course, and how long it is at the first."""


class GuardState(msgspec.Struct, frozen=True):
    """A guard, what it says, and when it could say more."""

    name: str
    required: bool
    verdict: Verdict
    more: float | None
    """How many times the units it has would decide, if they go on as they are; None if it cannot be said."""
    seconds: float | None
    """How long that would take at the present pace; None if it cannot be said, 0 if it is decided."""


class Moment(msgspec.Struct, frozen=True):
    """A point on the way."""

    seconds: float
    """Since the experiment began."""
    units: dict[str, int]
    """Arm -> units."""
    guards: dict[str, tuple[float | None, float | None, float | None]]
    """Guard -> estimate, low, high."""


class Report(msgspec.Struct, frozen=True):
    """One experiment: the rollout or split that there is, or the last rollout that there was."""

    release: Release
    """The last link of it."""
    over: bool
    snapshot: Snapshot
    look: Look
    action: Action | None
    """What a controller would do now; None for what is over and for a plain split."""
    guards: tuple[GuardState, ...]
    course: tuple[Moment, ...]
    seconds: float
    """Since it began, or that it took."""
    named: Release
    """`release` with the arms of a split under the names that `snapshot` has."""


def observe(
    store: BlobStore,
    log: Path,
    model: str,
    policy: Policy,
    *,
    data: BlobStore | None = None,
    arm: str = "",
    now: float | None = None,
) -> Report:
    """Read the ledger and the whole log of a model's experiment.

    Args:
        store: Of the releases.
        log: Folder of the prediction log.
        model: Its name.
        policy: What its candidate is judged by.
        data: Where the log lies once it is converted.
        arm: In a split of more than two, the one to compare with the largest.
        now: Seconds since the epoch; the clock's if left out.

    Raises:
        NotFound: there is no such model.
        Conflict: it has no experiment and never had one.
    """
    at = time.time() if now is None else now
    links, over = _experiment(releases.history(store, model), model)
    release = links[-1]
    evidence = Evidence(release, maturity=policy.maturity, candidate=arm)
    for link in links:
        evidence.know(link)
    began = datetime.fromisoformat(links[0].at).timestamp()
    records = gather(log, data, model, began)
    course = tuple(_course(records, evidence, release, policy, began))
    snapshot = evidence.snapshot(at)
    named = evidence.named(release)
    seen = look(named, snapshot, policy)
    action = plan(release, snapshot, policy, at) if release.rollout is not None and not over else None
    seconds = max((course[-1].seconds if over and course else at - began), 1e-9)
    guards = tuple(_state(guard, verdict, snapshot, seconds) for guard, verdict in seen.guards)
    return Report(release, over, snapshot, seen, action, guards, course, seconds, named)


def _experiment(history: list[Release], model: str) -> tuple[list[Release], bool]:
    """The links of the present experiment, or of the last one, and whether it is over."""

    def divided(release: Release) -> bool:
        return release.rollout is not None or len(release.arms) > 1

    last = next((one for one in reversed(history) if divided(one)), None)
    if last is None:
        raise Conflict(f"{model} has no experiment: start one with `rung release {model} VERSION --ladder`")
    return [one for one in history if divided(one) and identity_of(one) == identity_of(last)], last is not history[-1]


def _course(
    records: Iterator[Record], evidence: Evidence, release: Release, policy: Policy, began: float
) -> Iterator[Moment]:
    """Feed the whole log, and look at it now and then on the way."""
    newest, due = began, _FIRST
    for number, record in enumerate(records, start=1):
        evidence.feed(record)
        newest = max(newest, record.time)
        if number >= due:
            due = max(number + _FIRST, int(number * _PACE))
            yield from _moment(evidence, release, policy, began, newest)
    yield from _moment(evidence, release, policy, began, newest)


def _moment(evidence: Evidence, release: Release, policy: Policy, began: float, at: float) -> Iterator[Moment]:
    snapshot = evidence.snapshot(at)
    units = {name: arm.units for name, arm in snapshot.arms.items()}
    if any(units.values()):
        seen = look(evidence.named(release), snapshot, policy)
        yield Moment(at - began, units, {guard.name: _ends(verdict) for guard, verdict in seen.guards})


def _ends(verdict: Verdict) -> tuple[float | None, float | None, float | None]:
    found = verdict.evidence
    return found.get("estimate"), found.get("low"), found.get("high")


def _state(guard: Guard, verdict: Verdict, snapshot: Snapshot, seconds: float) -> GuardState:
    if verdict.outcome != "inconclusive":
        return GuardState(guard.name, guard.required, verdict, 1.0, 0.0)
    baseline, candidate = (figures_of(guard, snapshot.arm(name)) for name in ("baseline", "canary"))
    known = guard.name != "quality" or snapshot.maturity is not None
    more = growth(guard.rule, baseline, candidate) if known else None
    # Arms grow in proportion to time for as long as the stage stays; the next one is faster.
    return GuardState(guard.name, guard.required, verdict, more, None if more is None else (more - 1) * seconds)


# --- writing it out -------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """Everything, as plain JSON."""
    release = report.release
    now = report.seconds
    return {
        "model": release.model,
        "epoch": release.epoch,
        "over": report.over,
        "held": release.rollout.held if release.rollout else "",
        "percent": release.rollout.percent if release.rollout else None,
        "seconds": round(now, 3),
        **summary(report.snapshot, report.look),
        "guards": [
            {
                "name": one.name,
                "required": one.required,
                "outcome": one.verdict.outcome,
                "why": one.verdict.why,
                "more": one.more,
                "seconds": one.seconds,
            }
            for one in report.guards
        ],
        "next": None
        if report.action is None
        else {"action": type(report.action).__name__.lower(), "reason": report.action.reason},
    }


def as_text(report: Report) -> str:
    """The same for a person."""
    return "\n".join([*_head(report), "", *_arms(report), "", *_labels(report), *_split(report), "", *_guards(report)])


def _head(report: Report) -> list[str]:
    release, rollout = report.release, report.release.rollout
    if rollout is not None:
        text = f"{release.model}: version {rollout.candidate} at {rollout.percent:g} %"
        text += f", {_span(report.seconds)} after its rollout began"
    else:
        shares = ", ".join(f"version {arm.version} {100 * arm.share / BUCKETS:g} %" for arm in release.arms)
        text = f"{release.model}: a split, {shares}, for {_span(report.seconds)}"
    lines = [text + (" (over)" if report.over else "")]
    if rollout is not None and rollout.held and not report.over:
        lines.append(f"held: {rollout.held}")
    if report.action is not None:
        lines.append(f"next: {type(report.action).__name__.lower()}: {report.action.reason}")
    return lines


def _arms(report: Report) -> list[str]:
    named = {arm.name: arm for arm in report.named.arms}
    head = ("arm", "version", "share", "units", "requests", "units with an error", "p50", "p95", "quality")
    rows = [head]
    for name, arm in report.snapshot.arms.items():
        known = named.get(name)
        rows.append(
            (
                name,
                str(known.version) if known else "",
                f"{100 * known.share / BUCKETS:g} %" if known else "",
                f"{arm.units:,}" + (f" (1 in {1 / arm.rate:.0f} kept)" if arm.rate < 1 else ""),
                f"{arm.requests:,}",
                _share(arm.of("errors"), arm.units),
                _milliseconds(arm, 0.5),
                _milliseconds(arm, 0.95),
                f"{arm.mature.quality.mean:.4g} of {arm.mature.quality.count:,}" if arm.mature.quality.count else "-",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _labels(report: Report) -> list[str]:
    snapshot = report.snapshot
    lines = []
    if any(snapshot.arm(name).labelled for name in COMPARED):
        age = "not known yet" if snapshot.maturity is None else f"after {_span(snapshot.maturity)}"
        lines.append(f"labels: mature {age}")
        for name in COMPARED:
            mature = snapshot.arm(name).mature
            covered = _share(mature.labelled, mature.predictions)
            lines.append(
                f"  {name}: {covered} of mature predictions; {snapshot.arm(name).labelled:,} units with any label"
            )
    else:
        lines.append("labels: none yet")
    if snapshot.copies:
        lines.append(
            f"copies: {_share(snapshot.unequal, snapshot.copies)} differ, at most by {snapshot.difference:.4g}"
        )
    left_out = {"sent by a segment or a tester": snapshot.placed, "answered while a version loaded": snapshot.stood_in}
    lines += [f"left out: {count:,} requests {what}" for what, count in left_out.items() if count]
    if snapshot.lost:
        lines.append(f"lost: {snapshot.lost:,} records that the log had to drop")
    heaviest = max((snapshot.arm(name).heaviest for name in COMPARED), default=0.0)
    if heaviest > 0.1:
        lines.append(f"note: one unit makes {100 * heaviest:.0f} % of its arm's requests; units count once each")
    return lines


def _split(report: Report) -> list[str]:
    if report.look.wire is not None:
        return [f"WIRE: {report.look.wire.why}", *_checks(report)]
    return _checks(report)


def _checks(report: Report) -> list[str]:
    said = {"fail": "MISMATCH", "inconclusive": "no mismatch seen"}
    return [f"{one.rule}: {said[one.outcome]}. {one.why}" for one in report.look.checks]


def _guards(report: Report) -> list[str]:
    lines = []
    for one in report.guards:
        lines.append(f"{one.name}: {one.verdict.outcome.upper()}{'' if one.required else ' (not required)'}")
        lines.append(f"  {one.verdict.why.removeprefix(f'{one.name}: ')}")
        if one.verdict.outcome == "inconclusive" and not report.over:
            if one.more is None:
                lines.append("  cannot say yet how long it will take")
            else:
                lines.append(
                    f"  could decide with {one.more:.1f} times the units, in about {_span(one.seconds or 0.0)}"
                )
    return lines or ["no guards: nothing is compared at this stage"]


def _share(count: int, of: int) -> str:
    if not of:
        return "-"
    interval = clopper_pearson(count, of)
    return f"{100 * count / of:.2f} % [{100 * interval.low:.2f}, {100 * interval.high:.2f}]"


def _milliseconds(arm: ArmEvidence, quantile: float) -> str:
    return f"{1000 * arm.latency.at(quantile):.3g} ms" if arm.latency.count else "-"


def _span(seconds: float) -> str:
    for unit, size in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} seconds"

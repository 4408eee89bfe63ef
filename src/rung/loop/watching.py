"""What is measured for alerts: processes, what replicas count, jobs, disks, releases, and the control plane itself.

A source that is not there (no replica runs, no model is released) gives nothing. One that is there and does not
answer gives an observation without a value.
"""

import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from sqlalchemy import func, select

from rung.catalog import releases
from rung.domain import errors
from rung.domain.alerts import Observation
from rung.domain.errors import RungError
from rung.domain.records import blame_of
from rung.fleet.loop import PartHealth
from rung.fleet.pages import fetch
from rung.fleet.state import RoleState, is_alive, read_state
from rung.jobs.queue import JobStore
from rung.jobs.tables import JOBS, in_state
from rung.loop.alert_rules import LOOK_ALPHA
from rung.loop.alert_store import GroupedError
from rung.loop.exposition import Gains, Sample, least_share, read
from rung.loop.triggers import Seen
from rung.ports import BlobStore
from rung.settings.project import ProjectSettings

__all__ = ["Sources", "Watcher", "of_metrics"]

_WINDOW = 300.0
"""Seconds over which shares are taken."""
_LONG_WINDOW = 600.0
_FAILURES = "rung_request_failures_total"
_BUCKETS = "rung_request_duration_seconds_bucket"


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where observations come from."""

    settings: ProjectSettings
    folder: Path
    """Of the project."""
    repository: BlobStore
    jobs: JobStore
    parts: Callable[[], Sequence[PartHealth]]
    """How the parts of the control plane are."""
    measured: Callable[[], Mapping[str, Seen]]
    """Model -> what was last measured of drift and quality."""


class Watcher:
    """Measures, and remembers the counters of the last minutes. For one thread."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._short, self._long, self._starts = Gains(_WINDOW), Gains(_LONG_WINDOW), Gains(_LONG_WINDOW)
        self._locked = False
        self.errors: list[GroupedError] = []
        """Grouped errors that the replicas counted, as of the last look."""

    def locked(self) -> None:
        """Say that the database could not be written: the next look tells, once it can be."""
        self._locked = True

    def observe(self, now: float) -> list[Observation]:
        """What is so at `now`, in seconds since the epoch. Raises nothing that is rung's own or the system's."""
        found: list[Observation] = []
        for metrics, source in (
            (("process_down", "process_restarts"), lambda: self._processes(now)),
            (("error_share", "slow_share", "shed_share", "log_lost", "log_failing"), lambda: self._replicas(now)),
            (("disk_free_share",), self._disks),
            (("jobs_dead", "job_wait_seconds"), lambda: self._jobs(now)),
            (("part_failures", "database_locked"), self._parts),
            (("drift_confirmed", "quality_worse", "skew_share"), self._models),
            (("rollout_held", "rolled_back"), self._releases),
        ):
            try:
                found += list(source())
            except (RungError, OSError) as error:
                found += [Observation(metric, None, detail=str(error)) for metric in metrics]
        return found

    def _processes(self, now: float) -> Iterator[Observation]:
        state = read_state(self._sources.folder)
        if state is None or not is_alive(state.pid, state.started):
            return
        starts = self._starts.look(now, {(role.name,): float(role.restarts) for role in state.roles}) or {}
        for role in state.roles:
            if role.state in ("stopping", "stopped"):
                continue
            down = role.state in ("waiting", "broken") or (
                role.state != "starting" and not is_alive(role.pid, role.started)
            )
            labels = {"process": role.name}
            yield Observation("process_down", float(down), labels, role.reason if down else "")
            yield Observation("process_restarts", starts.get((role.name,), 0.0), labels, role.reason)

    def _replicas(self, now: float) -> list[Observation]:
        state = read_state(self._sources.folder)
        roles = state.roles if state is not None and is_alive(state.pid, state.started) else []
        asked = [role for role in roles if role.role == "replica" and role.url and role.state == "ready"]
        if not asked:
            return []
        with ThreadPoolExecutor(len(asked)) as pool:
            pages = [page for page in pool.map(_scrape, asked) if page is not None]
        if not pages:
            raise errors.NotReady("no replica answers")
        samples = {(source, number): sample for source, page in pages for number, sample in enumerate(read(page))}
        self.errors = [found for (source, _), sample in samples.items() if (found := _error(source, sample, now))]
        return of_metrics(
            [(source, sample) for (source, _), sample in samples.items()],
            {name: self._objective(name) for name in self._sources.settings.models},
            self._sources.settings.serve.objective_ms / 1e3,
            (self._short, self._long),
            now,
        )

    def _objective(self, model: str) -> float:
        settings = self._sources.settings
        return (settings.models[model].serve.objective_ms or settings.serve.objective_ms) / 1e3

    def _disks(self) -> Iterator[Observation]:
        project = self._sources.settings.project
        places = {self._sources.folder.resolve()}
        for place in (project.log, project.data, project.repository):
            if "://" not in place and (path := self._sources.folder / place).exists():
                places.add(path.resolve())
        devices = {path.stat().st_dev: path for path in sorted(places, reverse=True)}
        for path in devices.values():
            usage = shutil.disk_usage(path)
            detail = f"{usage.free / 2**30:.2f} GiB"
            yield Observation("disk_free_share", usage.free / max(usage.total, 1), {"place": str(path)}, detail)

    def _jobs(self, now: float) -> list[Observation]:
        oldest = select(JOBS.c.kind, func.min(JOBS.c.run_at)).where(in_state("ready")).group_by(JOBS.c.kind)
        jobs = self._sources.jobs
        waits: dict[str, float] = jobs.database.read(lambda connection: dict(connection.execute(oldest).all()))
        found = []
        for kind, states in jobs.counts().items():
            labels = {"kind": kind}
            found.append(Observation("jobs_dead", float(states.get("dead", 0)), labels))
            found.append(Observation("job_wait_seconds", max(now - waits.get(kind, now), 0.0), labels))
        return found

    def _parts(self) -> Iterator[Observation]:
        locked, self._locked = self._locked, False
        for part in self._sources.parts():
            locked = locked or "stayed locked" in part.error
            yield Observation("part_failures", float(part.in_a_row), {"part": part.name}, part.error)
        yield Observation("database_locked", float(locked))

    def _models(self) -> Iterator[Observation]:
        for model, seen in self._sources.measured().items():
            labels = {"model": model}
            if seen.drifted is not None:
                yield Observation("drift_confirmed", float(seen.drifted), labels, str(seen.evidence.get("triage", "")))
            if seen.worse is not None:
                yield Observation("quality_worse", float(seen.worse), labels, str(seen.evidence.get("quality", "")))
            if seen.skew is not None or "skew" in seen.evidence:
                # Without a figure it is a hole: that nobody knows is told as well.
                yield Observation("skew_share", seen.skew, labels, str(seen.evidence.get("skew", "")))

    def _releases(self) -> Iterator[Observation]:
        for release in releases.list_releases(self._sources.repository):
            labels = {"model": release.model, "epoch": str(release.epoch)}
            if release.rollout is not None:
                version = {"version": str(release.rollout.candidate)}
                held = release.rollout.held
                yield Observation("rollout_held", float(bool(held)), labels | version, held)
            if release.move.kind == "rollback":
                version = {"version": str(max(release.arms, key=lambda arm: arm.share).version)}
                yield Observation("rolled_back", 1.0, labels | version, release.move.reason)


def of_metrics(
    samples: Sequence[tuple[str, Sample]],
    objectives: Mapping[str, float],
    objective: float,
    gains: tuple[Gains, Gains],
    now: float,
) -> list[Observation]:
    """Observations from what replicas count.

    Args:
        samples: each with the process that it is from.
        objectives: model -> seconds that an answer may take; 0: none is set.
        objective: the same for all other models.
        gains: of the window of shares, and of that of losses.
        now: seconds since the epoch.
    """
    counters: dict[tuple[str, ...], float] = {}
    failing = 0.0
    for source, sample in samples:
        if sample.name in (_FAILURES, _BUCKETS, "rung_log_shed_total"):
            counters[source, sample.name, *(text for pair in sorted(sample.labels.items()) for text in pair)] = (
                sample.value
            )
        failing += sample.name == "rung_log_failing" and sample.value > 0
    found = [Observation("log_failing", failing)] if any(one.name == "rung_log_failing" for _, one in samples) else []
    lost = gains[1].look(now, {key: value for key, value in counters.items() if key[1] == "rung_log_shed_total"})
    if lost is not None and found:
        found.append(Observation("log_lost", sum(lost.values())))
    gained = gains[0].look(now, counters)
    if gained is None:
        return found
    tallies: dict[str, dict[str, float]] = {}
    for key, gain in gained.items():
        name, labels = key[1], dict(zip(key[2::2], key[3::2], strict=True))
        if name != "rung_log_shed_total":
            model = labels["model"]
            _count(tallies.setdefault(model, defaultdict(float)), name, labels, gain, objectives.get(model, objective))
    for model, tally in sorted(tallies.items()):
        found += _shares(model, tally, objectives.get(model, objective))
    return found


def _count(tally: dict[str, float], name: str, labels: Mapping[str, str], gain: float, objective: float) -> None:
    if name == _FAILURES:
        kind = getattr(errors, labels["error"], None)
        tally["failed"] += gain
        if labels["error"] == "Overloaded":
            tally["shed"] += gain
        elif kind is None or blame_of(kind()) == "server":
            tally["errors"] += gain
    elif labels["le"] == "+Inf":
        tally["answered"] += gain
    elif 0 < objective <= float(labels["le"]):
        tally[f"le {labels['le']}"] += gain


def _shares(model: str, tally: Mapping[str, float], objective: float) -> Iterator[Observation]:
    total = tally.get("answered", 0) + tally.get("failed", 0)
    if total <= 0:
        return
    labels, detail = {"model": model}, f"of {total:,.0f} requests in five minutes"
    for metric, name in (("error_share", "errors"), ("shed_share", "shed")):
        share = least_share(tally.get(name, 0), total, LOOK_ALPHA)
        yield Observation(metric, share, labels, f"{tally.get(name, 0):,.0f} {detail}")
    bounds = [name for name in tally if name.startswith("le ")]
    answered = tally.get("answered", 0)
    if objective > 0 and bounds and answered > 0:
        # What is beyond the first bound at or above the objective was too slow without doubt.
        first = min(bounds, key=lambda name: float(name[3:]))
        slow = max(answered - tally[first], 0)
        share = least_share(slow, answered, LOOK_ALPHA)
        yield Observation("slow_share", share, labels, f"{slow:,.0f} {detail} took longer than {first[3:]} s")


def _scrape(role: RoleState) -> tuple[str, str] | None:
    """A process with its start, and its page; None where it does not answer."""
    try:
        return f"{role.name} {role.pid} {role.started}", fetch(role.url, "/metrics").decode()
    except (OSError, UnicodeDecodeError):
        return None


def _error(source: str, sample: Sample, now: float) -> GroupedError | None:
    if sample.name != "rung_exceptions_total":
        return None
    labels = sample.labels
    return GroupedError(
        fingerprint=labels["fingerprint"],
        source=source,
        version=labels.get("version", ""),
        kind=labels.get("type", ""),
        place=labels.get("place", ""),
        message=labels.get("message", ""),
        count=int(sample.value),
        first=float(labels.get("first") or now),
        last=now,
    )

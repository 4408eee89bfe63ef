"""How a project is, seen from outside: its processes, models, releases, jobs, and what is wrong, in words.

It is put together from the supervisor's file, the replicas' own ports, the repository and the database. Each may be
away: then that part is missing and a problem says so. The control plane is not asked.
"""

import http.client
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from rung.catalog import models as catalog
from rung.catalog import releases
from rung.domain.errors import RungError
from rung.domain.releases import BUCKETS, Release
from rung.domain.scaling import Decision
from rung.fleet.front.haproxy import ADMIN, HostStatus, Runtime
from rung.fleet.loop import PartHealth
from rung.fleet.pages import connect, fetch, read
from rung.fleet.scaling.decisions import read_last
from rung.fleet.state import RoleState, UpState, is_alive, read_state
from rung.ports import BlobStore

__all__ = ["ModelStatus", "ProjectStatus", "RoleStatus", "ask_parts", "duplicates", "observe"]

_DECISIONS = 5

_DUPLICATES = re.compile(
    r'^rung_duplicate_(ratio|cache_bytes|saved_seconds_per_minute)\{model="([^"]+)",version="(\d+)"\} (\S+)$',
    re.MULTILINE,
)

_LOST = re.compile(r'^rung_log_shed_total\{model="([^"]*)",reason="([^"]*)"\} (\S+)$', re.MULTILINE)
_FAILING = re.compile(r'^rung_log_failing\{reason="([^"]+)"\} 1\.0$', re.MULTILINE)

Counts = Callable[[], Mapping[str, Mapping[Any, int]]]
"""Kind of job -> state -> number of jobs."""


class RoleStatus(msgspec.Struct, kw_only=True):
    """One process."""

    name: str
    role: str
    state: str
    """`starting`, `ready`, `waiting`, `broken`, `stopping`, `stopped`, or `gone` where the supervisor was killed."""
    pid: int = 0
    seconds: float = 0.0
    """Since this life began."""
    restarts: int = 0
    reason: str = ""
    """Why the last life ended."""
    rss: int = 0
    """Resident bytes, with its children."""
    pss: int = 0
    """Of these, its share: what several processes map counts for each in part."""
    front: str = ""
    """What the front makes of a replica: `UP` where it gets requests, else why not; empty where there is no front."""
    asked: int = 0
    """Requests that the front has sent it."""
    retried: int = 0
    """Requests that were asked again since it had not answered them."""


class ModelStatus(msgspec.Struct, kw_only=True):
    """One version of a model, as one arm of its release or as what is loaded besides."""

    model: str
    version: int
    arm: str = ""
    """Name of the arm; empty for a version that answers nobody by the release."""
    role: str = ""
    share: float = 0.0
    """Percent of the units."""
    epoch: int = 0
    """Of the release; 0 where there is none, and the latest version answers."""
    loaded: list[str] = []
    """Replicas that hold the version."""
    requests: int = 0
    """Answered since these replicas loaded it, over all arms of the version."""
    failures: int = 0


class ProjectStatus(msgspec.Struct, kw_only=True):
    """What `rung ps` shows."""

    project: str
    up: bool
    pid: int = 0
    seconds: float = 0.0
    url: str = ""
    control: str = ""
    replicas: int = 0
    """How many there are to be."""
    why: str = ""
    """Why so many."""
    by_hand: bool = False
    """Whether a person said so, and no rule changes it."""
    restarted: float = 0.0
    """When the restart of all replicas that is under way was asked for; 0 where there is none."""
    waiting: int = 0
    """Requests that wait since no replica can answer."""
    roles: list[RoleStatus] = []
    hosts: list[HostStatus] = []
    """Nearest first."""
    models: list[ModelStatus] = []
    parts: list[PartHealth] = []
    """Of the control loop."""
    scaling: list[Decision] = []
    """The last decisions on the number of replicas, the newest last."""
    jobs: dict[str, dict[str, int]] = {}
    """Kind -> state -> number."""
    advice: list[str] = []
    """What would pay."""
    problems: list[str] = []
    """What is wrong."""


class _Replica(msgspec.Struct):
    """What one replica says."""

    name: str
    loaded: dict[tuple[str, int], tuple[int, int]] = {}
    """Model and version -> requests and failures."""
    problems: list[str] = []
    advice: list[str] = []


def observe(
    folder: Path,
    name: str,
    repository: BlobStore,
    counts: Counts,
    parts: Callable[[str], list[PartHealth]] | None = None,
) -> ProjectStatus:
    """How the project in `folder` is now. Raises nothing: what cannot be read is a problem.

    `parts(control)` says how the parts of the control loop are, whose API is at that URL; None: nobody is asked.
    """
    state = read_state(folder)
    up = state is not None and is_alive(state.pid, state.started)
    status = ProjectStatus(project=name, up=up)
    status.scaling = read_last(folder, _DECISIONS)
    if state is not None:
        _processes(status, state, up=up)
    if any(role.role == "front" and role.state == "ready" for role in status.roles):
        _front(status, folder, state.hosts if state is not None else {})
    replicas = _replicas(state.roles if state is not None and up else [])
    for replica in replicas:
        status.problems += [f"{replica.name}: {problem}" for problem in replica.problems]
        status.advice += replica.advice
    try:
        status.models = _models(repository, replicas)
    except (RungError, OSError) as error:
        status.problems.append(f"the repository cannot be read: {error}")
    try:
        status.jobs = {kind: dict(states) for kind, states in counts().items()}
    except (RungError, OSError) as error:
        status.problems.append(f"the jobs cannot be counted: {error}")
    if status.control and parts is not None:
        try:
            status.parts = parts(status.control)
        except (RungError, OSError) as error:
            status.problems.append(f"the control plane does not say how it is: {error}")
    status.problems += [f"{part.name}: {part.error}" for part in status.parts if part.error]
    dead = sum(states.get("dead", 0) for states in status.jobs.values())
    if dead:
        status.problems.append(f"{dead} job{'s are' if dead > 1 else ' is'} dead: `rung jobs list --state dead`")
    return status


def _front(status: ProjectStatus, folder: Path, hosts: Mapping[str, str]) -> None:
    """What the front makes of the replicas."""
    try:
        shares = {share.name: share for share in Runtime(str(folder / ADMIN)).shares()}
    except OSError as error:
        status.problems.append(f"the front does not say how it is: {error}")
        return
    for name, host in hosts.items():
        if (share := shares.get(name)) is not None:
            status.hosts.append(HostStatus(host=host, state=share.state, asked=share.requests))
    for role in status.roles:
        if (share := shares.get(role.name)) is not None:
            role.front, role.asked, role.retried = share.state, share.requests, share.retries
            if share.state.startswith("DOWN"):
                role.front = f"{share.state}: {share.why}"
                status.problems.append(f"{role.name} gets no requests: {share.why}")
            elif share.state.startswith("DRAIN"):
                status.problems.append(f"{role.name} gets no requests while others have all models")


def ask_parts(control: str) -> list[PartHealth]:
    """How the parts of the control loop are, by its API at this URL.

    Raises:
        OSError: it does not answer.
    """
    try:
        return msgspec.json.decode(fetch(control, "/readyz?all=true"), type=list[PartHealth])
    except msgspec.MsgspecError as error:
        raise OSError(str(error)) from None


def _processes(status: ProjectStatus, state: UpState, *, up: bool) -> None:
    if not up:
        status.problems.append(f"the supervisor (process {state.pid}) was killed: `rung up` starts everything again")
        return
    now = time.time()
    status.pid, status.url, status.control = state.pid, state.url, state.control
    status.seconds = max(now - state.since, 0.0)
    status.replicas, status.why, status.by_hand = state.replicas, state.why, state.by_hand
    status.restarted, status.waiting = state.restarted, state.waiting
    if state.waiting:
        status.problems.append(f"{state.waiting} requests wait, since no replica can answer")
    rss, pss = _memory(state.pid, children=False)
    supervisor = RoleStatus(name="supervisor", role="supervisor", state="ready", pid=state.pid, rss=rss, pss=pss)
    supervisor.seconds = status.seconds
    status.roles = [supervisor]
    for role in state.roles:
        alive = is_alive(role.pid, role.started)
        rss, pss = _memory(role.pid) if alive else (0, 0)
        status.roles.append(
            RoleStatus(
                name=role.name,
                role=role.role,
                state=role.state,
                pid=role.pid,
                seconds=max(now - role.since, 0.0) if role.since else 0.0,
                restarts=role.restarts,
                reason=role.reason,
                rss=rss,
                pss=pss,
            )
        )
        if role.state not in ("ready", "stopping", "stopped"):
            why = f": {role.reason}" if role.reason else ""
            status.problems.append(f"{role.name} is {_IN_WORDS.get(role.state, role.state)}{why}")


_IN_WORDS = {"waiting": "waiting to be started again", "broken": "broken (it ended five times in a row)"}


def _memory(pid: int, *, children: bool = True) -> tuple[int, int]:
    """Resident bytes and proportional share of a process, with those below it."""
    import psutil

    rss = pss = 0
    try:
        top = psutil.Process(pid)
        for process in [top, *(top.children(recursive=True) if children else [])]:
            try:
                memory = process.memory_full_info()
            except psutil.Error:
                continue
            rss, pss = rss + memory.rss, pss + memory.pss
    except psutil.Error:
        pass
    return rss, pss


def _replicas(roles: list[RoleState]) -> list[_Replica]:
    asked = [role for role in roles if role.role == "replica" and role.url]
    if not asked:
        return []
    with ThreadPoolExecutor(len(asked)) as pool:
        return list(pool.map(_ask, asked))


def _ask(role: RoleState) -> _Replica:
    found = _Replica(role.name)
    connection = connect(role.url)
    try:
        statistics = _get(connection, "/v2/models/stats")
        readiness = _get(connection, "/readyz")
        metrics = read(connection, "/metrics").decode()
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        found.problems.append(f"it does not answer: {error or type(error).__name__}")
        return found
    finally:
        connection.close()
    for one in statistics.get("model_stats", []):
        counts = one.get("inference_stats", {})
        succeeded, failed = counts.get("success", {}).get("count", 0), counts.get("fail", {}).get("count", 0)
        found.loaded[one["name"], int(one["version"])] = (succeeded + failed, failed)
    found.problems += readiness.get("problems", [])
    found.problems += _losses(metrics)
    found.advice += _advice(metrics)
    return found


def _losses(metrics: str) -> list[str]:
    """What the prediction log has lost since the replica started, and why it cannot be written now."""
    lost = [
        f"{float(count):.0f} records of {model or 'several models'} are missing from the prediction log: {reason}"
        for model, reason, count in _LOST.findall(metrics)
    ]
    return [*lost, *(f"the prediction log cannot be written: {reason}" for reason in _FAILING.findall(metrics))]


def duplicates(metrics: str) -> dict[tuple[str, str], dict[str, float]]:
    """Model and version -> `ratio`, `cache_bytes` and `saved_seconds_per_minute` of a cache that would pay, by the
    metrics of a replica.
    """
    measured: dict[tuple[str, str], dict[str, float]] = {}
    for name, model, version, value in _DUPLICATES.findall(metrics):
        measured.setdefault((model, version), {})[name] = float(value)
    return measured


def _advice(metrics: str) -> list[str]:
    """What a replica's own measurements say would pay: caches for models whose requests repeat."""
    return [
        f"{one.get('ratio', 0):.0%} of the requests to {model} version {version} repeat an earlier one: "
        f'cache = "{int(one.get("cache_bytes", 0)) >> 20}MiB" in [models.{model}.serve] would save '
        f"{one.get('saved_seconds_per_minute', 0):.1f} s of computation per minute"
        for (model, version), one in duplicates(metrics).items()
    ]


def _get(connection: http.client.HTTPConnection, path: str) -> dict[str, Any]:
    return msgspec.json.decode(read(connection, path), type=dict[str, Any])


def _models(repository: BlobStore, replicas: list[_Replica]) -> list[ModelStatus]:
    released = {release.model: release for release in releases.list_releases(repository)}
    rows: list[ModelStatus] = []
    for release in released.values():
        rows += _arms(release)
    placed = {(row.model, row.version) for row in rows}
    loaded = {key for replica in replicas for key in replica.loaded}
    latest: dict[str, int] = {}
    for entry in catalog.list_models(repository):
        latest[entry.name] = max(latest.get(entry.name, 0), entry.version)
    for model, version in sorted((loaded | {(m, v) for m, v in latest.items() if m not in released}) - placed):
        answers = model not in released and latest.get(model) == version
        rows.append(ModelStatus(model=model, version=version, arm="", role="latest" if answers else "loaded"))
        if answers:
            rows[-1].share = 100.0
    for row in rows:
        for replica in replicas:
            if (counted := replica.loaded.get((row.model, row.version))) is not None:
                row.loaded.append(replica.name)
                row.requests += counted[0]
                row.failures += counted[1]
    return sorted(rows, key=lambda row: (row.model, -row.share, row.version, row.arm))


def _arms(release: Release) -> list[ModelStatus]:
    return [
        ModelStatus(
            model=release.model,
            version=arm.version,
            arm=arm.name,
            role=arm.role,
            share=100.0 * arm.share / BUCKETS,
            epoch=release.epoch,
        )
        for arm in release.arms
        if arm.share or arm.role == "shadow"
    ]

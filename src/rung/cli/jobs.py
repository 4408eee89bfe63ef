"""Bodies of `rung jobs`."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
import orjson

from rung.cli.printing import print_json, print_table
from rung.domain.errors import ConfigurationError
from rung.domain.jobs import STATES, Job, State
from rung.jobs.queue import JobStore
from rung.settings.file import project_here
from rung.store.database import Database, open_database

__all__ = ["Which", "cancel", "list_jobs", "retry", "show"]

_WIDEST = 60


class Which(msgspec.Struct, frozen=True):
    """Which jobs to list."""

    state: str = ""
    kind: str = ""
    owner: str = ""
    before: int = 0
    limit: int = 20


def _open(url: str) -> Database:
    return open_database(url or project_here().project.store, create=False)


def list_jobs(url: str, which: Which, *, as_json: bool) -> None:
    """Counts by kind and state, then one line per job.

    Raises:
        ConfigurationError: there is no such state, or no such database.
    """
    if which.state and which.state not in STATES:
        raise ConfigurationError(f"--state {which.state!r} is none: use one of {', '.join(STATES)}")
    state: State | None = next((one for one in STATES if one == which.state), None)
    with _open(url) as database:
        store = JobStore(database)
        counts = store.counts()
        jobs = store.find(state=state, kind=which.kind, owner=which.owner, before=which.before, limit=which.limit)
        if as_json:
            print_json({"counts": counts, "jobs": jobs})
            return
        if not counts:
            print(f"no jobs in {database.name}")
            return
    print("\n".join(_tally(kind, of_kind) for kind, of_kind in counts.items()))
    if not jobs:
        print("\nnone of them is asked for")
        return
    print()
    print_table(("ID", "KIND", "STATE", "TRIES", "AGE", "OWNER", "KEY", "WHAT"), [_line(job) for job in jobs])


def _tally(kind: str, counts: "dict[State, int]") -> str:
    return f"{kind}: " + ", ".join(f"{count:,} {state}" for state, count in counts.items())


def _line(job: Job) -> tuple[str, ...]:
    what = job.error or job.note or (_short(job.result) if job.result is not None else _short(job.arguments))
    if job.state == "leased":
        what = f"{job.progress:.0%} {job.note}".strip()
    tries = f"{job.attempts}/{job.max_attempts}"
    age = _span(time.time() - job.created)
    return (str(job.id), job.kind, job.state, tries, age, job.owner or "-", job.key or "-", what[:_WIDEST])


def _short(value: object) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}... ({len(text):,} characters)"


def _span(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def show(url: str, job_id: int, *, as_json: bool) -> None:
    """All that is known of one job. Raises NotFound."""
    with _open(url) as database:
        job = JobStore(database).get(job_id)
    if as_json:
        print_json(job)
        return
    facts = {
        "arguments": orjson.dumps(job.arguments).decode(),
        "priority": str(job.priority) if job.priority else "",
        "key": job.key,
        "owner": job.owner,
        "idempotency": job.idempotency_key,
        "after": ", ".join(map(str, job.after)),
        "tries": f"{job.attempts} of {job.max_attempts}",
        "submitted": _moment(job.created),
        "not before": _moment(job.run_at) if job.state in ("scheduled", "waiting") and job.run_at > job.created else "",
        "started": _moment(job.started),
        "ended": _moment(job.finished),
        "worker": job.worker,
        "lease until": _moment(job.expires),
        "progress": f"{job.progress:.0%} {job.note}".strip() if job.started else "",
        "result": orjson.dumps(job.result).decode() if job.state == "done" else "",
        "reason": job.error,
    }
    print(f"job {job.id}: {job.kind}, {job.state}")
    print("\n".join(f"  {key:<13}{value}" for key, value in facts.items() if value))


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(" ", "seconds") if seconds else ""


def cancel(url: str, jobs: Sequence[int], reason: str) -> None:
    """Cancel jobs, one after the other. Raises NotFound and Conflict at the first that cannot be."""
    with _open(url) as database:
        store = JobStore(database)
        for job in jobs:
            store.cancel(job, reason)
            print(f"cancelled job {job}")


def retry(url: str, jobs: Sequence[int]) -> None:
    """Start jobs anew, one after the other. Raises NotFound and Conflict at the first that cannot be."""
    with _open(url) as database:
        store = JobStore(database)
        for job in jobs:
            print(f"job {job} is {store.retry(job).state}")

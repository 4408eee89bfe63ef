"""How a job ends: done with its effect, failed, cancelled; and how an ended one starts anew or is forgotten.

Every function runs in the caller's write transaction.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, delete, select, text, update

from rung.domain.errors import Conflict, InvalidInput, NotFound, TooLarge
from rung.domain.jobs import ENDED, Job, State, backoff
from rung.jobs.chains import Ended, hold_keys, revive, start_next
from rung.jobs.tables import JOBS, LINKS, decode, encode, on_leases

__all__ = [
    "PURGED_AT_ONCE",
    "Completion",
    "Effect",
    "cancel",
    "clean",
    "complete",
    "fail",
    "find",
    "held",
    "lost",
    "purge",
    "remove",
    "retry",
]

Effect = Callable[[Connection], None]
"""Writes to the database within the transaction that ends the job; runs again where that is rolled back."""
PURGED_AT_ONCE = 500
"""Jobs forgotten in one transaction, so that others get their turn in between."""

_LARGEST = 16 << 20
_LONGEST_TEXT = 2000


class Completion(msgspec.Struct, frozen=True):
    """One job that a worker has finished."""

    job: Job
    """As `claim` gave it."""
    result: Any = None
    """Plain JSON values."""
    effect: Effect | None = None
    """Written together with the result, or not at all."""


def held(job: Job) -> tuple[ColumnElement[bool], ...]:
    """The condition that a job is still leased to whoever holds this token."""
    return (JOBS.c.id == job.id, JOBS.c.token == job.token, JOBS.c.state == "leased")


def clean(words: str) -> str:
    """Text as both databases take it, cut to 2,000 characters."""
    return words.replace("\0", "\\0").encode(errors="backslashreplace").decode()[:_LONGEST_TEXT]


_END = on_leases("""
UPDATE rung_jobs SET state = 'done', finished = :now, progress = 1.0, expires = NULL, error = NULL, result = held.result
FROM {held}
WHERE rung_jobs.id = held.id AND rung_jobs.token = held.token AND rung_jobs.state = 'leased'
RETURNING rung_jobs.id
""")


def complete(connection: Connection, completions: Sequence[Completion], now: float) -> list[Exception | None]:
    """End these jobs; returns for each None, or why it was not ended."""
    hold_keys(connection, [one.job.key for one in completions])
    problems: dict[int, Exception] = {}
    results: dict[int, str] = {}
    for one in completions:
        try:
            results[one.job.id] = _result(one.result)
        except (InvalidInput, TooLarge) as error:
            problems[one.job.id] = error
    plain = [one for one in completions if one.effect is None and one.job.id in results]
    done = _end(connection, plain, results, now) if plain else set()
    for one in completions:
        if one.effect is None or one.job.id not in results:
            continue
        try:
            with connection.begin_nested():
                if _end(connection, [one], results, now):
                    one.effect(connection)
                    done.add(one.job.id)
        except Exception as error:  # noqa: BLE001 - a boundary: effects are the user's code
            problems[one.job.id] = error
    start_next(connection, [Ended(one.job.id, one.job.key, "done") for one in completions if one.job.id in done], now)
    return [None if one.job.id in done else problems.get(one.job.id) or lost(one.job) for one in completions]


def _result(value: Any) -> str:
    try:
        result = encode(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the result of a job has to be plain JSON values: {error}", field="result") from None
    if len(result) > _LARGEST:
        raise TooLarge(f"a result of {len(result):,} bytes: put it into the store, and return its key")
    return result


def _end(connection: Connection, completions: Sequence[Completion], results: dict[int, str], now: float) -> set[int]:
    rows = [{"id": one.job.id, "token": one.job.token, "result": results[one.job.id]} for one in completions]
    statement = _END[connection.dialect.name]
    return {id for (id,) in connection.execute(statement, {"now": now, "held": encode(rows)})}


_REMOVE = {
    "sqlite": text(
        "DELETE FROM rung_jobs WHERE state = 'leased'"
        " AND (id, token) IN (SELECT value ->> 0, value ->> 1 FROM json_each(:held)) RETURNING id"
    ),
    "postgresql": text(
        "DELETE FROM rung_jobs USING json_array_elements(CAST(:held AS json)) AS held(value)"
        " WHERE rung_jobs.id = CAST(value ->> 0 AS bigint) AND rung_jobs.token = CAST(value ->> 1 AS bigint)"
        " AND rung_jobs.state = 'leased' RETURNING rung_jobs.id"
    ),
}


def remove(connection: Connection, jobs: Sequence[Job], now: float) -> set[int]:
    """End these jobs, which nothing waits for, and leave no row; returns the ids of those whose lease was held."""
    hold_keys(connection, [job.key for job in jobs])
    held = encode([(job.id, job.token) for job in jobs])
    gone = {id for (id,) in connection.execute(_REMOVE[connection.dialect.name], {"held": held})}
    start_next(connection, [], now, keys=[job.key for job in jobs if job.id in gone])
    return gone


def lost(job: Job) -> Conflict:
    """The error for whoever comes too late."""
    return Conflict(
        f"lease {job.token} of job {job.id} is not held any more: it ran out and the job was given to another worker, "
        "or the job was cancelled; nothing was written"
    )


def fail(connection: Connection, job: Job, error: str, now: float, jitter: float | None) -> State:
    """Give up a try: `scheduled` for another, or `dead` after the last. Without `jitter` there is no other."""
    hold_keys(connection, [job.key])
    change: dict[str, Any] = {"state": "dead", "finished": now}
    if jitter is not None and job.attempts < job.max_attempts:
        change = {"state": "scheduled", "run_at": now + backoff(job.attempts, job.backoff, jitter)}
    change |= {"error": clean(error), "expires": None}
    if connection.execute(update(JOBS).where(*held(job)).values(**change)).rowcount != 1:
        raise lost(job)
    state: State = change["state"]
    if state == "dead":
        start_next(connection, [Ended(job.id, job.key, state)], now)
    return state


def cancel(connection: Connection, job_id: int, reason: str, now: float) -> None:
    """Cancel a job that has not ended, and all that waits for it. Raises as `JobStore.cancel`."""
    job = _locked(connection, job_id)
    change = {"state": "cancelled", "finished": now, "expires": None, "error": clean(reason)}
    still = (JOBS.c.id == job_id) & JOBS.c.state.not_in(ENDED)
    if connection.execute(update(JOBS).where(still).values(**change)).rowcount != 1:
        raise Conflict(f"job {job_id} is {job.state} already")
    start_next(connection, [Ended(job_id, job.key, "cancelled")], now)


def retry(connection: Connection, job_id: int, now: float) -> None:
    """Start an ended job anew, and what was cancelled because of it. Raises as `JobStore.retry`."""
    job = _locked(connection, job_id)
    if job.state not in ("dead", "cancelled"):
        raise Conflict(f"job {job_id} is {job.state}; only dead and cancelled jobs can be tried again")
    lost_parents = (
        select(JOBS.c.id, JOBS.c.state)
        .join(LINKS, LINKS.c.parent == JOBS.c.id)
        .where(LINKS.c.child == job_id, JOBS.c.state.in_(("dead", "cancelled")))
    )
    for parent in connection.execute(lost_parents):
        raise Conflict(f"job {job_id} waits for job {parent.id}, which is {parent.state}: retry that one")
    change = {"state": "waiting", "finished": None, "attempts": 0, "run_at": now, "cancelled_by": None}
    connection.execute(update(JOBS).where(JOBS.c.id == job_id).values(**change))
    keys = revive(connection, job_id)
    start_next(connection, [], now, keys={*keys, job.key}, alone=[job_id])


def _locked(connection: Connection, job_id: int) -> Job:
    row = find(connection, job_id)
    hold_keys(connection, [row.key or ""])
    return decode(find(connection, job_id, lock=True))


def find(connection: Connection, job_id: int, *, lock: bool = False) -> "Row[Any]":
    """The row of a job. Raises `NotFound`."""
    query = select(JOBS).where(JOBS.c.id == job_id)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return row


def purge(connection: Connection, before: float, states: Sequence[State]) -> int:
    """Forget up to `PURGED_AT_ONCE` jobs that ended before this; returns how many."""
    child = JOBS.alias("child")
    needed = (
        select(LINKS.c.child)
        .join(child, child.c.id == LINKS.c.child)
        .where(LINKS.c.parent == JOBS.c.id, child.c.finished.is_(None))
    )
    old = (
        select(JOBS.c.id)
        .where(JOBS.c.state.in_(states), JOBS.c.finished.is_not(None), JOBS.c.finished < before, ~needed.exists())
        .limit(PURGED_AT_ONCE)
    )
    ids = [id for (id,) in connection.execute(old.with_for_update(skip_locked=True))]
    if ids:
        connection.execute(delete(LINKS).where(LINKS.c.parent.in_(ids) | LINKS.c.child.in_(ids)))
        connection.execute(delete(JOBS).where(JOBS.c.id.in_(ids)))
    return len(ids)

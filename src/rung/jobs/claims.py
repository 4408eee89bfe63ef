"""Who gets which job: leases given, renewed, and taken back from workers that are gone.

Every function runs in the caller's transaction.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select, text, update

from rung.domain.jobs import LONGEST_BACKOFF, Job, Line, share
from rung.jobs.chains import Ended, hold_keys, start_next
from rung.jobs.tables import CLOCK, JOBS, decode, encode, in_state, on_ids, on_leases

__all__ = ["Claim", "lines_of", "promotable", "promote", "renew", "sweep", "sweep_due", "take"]

_GAP = 10.0
"""Seconds without a look at the leases after which their times are not trusted: the clock was set, or all slept."""
_SLIP = 1.0
"""Seconds by which clocks are corrected all the time."""
_FRESH = 3.0
"""Seconds between two looks that are written down."""


class Claim(msgspec.Struct, frozen=True):
    """What a worker asks for."""

    worker: str
    kinds: Mapping[str, int]
    """Kinds it can do -> most jobs of the kind at once over all workers, 0 for any number."""
    batch: int
    seconds: float
    """Length of the leases."""


_LINES = text("""
WITH RECURSIVE lines(kind, rank, owner, id) AS (
  SELECT * FROM (SELECT kind, rank, owner, id FROM rung_jobs
                 WHERE state = 'ready' ORDER BY kind, rank, owner, id LIMIT 1) AS beginning
  UNION ALL
  SELECT following.kind, following.rank, following.owner, following.id
  FROM lines JOIN rung_jobs AS following ON following.id = (
    SELECT id FROM rung_jobs
    WHERE state = 'ready' AND (kind, rank, owner) > (lines.kind, lines.rank, lines.owner)
    ORDER BY kind, rank, owner, id LIMIT 1))
SELECT kind, rank, owner, id FROM lines ORDER BY id
""")
"""Each line once, with its first job, by jumping through the index: the length of the lines does not matter."""


def lines_of(connection: Connection, kinds: Iterable[str]) -> list[Line]:
    """The lines of these kinds in which somebody stands, who has stood longest first."""
    wanted = set(kinds)
    return [Line(row.kind, -row.rank, row.owner) for row in connection.execute(_LINES) if row.kind in wanted]


def take(connection: Connection, claim: Claim, now: float, served: dict[str, int]) -> list[Job]:
    """Lease up to `batch` ready jobs: by priority, then fairly between owners, then in order of submission.

    `served` is the caller's memory between calls: with short jobs nobody has one running when the next is claimed,
    and then it is the turn of the owner who had none for longest.
    """
    lines = lines_of(connection, claim.kinds)
    if not lines:
        return []
    lines.sort(key=lambda line: served.get(line.owner, 0))
    room = _room(connection, claim.kinds, {line.kind for line in lines})
    running: dict[str, int] = {}
    if len({line.owner for line in lines}) > 1:
        query = select(JOBS.c.owner, func.count()).where(in_state("leased")).group_by(JOBS.c.owner)
        running = dict(connection.execute(query).all())
    last: dict[Line, int] = {}
    ids: list[int] = []
    while lines and len(ids) < claim.batch:
        given = share(lines, running, room, claim.batch - len(ids))
        if not given:
            break
        short: set[Line] = set()
        for line, count in given.items():
            found = _front(connection, line, last.get(line, 0), count)
            if len(found) < count:
                short.add(line)
            if found:
                last[line] = found[-1]
                served[line.owner] = served[""] = served.get("", 0) + 1
            ids += found
            running[line.owner] = running.get(line.owner, 0) + len(found)
            if line.kind in room:
                room[line.kind] -= len(found)
        lines = [line for line in lines if line not in short]
    return _lease(connection, ids, claim, now) if ids else []


def _room(connection: Connection, kinds: Mapping[str, int], wanted: set[str]) -> dict[str, int]:
    limited = {kind: limit for kind, limit in kinds.items() if limit and kind in wanted}
    if not limited:
        return {}
    # Two workers that count at the same time would both find room for the last one.
    hold_keys(connection, [f"\1kind {kind}" for kind in limited])
    query = (
        select(JOBS.c.kind, func.count())
        .where(in_state("leased"), JOBS.c.kind.in_(list(limited)))
        .group_by(JOBS.c.kind)
    )
    busy: dict[str, int] = dict(connection.execute(query).all())
    return {kind: limit - busy.get(kind, 0) for kind, limit in limited.items()}


_FRONT = (
    "SELECT id FROM rung_jobs WHERE state = 'ready' AND kind = :kind AND rank = :rank AND owner = :owner"
    " AND id > :last ORDER BY id LIMIT :count"
)
_FRONTS = {"sqlite": text(_FRONT), "postgresql": text(f"{_FRONT} FOR UPDATE SKIP LOCKED")}


def _front(connection: Connection, line: Line, last: int, count: int) -> list[int]:
    """The next ids of a line after `last`; in PostgreSQL those that nobody else is taking."""
    parameters = {"kind": line.kind, "rank": -line.priority, "owner": line.owner, "last": last, "count": count}
    return [id for (id,) in connection.execute(_FRONTS[connection.dialect.name], parameters)]


_LEASE = on_ids("""
UPDATE rung_jobs SET
  state = 'leased', token = token + 1, attempts = attempts + 1, worker = :worker, lease_seconds = :seconds,
  expires = CAST(:now AS float8) + :seconds, started = :now, progress = 0.0, note = NULL
WHERE id {ids}
RETURNING
  id, kind, state, arguments, rank, key, owner, idempotency_key, after, pending, cancelled_by, run_at, attempts,
  max_attempts, backoff, timeout, token, worker, lease_seconds, expires, progress, note, result, error,
  created, started, finished
""")


def _lease(connection: Connection, ids: list[int], claim: Claim, now: float) -> list[Job]:
    parameters = {"ids": encode(ids), "worker": claim.worker, "seconds": claim.seconds, "now": now}
    jobs = {row[0]: decode(row) for row in connection.execute(_LEASE[connection.dialect.name], parameters)}
    return [jobs[id] for id in ids]


def promote(connection: Connection, now: float) -> None:
    """Make ready what was scheduled for a time that has come."""
    due = select(JOBS.c.id).where(in_state("scheduled"), JOBS.c.run_at <= now)
    ids = [id for (id,) in connection.execute(due.with_for_update(skip_locked=True))]
    if ids:
        connection.execute(update(JOBS).where(JOBS.c.id.in_(ids)).values(state="ready"))


def promotable(connection: Connection, now: float) -> bool:
    """Whether `promote` would find something."""
    due = select(JOBS.c.id).where(in_state("scheduled"), JOBS.c.run_at <= now).limit(1)
    return connection.execute(due).first() is not None


_RENEW = on_leases("""
UPDATE rung_jobs SET lease_seconds = :seconds, expires = CAST(:now AS float8) + :seconds
FROM {held}
WHERE rung_jobs.id = held.id AND rung_jobs.token = held.token AND rung_jobs.state = 'leased'
RETURNING rung_jobs.id
""")


def renew(connection: Connection, jobs: Iterable[Job], seconds: float, now: float) -> set[int]:
    """Let these leases run until `seconds` from now; returns the ids of those that are still held."""
    held = [{"id": job.id, "token": job.token} for job in jobs]
    if not held:
        return set()
    parameters = {"held": encode(held), "seconds": seconds, "now": now}
    return {id for (id,) in connection.execute(_RENEW[connection.dialect.name], parameters)}


def sweep_due(connection: Connection, now: float) -> bool:
    """Whether there are leases, and nobody has looked at them lately."""
    if connection.execute(select(JOBS.c.id).where(in_state("leased")).limit(1)).first() is None:
        return False
    seen = connection.execute(select(CLOCK.c.seen)).scalar_one()
    expired = select(JOBS.c.id).where(in_state("leased"), JOBS.c.expires < now).limit(1)
    return not 0 <= now - seen < _FRESH or connection.execute(expired).first() is not None


def sweep(connection: Connection, now: float) -> None:
    """Take back leases that ran out.

    A database has no clock that nobody can set, so the time of the last look is kept. When it lies in the future, or
    further back than workers that poll would let it, all leases begin anew: whoever is alive renews, the others
    run out one length later.
    """
    locked = select(CLOCK.c.seen).where(CLOCK.c.id == 1).with_for_update(skip_locked=True)
    seen = connection.execute(locked).scalar()
    if seen is None:
        return  # another worker is at it
    connection.execute(update(CLOCK).values(seen=now))
    if not -_SLIP <= now - seen <= _GAP:
        _begin_anew(connection, seen, now)
        return
    expired = select(JOBS).where(in_state("leased"), JOBS.c.expires < now)
    ended = []
    for row in connection.execute(expired.with_for_update(skip_locked=True)).all():
        reason = f"worker {row.worker} did not renew its lease for {row.lease_seconds:g} seconds"
        change: dict[str, Any] = {"state": "ready", "expires": None, "error": reason}
        if row.attempts >= row.max_attempts:
            change |= {"state": "dead", "finished": now, "error": f"{reason}, at try {row.attempts}"}
            ended.append(Ended(row.id, row.key or "", "dead"))
        connection.execute(update(JOBS).where(JOBS.c.id == row.id).values(**change))
    if ended:
        start_next(connection, ended, now)


def _begin_anew(connection: Connection, seen: float, now: float) -> None:
    connection.execute(update(JOBS).where(in_state("leased")).values(expires=now + JOBS.c.lease_seconds))
    if now < seen:
        # What failed under the old clock would otherwise wait for as long as that was ahead.
        late = in_state("scheduled") & (JOBS.c.attempts > 0) & (JOBS.c.run_at > now + LONGEST_BACKOFF)
        connection.execute(update(JOBS).where(late).values(run_at=now + JOBS.c.backoff))

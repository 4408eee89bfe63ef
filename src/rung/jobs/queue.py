"""The job table: submit, claim, finish. One class over SQLite and PostgreSQL.

An accepted job is not lost, and however often it is tried, it ends once: its result, its effect and the end of its
lease are one transaction, and only the holder of the last lease (the fencing token) may write it.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select, text, update

from rung.domain.jobs import ENDED, STATES, Job, NewJob, State
from rung.jobs import claims, endings
from rung.jobs.endings import Completion, Effect
from rung.jobs.submission import add
from rung.jobs.tables import JOBS, LINKS, decode, in_state
from rung.store.database import Database

__all__ = ["JobStore"]

_LOOK_SECONDS = 1.0


class JobStore:
    """The job table of one database; its methods may be called from any thread.

    Guarantees:
        1. When `submit` has returned, the job is on disk.
        2. At most one lease of a job is valid; an acknowledgement under an older one is refused.
        3. Jobs of one key run one at a time, in the order of submission.
        4. A lease neither runs out early nor stays for ever because a clock was set.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] | None = None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.database = database
        # SQLite's processes share a machine and its clock; those of a PostgreSQL server share only the server's.
        self._clock = time.time if clock is None and database.dialect == "sqlite" else clock
        self.look_seconds = _LOOK_SECONDS
        """Time between two looks at the leases of others."""
        self._jitter = jitter
        self._looked = float("-inf")
        self._served: dict[str, int] = {}

    def submit(self, job: NewJob) -> int:
        """Accept a job and return its id, that of an earlier one with the same kind, owner and idempotency key.

        Raises:
            InvalidInput: naming the field.
            NotFound: `after` names a job that is not there.
            StorageFull: it was not accepted.
        """
        return self.submit_many([job])[0]

    def submit_many(self, jobs: Sequence[NewJob]) -> list[int]:
        """Accept all of these jobs or none. Raises as `submit` does."""
        return self.database.write(lambda connection: add(connection, jobs, self.now(connection)))

    def claim(self, worker: str, kinds: Mapping[str, int], *, batch: int = 1, seconds: float = 30.0) -> list[Job]:
        """Lease up to `batch` jobs for so many seconds.

        Also takes back leases of workers that are gone, at most once a second.

        Args:
            worker: who asks; written into the rows.
            kinds: kinds that the worker can do -> most jobs of a kind at once over all workers, 0 for any number.
            batch: most jobs to give.
            seconds: after which the job goes to somebody else, unless `heartbeat` renews the lease.
        """
        look = time.monotonic() - self._looked >= self.look_seconds
        wanted = claims.Claim(worker, kinds, batch, seconds)

        def anything(connection: Connection) -> bool:
            now = self.now(connection)
            return (
                bool(claims.lines_of(connection, kinds))
                or claims.promotable(connection, now)
                or (look and claims.sweep_due(connection, now))
            )

        def take(connection: Connection) -> list[Job]:
            now = self.now(connection)
            if look and claims.sweep_due(connection, now):
                claims.sweep(connection, now)
            claims.promote(connection, now)
            return claims.take(connection, wanted, now, self._served)

        # SQLite has one writer at a time: workers that would find nothing must not keep others from writing.
        worthwhile = self.database.dialect != "sqlite" or self.database.read(anything)
        jobs = self.database.write(take) if worthwhile else []
        if look:
            self._looked = time.monotonic()
        return jobs

    def heartbeat(self, jobs: Iterable[Job], *, seconds: float = 30.0) -> set[int]:
        """Renew leases; returns the ids of those that are still held. The others were cancelled or given away."""
        taken = list(jobs)
        return self.database.write(
            lambda connection: claims.renew(connection, taken, seconds, self.now(connection)) if taken else set()
        )

    def report(self, job: Job, progress: float, note: str = "") -> bool:
        """Say how far a leased job is, from 0 to 1; returns whether the lease is still held."""
        change = (
            update(JOBS)
            .where(*endings.held(job))
            .values(progress=min(max(progress, 0.0), 1.0), note=endings.clean(note))
        )
        return self.database.write(lambda connection: connection.execute(change).rowcount == 1)

    def complete(self, job: Job, result: Any = None, effect: Effect | None = None) -> None:
        """Write result, effect and the end of the job in one transaction.

        Raises:
            Conflict: the lease is not held any more; nothing was written.
            InvalidInput: the result is not plain JSON values.
        """
        [problem] = self.complete_many([Completion(job, result, effect)])
        if problem is not None:
            raise problem

    def complete_many(self, completions: Sequence[Completion]) -> list[Exception | None]:
        """End many jobs in one transaction; returns for each None, or why it was not ended.

        An effect that raises undoes only what it wrote itself; its job stays leased.
        """
        return self.database.write(lambda connection: endings.complete(connection, completions, self.now(connection)))

    def fail(self, job: Job, error: str, *, again: bool = True) -> State:
        """Give up a try: to be tried again later (`scheduled`), or for good (`dead`) after the last or without `again`.

        Raises:
            Conflict: the lease is not held any more.
        """
        jitter = self._jitter() if again else None
        return self.database.write(
            lambda connection: endings.fail(connection, job, error, self.now(connection), jitter)
        )

    def release(self, jobs: Iterable[Job]) -> None:
        """Hand leased jobs back undone; the try does not count. Leases that are not held any more are passed over."""
        taken = list(jobs)

        def work(connection: Connection) -> None:
            for job in taken:
                undone = {"state": "ready", "expires": None, "attempts": JOBS.c.attempts - 1}
                connection.execute(update(JOBS).where(*endings.held(job)).values(**undone))

        if taken:
            self.database.write(work)

    def cancel(self, job_id: int, reason: str = "cancelled by hand") -> Job:
        """Cancel a job, and all that waits for it.

        The worker of one that runs is told at its next heartbeat, and cannot end it any more.

        Raises:
            NotFound: there is no such job.
            Conflict: it has ended.
        """

        def work(connection: Connection) -> Job:
            endings.cancel(connection, job_id, reason, self.now(connection))
            return decode(endings.find(connection, job_id))

        return self.database.write(work)

    def retry(self, job_id: int) -> Job:
        """Start a dead or cancelled job anew with all its tries, and what was cancelled because of it.

        Raises:
            NotFound: there is no such job.
            Conflict: it is neither dead nor cancelled, or waits for one that is.
        """

        def work(connection: Connection) -> Job:
            endings.retry(connection, job_id, self.now(connection))
            return decode(endings.find(connection, job_id))

        return self.database.write(work)

    def get(self, job_id: int) -> Job:
        """One job as it is now; a waiting one says in `error` what it waits for. Raises `NotFound`."""

        def work(connection: Connection) -> Job:
            job = decode(endings.find(connection, job_id))
            return job if job.state != "waiting" else msgspec.structs.replace(job, error=_waits_for(connection, job))

        return self.database.read(work)

    def find(
        self, *, state: State | None = None, kind: str = "", owner: str = "", before: int = 0, limit: int = 100
    ) -> list[Job]:
        """Jobs, newest first: of one state, kind or owner, and with ids below `before`, where these are given."""
        query = select(JOBS).order_by(JOBS.c.id.desc()).limit(limit)
        for column, value in ((JOBS.c.state, state), (JOBS.c.kind, kind), (JOBS.c.owner, owner)):
            if value:
                query = query.where(column == value)
        if before:
            query = query.where(JOBS.c.id < before)
        return self.database.read(lambda connection: [decode(row) for row in connection.execute(query)])

    def counts(self) -> dict[str, dict[State, int]]:
        """Kind -> state -> number of jobs; states without jobs are left out."""
        return self.database.read(_counts)

    def purge(self, older_than: float, states: Sequence[State] = ("done", "cancelled")) -> int:
        """Forget jobs that ended more than so many seconds ago; returns how many.

        A job that another still waits for stays. The idempotency key of a forgotten job is free again.
        """
        total = 0
        while True:
            gone = self.database.write(
                lambda connection: endings.purge(connection, self.now(connection) - older_than, states)
            )
            total += gone
            if gone < endings.PURGED_AT_ONCE:
                return total

    def now(self, connection: Connection) -> float:
        """Seconds since the epoch, by the clock that all users of this database share."""
        if self._clock is not None:
            return self._clock()
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def _waits_for(connection: Connection, job: Job) -> str:
    parents = (
        select(JOBS.c.id)
        .join(LINKS, LINKS.c.parent == JOBS.c.id)
        .where(LINKS.c.child == job.id, JOBS.c.state != "done")
        .order_by(JOBS.c.id)
    )
    ids = [str(id) for (id,) in connection.execute(parents)]
    if ids:
        return f"it waits for job{'s' if len(ids) > 1 else ''} {', '.join(ids)}"
    return f"it waits for the job before it with the key {job.key!r}"


def _counts(connection: Connection) -> dict[str, dict[State, int]]:
    found: dict[str, dict[State, int]] = {}
    for state in STATES:
        query = select(JOBS.c.kind, func.count()).where(in_state(state)).group_by(JOBS.c.kind)
        if state in ENDED:
            query = query.where(JOBS.c.finished.is_not(None))  # so that SQLite takes the index
        for kind, count in connection.execute(query):
            found.setdefault(kind, {})[state] = count
    return dict(sorted(found.items()))

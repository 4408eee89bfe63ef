"""Messages as rows of the job table: accepted and settled in one transaction with what is written beside."""

import os
import socket
from base64 import b64decode
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, update

from rung.domain.errors import Conflict
from rung.domain.jobs import Job, NewJob
from rung.domain.messages import Beside, Lease, Means, Message, Outcome
from rung.jobs import endings
from rung.jobs.brokers.wire import check, check_name
from rung.jobs.chains import hold_keys
from rung.jobs.queue import JobStore
from rung.jobs.submission import add
from rung.jobs.tables import JOBS
from rung.store.database import Database

if TYPE_CHECKING:
    from rung.jobs.brokers import QueuePlace

__all__ = ["KIND", "SqlQueue", "open_sql"]

KIND = "messages:"
"""Kind of the jobs that are messages, before the name of their queue."""
_FOREVER = 1_000_000_000
"""Tries of such a job: whoever takes a message says when it is dead."""
_LARGEST = 2 << 20  # the table takes 4 MiB of JSON, and bytes that are no text grow by a third there
_WORDS = {
    "sqlite": "the message is in the database file, and the disk has confirmed it (synchronous=FULL)",
    "postgresql": "PostgreSQL has confirmed the commit: on its disk, and on its replicas where it has synchronous ones",
}
_numbers = count(1)


class SqlQueue:
    """`ports.Queue` over the job table."""

    def __init__(self, store: JobStore, name: str, lease_seconds: float) -> None:
        self._store = store
        self._database = store.database
        self._kind = KIND + check_name(name)
        self._seconds = lease_seconds
        self._worker = f"{socket.gethostname()}-{os.getpid()}-{next(_numbers)}"
        self.means = Means(
            ack="flushed",
            words=_WORDS[store.database.dialect],
            promises=frozenset({"all or none", "fair", "free return", "strict priority"}),
            largest=_LARGEST,
        )

    def put(self, messages: Sequence[Message], beside: Callable[[Any], None] | None = None) -> None:
        """Accept all of these messages, with what is written beside, or none."""
        check(messages, self.means.largest)
        jobs = [self._job(message) for message in messages]

        def work(connection: Connection) -> None:
            add(connection, jobs, self._store.now(connection))
            if beside is not None:
                beside(connection)

        if jobs or beside is not None:
            self._database.write(work)

    def take(self, count: int) -> list[Lease]:
        """Up to so many messages: by priority, then fairly between owners, then in order."""
        jobs = self._store.claim(self._worker, {self._kind: 0}, batch=count, seconds=self._seconds)
        return [Lease(_message(job), job.attempts, job) for job in jobs]

    def renew(self, leases: Sequence[Lease]) -> set[str]:
        """Let these leases begin anew; returns the ids of those that are held."""
        held = self._store.heartbeat([lease.handle for lease in leases], seconds=self._seconds)
        return {lease.message.id for lease in leases if lease.handle.id in held}

    def settle(self, outcomes: Sequence[Outcome], beside: Beside | None = None) -> set[str]:
        """End leases and write their results in one transaction; leases that were lost are passed over."""

        def work(connection: Connection) -> list[Outcome]:
            held = self._end(connection, outcomes)
            if beside is not None and held:
                beside(connection, held)
            return held

        return {outcome.lease.message.id for outcome in self._database.write(work)} if outcomes else set()

    def close(self) -> None:
        """Nothing to give back: the database belongs to whoever opened it."""

    def _end(self, connection: Connection, outcomes: Sequence[Outcome]) -> list[Outcome]:
        now = self._store.now(connection)
        hold_keys(connection, [outcome.lease.message.key for outcome in outcomes])
        done = [outcome for outcome in outcomes if outcome.ending == "done"]
        # A result is written elsewhere: a row that says "done" would only have to be purged.
        gone = endings.remove(connection, [outcome.lease.handle for outcome in done], now) if done else set()
        held = [outcome for outcome in done if outcome.lease.handle.id in gone]
        undone = (outcome for outcome in outcomes if outcome.ending != "done")
        return held + [outcome for outcome in undone if _give_up(connection, outcome, now)]

    def _job(self, message: Message) -> NewJob:
        arguments: dict[str, Any] = {"topic": message.topic, "tries": message.max_attempts}
        try:
            arguments["text"] = message.body.decode()
        except UnicodeDecodeError:
            arguments["bytes"] = message.body
        if message.deadline:
            arguments["deadline"] = message.deadline
        if message.replay:
            arguments["replay"] = message.replay
        return NewJob(
            kind=self._kind,
            arguments=arguments,
            priority=message.priority,
            key=message.key,
            owner=message.owner,
            idempotency_key=message.id + _suffix(message.replay),
            max_attempts=_FOREVER,
        )


def _suffix(replay: int) -> str:
    return f" {replay}" if replay else ""


def _message(job: Job) -> Message:
    said = job.arguments
    replay = said.get("replay", 0)
    return Message(
        id=job.idempotency_key.removesuffix(_suffix(replay)),
        topic=said["topic"],
        body=said["text"].encode() if "text" in said else b64decode(said["bytes"]),
        priority=job.priority,
        key=job.key,
        owner=job.owner,
        deadline=said.get("deadline", 0.0),
        max_attempts=said["tries"],
        replay=replay,
    )


def _give_up(connection: Connection, outcome: Outcome, now: float) -> bool:
    """End a try that was not done; returns whether its lease was held."""
    job: Job = outcome.lease.handle
    if outcome.ending == "dead":
        try:
            endings.fail(connection, job, outcome.reason, now, None)
        except Conflict:
            return False
        return True
    change: dict[str, Any] = {"state": "scheduled" if outcome.delay else "ready", "expires": None}
    change["run_at"] = now + outcome.delay
    if outcome.ending == "again":
        change["error"] = endings.clean(outcome.reason)
    else:
        change["attempts"] = JOBS.c.attempts - 1
    return connection.execute(update(JOBS).where(*endings.held(job)).values(**change)).rowcount == 1


def open_sql(place: "QueuePlace", database: Database) -> SqlQueue:
    """`sql`: the job table of the results' database."""
    return SqlQueue(JobStore(database), place.name, place.lease_seconds)

"""Jobs by the clock: cron expressions in a time zone, each tick submitted once however many control planes there are.

A tick that a change of clocks skips runs right after the gap; one that it repeats runs the first time, unless the
expression asks for every hour or minute.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, select, text

from rung.domain.errors import ConfigurationError, MissingDependency
from rung.domain.jobs import Job, NewJob
from rung.jobs.queue import JobStore
from rung.jobs.submission import add
from rung.jobs.tables import SCHEDULES

__all__ = ["Schedule", "Tick", "check", "moment_of", "plan", "tick"]

_LATE = 60.0
"""Seconds after which a tick counts as missed."""
_SLIP = 1.0
"""Seconds by which clocks are corrected all the time."""
_NARROW = 600.0
_STAMP = "%Y-%m-%dT%H:%M:%SZ"


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """When to submit which job."""

    name: str
    """Unique among the schedules of a project."""
    cron: str
    """Five fields (minute, hour, day of month, month, day of week), or six beginning with seconds."""
    zone: str = "UTC"
    """Such as `Europe/Vienna`."""
    job: NewJob
    """What to submit. Its idempotency key is filled in."""
    catch_up: bool = True
    """When ticks were missed, because no control plane ran: submit the last of them, or none."""


class Tick(msgspec.Struct, frozen=True):
    """A moment at which a schedule submits its job."""

    schedule: Schedule
    at: float
    """Seconds since the epoch: of the tick, not of now."""
    skipped: bool = False
    """Missed, and the schedule does not catch up: it only moves on."""

    @property
    def idempotency_key(self) -> str:
        """The same for everyone who plans this tick."""
        stamp = datetime.fromtimestamp(self.at, UTC).strftime(_STAMP)
        return f"{self.schedule.job.kind}:{self.schedule.name}:{stamp}"


def moment_of(job: Job) -> float:
    """The tick that a job was submitted for, in seconds since the epoch; without a schedule, when it was submitted.

    However late it is done, and however often it is tried, it is the same.
    """
    stamp = job.idempotency_key[-20:]
    try:
        return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC).timestamp()
    except ValueError:
        return job.created


def check(schedule: Schedule) -> Schedule:
    """Return the schedule if its expression and its zone mean something.

    Raises:
        ConfigurationError: naming the schedule and the field.
        MissingDependency: cronsim is not installed.
    """
    if next(_ticks(schedule, 0.0), None) is None:
        raise ConfigurationError(f"schedule {schedule.name!r}: cron {schedule.cron!r} never comes")
    return schedule


def plan(schedules: Sequence[Schedule], last: Mapping[str, float], now: float) -> list[Tick]:
    """The ticks that are due: at most one of each schedule, the latest. Pure.

    Args:
        schedules: all there are.
        last: name -> time of its last tick, or of when it was first seen; one without is not due.
        now: seconds since the epoch.

    Raises:
        ConfigurationError: as `check`.
    """
    due = []
    for schedule in schedules:
        latest = _latest(schedule, last.get(schedule.name, now), now)
        if latest is not None:
            due.append(Tick(schedule, latest, skipped=not schedule.catch_up and now - latest > _LATE))
    return due


def _latest(schedule: Schedule, after: float, now: float) -> float | None:
    """The last tick in (after, now]; None if there is none."""
    width = _NARROW
    while True:
        # A second's schedule that slept for a year has 30 million ticks; only the last one is wanted.
        start = max(after, now - width)
        latest = None
        for at in _ticks(schedule, start):
            if at > now:
                break
            latest = at
        if latest is not None or start == after:
            return latest
        width *= 8


def _ticks(schedule: Schedule, after: float) -> Iterator[float]:
    """The ticks after a moment, in order, until none comes for 50 years."""
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise MissingDependency("schedules need cronsim: pip install 'rung[platform]'") from None
    try:
        zone = ZoneInfo(schedule.zone)
    except (KeyError, ValueError, OSError):
        raise ConfigurationError(f"schedule {schedule.name!r}: there is no time zone {schedule.zone!r}") from None
    try:
        for tick in CronSim(schedule.cron, datetime.fromtimestamp(after, zone)):
            at = float(tick.timestamp())
            # In the hour that comes twice cronsim begins with the first one again.
            if at > after:
                yield at
                after = at
    except CronSimError as error:
        raise ConfigurationError(f"schedule {schedule.name!r}: cron {schedule.cron!r} is wrong: {error}") from None


def tick(store: JobStore, schedules: Sequence[Schedule]) -> list[int]:
    """Submit what is due, and return the ids. For the control plane to call every second.

    Any number of control planes may do so: a tick is submitted in the transaction that moves its schedule on, and
    under the idempotency key of that tick, which holds even where a clock was set back.
    """

    def look(connection: Connection) -> bool:
        now, last = store.now(connection), _last(connection)
        strange = any(schedule.name not in last or last[schedule.name] > now + _SLIP for schedule in schedules)
        return strange or bool(plan(schedules, last, now))

    def submit(connection: Connection) -> list[int]:
        now, last = store.now(connection), _last(connection)
        for schedule in schedules:
            if schedule.name not in last:
                connection.execute(_FIRST_SEEN, {"name": schedule.name, "now": now})
            elif last[schedule.name] > now + _SLIP:
                connection.execute(_SET_BACK, {"name": schedule.name, "now": now})
        ids = []
        for one in plan(schedules, _last(connection), now):
            moved = connection.execute(_MOVE_ON, {"name": one.schedule.name, "at": one.at}).rowcount
            if moved and not one.skipped:
                job = msgspec.structs.replace(one.schedule.job, idempotency_key=one.idempotency_key)
                ids += add(connection, [job], now)
        return ids

    return store.database.write(submit) if store.database.read(look) else []


_FIRST_SEEN = text("INSERT INTO rung_schedules (name, tick) VALUES (:name, :now) ON CONFLICT DO NOTHING")
_SET_BACK = text("UPDATE rung_schedules SET tick = :now WHERE name = :name AND tick > :now")
_MOVE_ON = text("UPDATE rung_schedules SET tick = :at WHERE name = :name AND tick < :at")


def _last(connection: Connection) -> dict[str, float]:
    return dict(connection.execute(select(SCHEDULES.c.name, SCHEDULES.c.tick)).all())

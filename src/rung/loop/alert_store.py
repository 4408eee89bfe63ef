"""Alerts, silences and grouped errors in the project's database.

What changes and the jobs that tell of it are one transaction: a control plane that is killed has done both or
neither, and of two that look at the same moment one finds everything done.
"""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import msgspec
from sqlalchemy import BigInteger, Column, Connection, Double, MetaData, Table, Text, delete, func, select, text

from rung.domain.alerts import Alert, AlertRule, Happening, Notice, Observation, Silence
from rung.domain.errors import NotFound
from rung.domain.jobs import NewJob
from rung.jobs.chains import hold_keys
from rung.jobs.queue import JobStore
from rung.jobs.submission import add
from rung.loop import alerts

__all__ = ["KIND", "AlertStore", "GroupedError", "jobs_of"]

KIND = "alerts.notify"
"""Kind of the jobs that tell somebody."""
_TRIES = 12
"""With a pause that doubles from 5 seconds to ten minutes: about an hour."""
_PAUSE = 5.0
_REMEMBERED = 7 * 86_400.0

_METADATA = MetaData()
_ALERTS = Table(
    "rung_alerts",
    _METADATA,
    Column("key", Text, primary_key=True),
    Column("id", Text),
    Column("status", Text),
    Column("changed", Double),
    Column("body", Text),  # JSON
)
_SILENCES = Table(
    "rung_silences", _METADATA, Column("id", Text, primary_key=True), Column("until", Double), Column("body", Text)
)
_ERRORS = Table(
    "rung_errors",
    _METADATA,
    Column("fingerprint", Text),
    Column("source", Text),
    Column("version", Text),
    Column("kind", Text),
    Column("place", Text),
    Column("message", Text),
    Column("count", BigInteger),
    Column("first", Double),
    Column("last", Double),
)
_PUT = text(
    "INSERT INTO rung_alerts (key, id, status, changed, body) VALUES (:key, :id, :status, :changed, :body)"
    " ON CONFLICT (key) DO UPDATE SET status = :status, changed = :changed, body = :body"
)
# A process counts from its start: the larger number is the later one, however often and by whomever it is written.
_COUNT = text(
    "INSERT INTO rung_errors (fingerprint, source, version, kind, place, message, count, first, last)"
    " VALUES (:fingerprint, :source, :version, :kind, :place, :message, :count, :first, :last)"
    " ON CONFLICT (fingerprint, source, version) DO UPDATE SET count = :count, last = :last"
    " WHERE rung_errors.count < :count"
)


class GroupedError(msgspec.Struct, frozen=True, kw_only=True):
    """Equal exceptions, told once."""

    fingerprint: str
    source: str = ""
    """The process that met them, with its start; empty for the sum over all."""
    version: str = ""
    """Of rung, or of the model."""
    kind: str
    """Class of the exception."""
    place: str
    """`module:function` where it was raised."""
    message: str
    """Of the first one."""
    count: int
    first: float
    last: float


class AlertStore:
    """The alerts of one database; its methods may be called from any thread and any process."""

    def __init__(self, jobs: JobStore) -> None:
        self._jobs = jobs
        self._database = jobs.database

    def turn(
        self,
        rules: Sequence[AlertRule],
        observations: Sequence[Observation],
        channels: Sequence[str],
        *,
        escalate_seconds: float = 0.0,
        group_seconds: float = 0.0,
    ) -> list[Happening]:
        """Plan by what is observed, write what changes, and submit a job for each notice and channel.

        Raises:
            NotReady, StorageFull: nothing was written.
        """

        def planned(connection: Connection) -> alerts.Plan:
            return alerts.plan(
                rules,
                observations,
                _known(connection),
                _silences(connection),
                self._jobs.now(connection),
                escalate_seconds=escalate_seconds,
                group_seconds=group_seconds,
            )

        def change(connection: Connection) -> list[Happening]:
            hold_keys(connection, ["rung alerts"])
            now, todo = self._jobs.now(connection), planned(connection)
            _write(connection, todo.changed, now)
            for key in todo.gone:
                connection.execute(delete(_ALERTS).where(_ALERTS.c.key == key))
            over = (_ALERTS.c.status == "resolved") & (_ALERTS.c.changed < now - _REMEMBERED)
            connection.execute(delete(_ALERTS).where(over))
            connection.execute(delete(_SILENCES).where(_SILENCES.c.until < now - _REMEMBERED))
            notices = alerts.group(todo.happenings)
            add(connection, [job for notice in notices for job in jobs_of(notice, channels, now)], now)
            return list(todo.happenings)

        seen = self._database.read(planned)
        return self._database.write(change) if seen.changed or seen.gone else []

    def list_alerts(self, *, recent: bool = True) -> list[Alert]:
        """Those that fire, the latest first, then those that are over where `recent`."""
        found = self._database.read(lambda connection: list(_known(connection).values()))
        firing = sorted((one for one in found if one.status == "firing"), key=lambda one: -one.fired)
        over = sorted((one for one in found if one.status == "resolved"), key=lambda one: -one.resolved)
        return firing + (over if recent else [])

    def acknowledge(self, id: str, by: str) -> Alert:
        """Say that somebody sees to an alert: it does not escalate.

        Raises:
            NotFound: no alert with this id fires.
        """

        def work(connection: Connection) -> Alert:
            hold_keys(connection, ["rung alerts"])
            for alert in _known(connection).values():
                if alert.id == id and alert.status == "firing":
                    seen = msgspec.structs.replace(alert, acknowledged=by)
                    _write(connection, [seen], self._jobs.now(connection))
                    return seen
            raise NotFound(f"no alert {id!r} fires; `rung alerts list` shows those that do")

        return self._database.write(work)

    def silence(self, rule: str, seconds: float, labels: dict[str, str] | None = None, why: str = "") -> Silence:
        """Tell nothing of the alerts of a rule (`*`: of all) with these labels for so many seconds; 0 ends it."""

        def work(connection: Connection) -> Silence:
            now = self._jobs.now(connection)
            made = Silence(id=uuid4().hex[:8], rule=rule, labels=labels or {}, until=now + seconds, why=why)
            for one in _silences(connection):
                if (one.rule, one.labels) == (made.rule, made.labels):
                    connection.execute(delete(_SILENCES).where(_SILENCES.c.id == one.id))
            if seconds > 0:
                row = {"id": made.id, "until": made.until, "body": msgspec.json.encode(made).decode()}
                connection.execute(_SILENCES.insert(), row)
            return made

        return self._database.write(work)

    def silences(self) -> list[Silence]:
        """Those in force."""

        def work(connection: Connection) -> list[Silence]:
            now = self._jobs.now(connection)
            return [one for one in _silences(connection) if one.until > now]

        return self._database.read(work)

    def count_errors(self, found: Sequence[GroupedError]) -> None:
        """Keep what processes have counted. The same again changes nothing."""
        rows = [msgspec.structs.asdict(one) for one in found]
        if rows:
            self._database.write(lambda connection: connection.execute(_COUNT, rows))

    def errors(self, limit: int = 50) -> list[GroupedError]:
        """Grouped errors, the latest first: one for each fingerprint and version."""
        same = (_ERRORS.c.fingerprint, _ERRORS.c.version)
        query = (
            select(
                *same,
                func.min(_ERRORS.c.kind),
                func.min(_ERRORS.c.place),
                func.min(_ERRORS.c.message),
                func.sum(_ERRORS.c.count),
                func.min(_ERRORS.c.first),
                func.max(_ERRORS.c.last),
            )
            .group_by(*same)
            .order_by(func.max(_ERRORS.c.last).desc())
            .limit(limit)
        )
        rows: list[Any] = self._database.read(lambda connection: list(connection.execute(query)))
        return [
            GroupedError(
                fingerprint=fingerprint,
                version=version,
                kind=kind,
                place=place,
                message=message,
                count=int(count),
                first=first,
                last=last,
            )
            for fingerprint, version, kind, place, message, count, first, last in rows
        ]


def jobs_of(notice: Notice, channels: Sequence[str], now: float) -> list[NewJob]:
    """A job for each channel, so that one that fails keeps back no other."""
    return [
        NewJob(
            kind=KIND,
            arguments={"channel": channel, "at": now, "notice": msgspec.to_builtins(notice)},
            idempotency_key=f"{notice.identity}:{channel}",
            priority=10,
            max_attempts=_TRIES,
            backoff=_PAUSE,
        )
        for channel in channels
    ]


def _known(connection: Connection) -> dict[str, Alert]:
    rows = connection.execute(select(_ALERTS.c.key, _ALERTS.c.body))
    return {key: msgspec.json.decode(body, type=Alert) for key, body in rows}


def _silences(connection: Connection) -> list[Silence]:
    return [msgspec.json.decode(body, type=Silence) for (body,) in connection.execute(select(_SILENCES.c.body))]


def _write(connection: Connection, changed: Sequence[Alert], now: float) -> None:
    for alert in changed:
        body = msgspec.json.encode(alert).decode()
        row = {"key": alert.key, "id": alert.id, "status": alert.status, "changed": now, "body": body}
        connection.execute(_PUT, row)

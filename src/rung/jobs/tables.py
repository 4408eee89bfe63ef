"""The tables of `rung.jobs` as statements name them, and a row as a `Job`.

Their columns and indexes are made by `rung.store.migrations`.
"""

from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Double, Integer, MetaData, Row, Table, Text

from rung.domain.jobs import Job

__all__ = ["CLOCK", "JOBS", "LINKS", "SCHEDULES", "decode", "encode"]

_METADATA = MetaData()

JOBS = Table(
    "rung_jobs",
    _METADATA,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", Text),
    Column("state", Text),
    Column("arguments", Text),  # JSON
    Column("rank", Integer),  # -priority, so that every column of the index of ready jobs ascends
    Column("key", Text),  # NULL without one
    Column("owner", Text),
    Column("idempotency_key", Text),  # NULL without one
    Column("after", Text),  # JSON list of ids, as submitted
    Column("pending", Integer),  # how many of them are not done
    Column("cancelled_by", BigInteger),  # the job whose end cancelled this one
    Column("run_at", Double),
    Column("attempts", Integer),
    Column("max_attempts", Integer),
    Column("backoff", Double),
    Column("timeout", Double),
    Column("token", BigInteger),
    Column("worker", Text),
    Column("lease_seconds", Double),
    Column("expires", Double),
    Column("progress", Double),
    Column("note", Text),
    Column("result", Text),  # JSON
    Column("error", Text),
    Column("created", Double),
    Column("started", Double),
    Column("finished", Double),
)
LINKS = Table("rung_job_links", _METADATA, Column("parent", BigInteger), Column("child", BigInteger))
CLOCK = Table("rung_job_clock", _METADATA, Column("id", Integer), Column("seen", Double))
SCHEDULES = Table("rung_schedules", _METADATA, Column("name", Text), Column("tick", Double))

_json = msgspec.json.Encoder().encode
_plain = msgspec.json.Decoder().decode


def encode(value: Any) -> str:
    """Plain values as JSON text. Raises TypeError for others."""
    return _json(value).decode()


def decode(row: "Row[Any]") -> Job:
    """A row of all columns of `JOBS` as a job."""
    return Job(
        id=row.id,
        kind=row.kind,
        state=row.state,
        arguments=_plain(row.arguments),
        priority=-row.rank,
        key=row.key or "",
        owner=row.owner,
        idempotency_key=row.idempotency_key or "",
        after=tuple(_plain(row.after)) if row.after else (),
        run_at=row.run_at,
        attempts=row.attempts,
        max_attempts=row.max_attempts,
        backoff=row.backoff,
        timeout=row.timeout,
        token=row.token,
        worker=row.worker or "",
        expires=row.expires or 0.0,
        progress=row.progress,
        note=row.note or "",
        result=_plain(row.result) if row.result else None,
        error=row.error or "",
        created=row.created,
        started=row.started or 0.0,
        finished=row.finished or 0.0,
    )

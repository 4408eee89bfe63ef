"""The tables of `rung.jobs` as statements name them, and a row as a `Job`.

Their columns and indexes are made by `rung.store.migrations`.
"""

from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Double,
    Integer,
    MetaData,
    Row,
    Table,
    Text,
    TextClause,
    literal,
    text,
)

from rung.domain.jobs import Job, State

__all__ = ["CLOCK", "JOBS", "LINKS", "SCHEDULES", "decode", "encode", "in_state", "on_ids", "on_leases"]

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


def in_state(state: State) -> ColumnElement[bool]:
    """The condition that a job is in this state, spelled out: an index on one state serves no parameter."""
    return JOBS.c.state == literal(state, Text, literal_execute=True)


def on_ids(statement: str) -> dict[str, TextClause]:
    """A statement for each dialect, its `{ids}` a condition on a list of ids: the parameter `ids`, as JSON.

    One parameter, where SQLAlchemy's `in_` makes one of each id: that would be most of the cost of a batch.
    """
    return {
        "sqlite": text(statement.format(ids="IN (SELECT value FROM json_each(:ids))")),
        "postgresql": text(
            statement.format(ids="= ANY (ARRAY(SELECT CAST(json_array_elements_text(CAST(:ids AS json)) AS bigint)))")
        ),
    }


def on_leases(statement: str) -> dict[str, TextClause]:
    """A statement for each dialect, its `{held}` a table of id, token and result: the parameter `held`, as JSON."""
    return {
        "sqlite": text(
            statement.format(
                held="(SELECT value ->> 'id' AS id, value ->> 'token' AS token, value ->> 'result' AS result"
                " FROM json_each(:held)) AS held"
            )
        ),
        "postgresql": text(
            statement.format(
                held="json_to_recordset(CAST(:held AS json)) AS held(id bigint, token bigint, result text)"
            )
        ),
    }


def encode(value: Any) -> str:
    """Plain values as JSON text. Raises TypeError for others."""
    return _json(value).decode()


def decode(row: "Row[Any]") -> Job:
    """A row of all columns of `JOBS` as a job."""
    # By place: asking a row for its columns by name would be the dearest step of a claim.
    cells: Any = row
    id, kind, state, arguments, rank, key, owner, idempotency_key, after, _, _, run_at, attempts = cells[:13]
    max_attempts, pause, timeout, token, worker, _, expires, progress, note, result, error = cells[13:24]
    created, started, finished = cells[24:]
    return Job(
        id=id,
        kind=kind,
        state=state,
        arguments=_plain(arguments),
        priority=-rank,
        key=key or "",
        owner=owner,
        idempotency_key=idempotency_key or "",
        after=tuple(_plain(after)) if after else (),
        run_at=run_at,
        attempts=attempts,
        max_attempts=max_attempts,
        backoff=pause,
        timeout=timeout,
        token=token,
        worker=worker or "",
        expires=expires or 0.0,
        progress=progress,
        note=note or "",
        result=_plain(result) if result else None,
        error=error or "",
        created=created,
        started=started or 0.0,
        finished=finished or 0.0,
    )

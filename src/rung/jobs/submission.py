"""How a job gets into the table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, insert, text

from rung.domain.errors import InvalidInput, NotFound, TooLarge
from rung.domain.jobs import NewJob, State
from rung.jobs.chains import hold_keys, open_parents, start_next
from rung.jobs.tables import LINKS, encode

__all__ = ["add"]

_LONGEST_NAME = 200
_LARGEST = 4 << 20
_LARGEST_PART = 32 << 20
_FURTHEST_PRIORITY = 1_000_000

_INSERT = """
INSERT INTO rung_jobs (
  id, kind, state, arguments, rank, key, owner, idempotency_key, after, pending, cancelled_by, run_at, attempts,
  max_attempts, backoff, timeout, token, progress, error, created, finished)
"""
_INSERTS = {
    # NULLs are made here: the driver takes 3 us to bind a None, more than all the rest of a row.
    "sqlite": f"""{_INSERT}
VALUES (
  :id, :kind, :state, :arguments, :rank, nullif(:key, ''), :owner, nullif(:idempotency_key, ''), nullif(:after, ''),
  :pending, nullif(:cancelled_by, 0), :run_at, 0, :max_attempts, :backoff, :timeout, 0, 0.0, nullif(:error, ''),
  :created, nullif(:finished, 0.0))
""",
    # All rows in one parameter: several times faster than a statement for each.
    "postgresql": f"""{_INSERT}
SELECT
  id, kind, state, arguments, rank, nullif(key, ''), owner, nullif(idempotency_key, ''), nullif(after, ''), pending,
  nullif(cancelled_by, 0), run_at, 0, max_attempts, backoff, timeout, 0, 0.0, nullif(error, ''), created,
  nullif(finished, 0.0)
FROM json_to_recordset(CAST(%(rows)s AS json)) AS fresh(
  id bigint, kind text, state text, arguments text, rank integer, key text, owner text, idempotency_key text,
  after text, pending integer, cancelled_by bigint, run_at float8, max_attempts integer, backoff float8,
  timeout float8, error text, created float8, finished float8)
""",  # noqa: S608 - a constant
}

_Identity = tuple[str, str, str]


def add(connection: Connection, jobs: Sequence[NewJob], now: float) -> list[int]:
    """Write these jobs and return their ids; those that are there already by their idempotency key get that one's.

    Raises:
        InvalidInput, TooLarge, NotFound: as `JobStore.submit`; nothing was written.
    """
    rows = [_row(job, now) for job in jobs]
    identities = [_identity(job) for job in jobs]
    hold_keys(connection, [job.key for job in jobs] + ["\n".join(identity) for identity in identities if identity])
    known = _known(connection, {identity for identity in identities if identity})
    fresh: list[int] = []
    for place, identity in enumerate(identities):
        if not identity or identity not in known:
            fresh.append(place)
            if identity:
                known[identity] = -1  # the same job again further down this list
    ids = dict(zip(fresh, _numbers(connection, len(fresh)), strict=True))
    parents = open_parents(connection, [parent for place in fresh for parent in jobs[place].after])
    for place, id in ids.items():
        rows[place]["id"] = id
        _wait(rows[place], jobs[place].after, parents, now)
        if identity := identities[place]:
            known[identity] = id
    for part in _parts([rows[place] for place in fresh]):
        sqlite = connection.dialect.name == "sqlite"
        connection.exec_driver_sql(_INSERTS[connection.dialect.name], part if sqlite else {"rows": encode(part)})
    links = [{"parent": parent, "child": ids[place]} for place in fresh for parent in set(jobs[place].after)]
    if links:
        connection.execute(insert(LINKS), links)
    start_next(connection, [], now, keys=[jobs[place].key for place in fresh])
    return [known[identity] if identity else ids[place] for place, identity in enumerate(identities)]


def _row(job: NewJob, now: float) -> dict[str, Any]:
    for field in ("kind", "key", "owner", "idempotency_key"):
        _check_name(field, getattr(job, field))
    if not job.kind:
        raise InvalidInput("a job needs a kind", field="kind")
    if abs(job.priority) > _FURTHEST_PRIORITY:
        raise InvalidInput(f"priority {job.priority} is beyond {_FURTHEST_PRIORITY:,}", field="priority")
    if job.max_attempts < 1:
        raise InvalidInput(f"max_attempts is {job.max_attempts}; a job needs one try at least", field="max_attempts")
    for field in ("run_at", "backoff", "timeout"):
        if not 0 <= getattr(job, field) < 1e12:
            raise InvalidInput(f"{field} is {getattr(job, field)}; use seconds from 0", field=field)
    try:
        arguments = encode(job.arguments)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"arguments of a job have to be plain JSON values: {error}", field="arguments") from None
    if len(arguments) > _LARGEST:
        raise TooLarge(f"arguments of {len(arguments):,} bytes: put them into the store, and their key into the job")
    return {
        "kind": job.kind,
        "state": "waiting" if job.key else "scheduled" if job.run_at > now else "ready",
        "arguments": arguments,
        "rank": -job.priority,
        "key": job.key,
        "owner": job.owner,
        "idempotency_key": job.idempotency_key,
        "after": encode(job.after) if job.after else "",
        "pending": 0,
        "cancelled_by": 0,
        "run_at": job.run_at or now,
        "max_attempts": job.max_attempts,
        "backoff": job.backoff,
        "timeout": job.timeout,
        "error": "",
        "created": now,
        "finished": 0.0,
    }


def _parts(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The rows in parts that a database takes as one parameter."""
    part: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        if part and size + len(row["arguments"]) > _LARGEST_PART:
            yield part
            part, size = [], 0
        part.append(row)
        size += len(row["arguments"])
    if part:
        yield part


def _check_name(field: str, name: str) -> None:
    if name and (len(name) > _LONGEST_NAME or not name.isprintable()):
        raise InvalidInput(f"{field} {name!r:.80} has to be at most {_LONGEST_NAME} printable characters", field=field)


def _identity(job: NewJob) -> _Identity | None:
    return (job.kind, job.owner, job.idempotency_key) if job.idempotency_key else None


# A look-up for each, by the index: as a join a database may read the whole table. Without IS NOT NULL, SQLite does not
# see that the index, which leaves out NULLs, has every row that is asked for.
_KNOWN = """
SELECT wanted.value ->> 0, wanted.value ->> 1, wanted.value ->> 2, (
  SELECT id FROM rung_jobs
  WHERE kind = wanted.value ->> 0 AND owner = wanted.value ->> 1 AND idempotency_key = wanted.value ->> 2
    AND idempotency_key IS NOT NULL)
FROM {table} AS wanted{columns}
"""
_KNOWNS = {
    "sqlite": text(_KNOWN.format(table="json_each(:wanted)", columns="")),
    "postgresql": text(_KNOWN.format(table="json_array_elements(CAST(:wanted AS json))", columns="(value)")),
}


def _known(connection: Connection, identities: Iterable[_Identity]) -> dict[_Identity, int]:
    wanted = sorted(identities)
    if not wanted:
        return {}
    rows = connection.execute(_KNOWNS[connection.dialect.name], {"wanted": encode(wanted)})
    return {(kind, owner, key): id for kind, owner, key, id in rows if id is not None}


def _numbers(connection: Connection, count: int) -> Iterable[int]:
    if not count:
        return ()
    if connection.dialect.name == "sqlite":
        # Nobody else writes meanwhile; AUTOINCREMENT keeps the last number, so that none is given twice.
        last = connection.execute(text("SELECT seq FROM sqlite_sequence WHERE name = 'rung_jobs'")).scalar() or 0
        return range(last + 1, last + 1 + count)
    numbers = text("SELECT nextval('rung_jobs_id_seq') FROM generate_series(1, :count)")
    return sorted(number for (number,) in connection.execute(numbers, {"count": count}))


def _wait(row: dict[str, Any], after: Sequence[int], parents: Mapping[int, State], now: float) -> None:
    for parent in after:
        if parent not in parents:
            raise NotFound(f"there is no job {parent} that this one could wait for")
    waits = {parent for parent in after if parents[parent] != "done"}
    lost = sorted(parent for parent in waits if parents[parent] in ("dead", "cancelled"))
    row["pending"] = len(waits)
    if lost:
        reason = f"it waited for job {lost[0]}, which is {parents[lost[0]]}"
        row |= {"state": "cancelled", "finished": now, "cancelled_by": lost[0], "error": reason}
    elif waits:
        row["state"] = "waiting"

"""What waits for what: jobs named in `after`, and the earlier jobs of a key.

Every function runs in the caller's write transaction. In PostgreSQL whoever adds or ends jobs of a key holds that
key's lock, taken first of all, so that nobody overlooks a job that another transaction is about to add or end.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from sqlalchemy import Connection, case, select, text, update

from rung.domain.jobs import State
from rung.jobs.tables import JOBS, LINKS, encode, in_state, on_ids

__all__ = ["Ended", "cancel_descendants", "hold_keys", "open_parents", "revive", "start_next"]

_LOCKS = 0x6A6F6273  # sets the locks of keys apart from other advisory locks


class Ended(msgspec.Struct, frozen=True):
    """A job that has just ended."""

    id: int
    key: str
    state: State


def hold_keys(connection: Connection, keys: Iterable[str]) -> None:
    """Keep other transactions off these keys until this one ends. SQLite has one writer at a time anyway."""
    wanted = sorted({key for key in keys if key})
    if wanted and connection.dialect.name == "postgresql":
        # Sorted by the lock's own number, so that two batches of keys cannot wait for each other; few numbers, since
        # the server has room for some thousand locks.
        connection.execute(
            text(
                "SELECT pg_advisory_xact_lock(:space, number)"
                " FROM (SELECT DISTINCT hashtext(key) & 1023 AS number"
                " FROM unnest(CAST(:keys AS text[])) AS key ORDER BY 1) AS numbers"
            ),
            {"space": _LOCKS, "keys": wanted},
        )


def open_parents(connection: Connection, ids: Iterable[int]) -> dict[int, State]:
    """States of these jobs, which stay as they are until this transaction ends; absent ones are left out."""
    wanted = sorted(set(ids))
    if not wanted:
        return {}
    query = select(JOBS.c.id, JOBS.c.state).where(JOBS.c.id.in_(wanted)).order_by(JOBS.c.id)
    return {row.id: row.state for row in connection.execute(query.with_for_update(read=True))}


def start_next(
    connection: Connection, ended: Sequence[Ended], now: float, keys: Iterable[str] = (), alone: Iterable[int] = ()
) -> None:
    """Let go what waited for these jobs, the next job of their keys and of `keys`, and the jobs `alone`.

    What waited for one that is not done is cancelled, with all that waits for it in turn. Only jobs that wait for
    no parent start, and jobs with a key only at the head of it.
    """
    free = {job.key for job in ended if job.key} | {key for key in keys if key}
    free |= cancel_descendants(connection, {job.id: job.state for job in ended if job.state != "done"}, now)
    done = [job.id for job in ended if job.state == "done"]
    children = [*alone, *(_count_off(connection, done) if done else ())]
    if children:
        free |= _start_free(connection, children, now)
    if free:
        hold_keys(connection, free)
        _start_heads(connection, sorted(free), now)


_CHILDREN = on_ids("SELECT child FROM rung_job_links WHERE parent {ids}")


def _count_off(connection: Connection, done: list[int]) -> list[int]:
    """Note in the children of these parents that they are done; returns the children's ids."""
    counts: dict[int, int] = {}
    for (child,) in connection.execute(_CHILDREN[connection.dialect.name], {"ids": encode(done)}):
        counts[child] = counts.get(child, 0) + 1
    if not counts:
        return []
    children = sorted(counts)
    # Locked in one order, so that two parents that end at once do not wait for each other.
    connection.execute(select(JOBS.c.id).where(JOBS.c.id.in_(children)).order_by(JOBS.c.id).with_for_update())
    connection.execute(
        text("UPDATE rung_jobs SET pending = pending - :count WHERE id = :id"),
        [{"id": child, "count": counts[child]} for child in children],
    )
    return children


def _start_free(connection: Connection, ids: list[int], now: float) -> set[str]:
    """Start those that wait for no parent and have no key; returns the keys of those that have one."""
    free = JOBS.c.id.in_(ids) & (JOBS.c.pending == 0) & in_state("waiting")
    started = case((JOBS.c.run_at > now, "scheduled"), else_="ready")
    connection.execute(update(JOBS).where(free & JOBS.c.key.is_(None)).values(state=started))
    return {key for (key,) in connection.execute(select(JOBS.c.key).where(free & JOBS.c.key.is_not(None)))}


_HEADS = """
UPDATE rung_jobs SET state = CASE WHEN run_at > :now THEN 'scheduled' ELSE 'ready' END
WHERE pending = 0 AND id {of} (
  SELECT (SELECT first.id FROM rung_jobs AS first
          WHERE first.key = free.value AND first.state = 'waiting' ORDER BY first.id LIMIT 1)
  FROM {table} AS free{columns}
  WHERE NOT EXISTS (SELECT 1 FROM rung_jobs AS active
                    WHERE active.key = free.value AND active.finished IS NULL AND active.state <> 'waiting')){end}
"""
_START_HEADS = {
    "sqlite": text(_HEADS.format(of="IN", table="json_each(:keys)", columns="", end="")),
    "postgresql": text(
        _HEADS.format(
            of="= ANY (ARRAY",  # worked out first: as a join it may read the whole table
            table="json_array_elements_text(CAST(:keys AS json))",
            columns="(value)",
            end=")",
        )
    ),
}


def _start_heads(connection: Connection, keys: list[str], now: float) -> None:
    """Of each key none of whose jobs is under way, start the first that waits, unless it waits for a parent."""
    connection.execute(_START_HEADS[connection.dialect.name], {"now": now, "keys": encode(keys)})


def cancel_descendants(connection: Connection, roots: Mapping[int, State], now: float) -> set[str]:
    """Cancel whatever waits for these jobs, directly or not; returns the keys of what was cancelled."""
    keys: set[str] = set()
    for root, state in sorted(roots.items()):
        waiting = [job for job in _descendants(connection, root) if job[1] == "waiting"]
        if not waiting:
            continue
        connection.execute(
            update(JOBS)
            .where(JOBS.c.id.in_([job[0] for job in waiting]), in_state("waiting"))
            .values(
                state="cancelled", finished=now, cancelled_by=root, error=f"it waited for job {root}, which is {state}"
            )
        )
        keys |= {job[2] for job in waiting if job[2]}
    return keys


def revive(connection: Connection, root: int) -> set[str]:
    """Let what was cancelled because of `root` wait again; returns the keys of what is free to start.

    What also waits for another job that is dead or cancelled stays cancelled, and says so.
    """
    keys: set[str] = set()
    states: dict[int, State] = {}
    # A child is younger than its parents, so that in order of ids every parent is settled before its children.
    for child, state, key in sorted(_descendants(connection, root)):
        row = connection.execute(select(JOBS.c.cancelled_by, JOBS.c.pending).where(JOBS.c.id == child)).one()
        if state != "cancelled" or row.cancelled_by != root:
            continue
        parents = select(JOBS.c.id, JOBS.c.state).join(LINKS, LINKS.c.parent == JOBS.c.id).where(LINKS.c.child == child)
        lost = [
            (parent.id, states.get(parent.id, parent.state))
            for parent in connection.execute(parents)
            if states.get(parent.id, parent.state) in ("dead", "cancelled")
        ]
        if lost:
            parent_id, parent_state = lost[0]
            change: dict[str, object] = {
                "cancelled_by": parent_id,
                "error": f"it waited for job {parent_id}, which is {parent_state}",
            }
        else:
            change = {"state": "waiting", "finished": None, "cancelled_by": None, "error": None}
            states[child] = "waiting"
            keys.add(key or "")
        connection.execute(update(JOBS).where(JOBS.c.id == child).values(**change))
    return keys - {""}


_DESCENDANTS = text("""
WITH RECURSIVE below(id) AS (
  SELECT child FROM rung_job_links WHERE parent = :root
  UNION
  SELECT link.child FROM below JOIN rung_job_links AS link ON link.parent = below.id)
SELECT job.id, job.state, job.key FROM below JOIN rung_jobs AS job ON job.id = below.id ORDER BY job.id
""")


def _descendants(connection: Connection, root: int) -> list[tuple[int, State, str | None]]:
    return [(row.id, row.state, row.key) for row in connection.execute(_DESCENDANTS, {"root": root})]

"""One piece of work that can wait, and the rules by which waiting work gets its turn. Pure.

    waiting ──> scheduled ──> ready ──> leased ──> done
       │            │           │         ├──────> dead        tries are used up
       │            │           │         └──────> scheduled   after a failure, to be tried again
       └────────────┴───────────┴────────────────> cancelled

A job waits for the jobs named in `after`, and for the earlier ones of its key. Times are seconds since the epoch.
"""

from collections.abc import Iterable, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, Literal, get_args

import msgspec

__all__ = [
    "ENDED",
    "LONGEST_BACKOFF",
    "MOST_TRIES",
    "STATES",
    "Handler",
    "Job",
    "Line",
    "NewJob",
    "State",
    "backoff",
    "share",
]

State = Literal["waiting", "scheduled", "ready", "leased", "done", "dead", "cancelled"]
STATES: tuple[State, ...] = get_args(State)
"""In the order of a job's life."""
ENDED: tuple[State, ...] = ("done", "dead", "cancelled")
"""States in which nothing happens to a job by itself any more."""
MOST_TRIES = 5
"""Default number of tries before a job counts as poison."""

LONGEST_BACKOFF = 600.0
"""Seconds between two tries, at most."""


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, as it is submitted."""

    kind: str
    """Which handler does it; a row of the workers' table."""
    arguments: Any = {}
    """Plain JSON values for the handler."""
    priority: int = 0
    """Larger numbers start first."""
    key: str = ""
    """Jobs of one key run one at a time, in the order of submission; empty: no order."""
    owner: str = ""
    """Whose work it is: owners who wait share what is free evenly."""
    idempotency_key: str = ""
    """Submitted again with the same kind, owner and idempotency key, it is the same job; empty: always a new one."""
    after: tuple[int, ...] = ()
    """Ids of jobs that have to be done first."""
    run_at: float = 0.0
    """Not before this; 0: as soon as may be."""
    max_attempts: int = MOST_TRIES
    """Tries, crashes of a worker included, before it is dead."""
    backoff: float = 1.0
    """Seconds of wait after the first failure; doubles with each further one."""
    timeout: float = 0.0
    """Seconds that one try may take; 0: no limit."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the job table."""

    id: int
    kind: str
    state: State
    arguments: Any
    priority: int = 0
    key: str = ""
    owner: str = ""
    idempotency_key: str = ""
    after: tuple[int, ...] = ()
    run_at: float = 0.0
    attempts: int = 0
    """Tries that began."""
    max_attempts: int = MOST_TRIES
    backoff: float = 1.0
    timeout: float = 0.0
    token: int = 0
    """Fencing token: grows with every lease. Only who holds the last one may end the job."""
    worker: str = ""
    """Who holds the lease, or held it last."""
    expires: float = 0.0
    """When the lease ends if nobody renews it; 0 where there is none."""
    progress: float = 0.0
    """From 0 to 1, as the handler last said."""
    note: str = ""
    """What the handler last said."""
    result: Any = None
    """What the handler returned; plain JSON values."""
    error: str = ""
    """Why the last try failed, why it was cancelled, or what it waits for."""
    created: float = 0.0
    started: float = 0.0
    """When the last try began; 0 before the first."""
    finished: float = 0.0
    """When it was done, dead or cancelled; 0 before."""


class Handler(msgspec.Struct, frozen=True):
    """How jobs of one kind are done: a row of the workers' table."""

    target: str
    """`"module:attr"` of a plain function that takes a `JobContext` and returns plain JSON values."""
    limit: int = 0
    """Most jobs of this kind at once, over all workers; 0: no limit."""
    process: bool = False
    """Run each job in a child process of its own, which may crash or be killed without harm to the worker."""
    memory: int = 0
    """Bytes that the child process may allocate; 0: no limit."""
    cpu_seconds: int = 0
    """Processor time that the child process may use; 0: no limit."""
    search_path: str = ""
    """Folder from which the child process imports the user's own modules."""


class Line(msgspec.Struct, frozen=True):
    """Ready jobs that stand in one line: same kind, priority and owner, first come, first served."""

    kind: str
    priority: int
    owner: str


def backoff(attempts: int, base: float, jitter: float) -> float:
    """Seconds to wait after so many failed tries: `base`, doubled each time, at most 600.

    `jitter` in [0, 1) takes off up to half of it, so that jobs that failed together do not come back together.
    """
    # The exponent is bounded before the power is taken: 2.0 ** 1100 overflows.
    wait = min(base * 2.0 ** min(max(attempts - 1, 0), 60), LONGEST_BACKOFF)
    return wait * (1.0 - 0.5 * jitter)


def share(lines: Iterable[Line], running: Mapping[str, int], room: Mapping[str, int], count: int) -> dict[Line, int]:
    """How many of the next `count` starts each line gets, as if every line were long enough.

    Higher priority first. Among lines of one priority, each start goes to the owner with the fewest running jobs,
    these included; lines that are equal take turns in the order of `lines`. `room` says how many more jobs of a
    kind may start (absent: any number).
    """
    levels: dict[int, list[Line]] = {}
    for line in lines:
        levels.setdefault(line.priority, []).append(line)
    given: dict[Line, int] = {}
    busy, free = dict(running), dict(room)
    for priority in sorted(levels, reverse=True):
        turns = [(busy.get(line.owner, 0), place, line) for place, line in enumerate(levels[priority])]
        last = len(turns)
        heapify(turns)
        while turns and count:
            load, place, line = heappop(turns)
            if free.get(line.kind, 1) < 1:
                continue
            now = busy.get(line.owner, 0)
            if now == load:
                given[line] = given.get(line, 0) + 1
                busy[line.owner] = now = now + 1
                place = last = last + 1
                count -= 1
                if line.kind in free:
                    free[line.kind] -= 1
            heappush(turns, (now, place, line))
    return given

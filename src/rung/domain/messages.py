"""What a queue carries: messages, leases of them, and how leases end. Pure.

A queue forgets nothing and decides nothing: it never buries a message by itself. Whoever takes messages asks `unfit`
before the work and `failed` after a failure, and so writes the end of each together with its result.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import msgspec

from rung.domain.jobs import MOST_TRIES, backoff

__all__ = [
    "ACK_MEANS",
    "AckMeans",
    "Beside",
    "Ending",
    "Lease",
    "Means",
    "Message",
    "Outcome",
    "Promise",
    "failed",
    "unfit",
]

AckMeans = Literal["replicated", "flushed", "memory"]
"""Where an accepted message is: on several machines; on the disk of one; in memory, until the disk has it later."""
ACK_MEANS: tuple[AckMeans, ...] = get_args(AckMeans)
"""Safest first."""

Promise = Literal["all or none", "fair", "free return", "strict priority"]
"""What some queues promise beyond the port:

`all or none`: what is put together, and what is written beside it, is accepted together or not at all.
`fair`: owners who wait get equal shares of what is taken.
`free return`: a message that is handed back does not count as tried.
`strict priority`: every number is a priority of its own, also under an ordering key; otherwise above 0, 0 and below 0.
"""

Ending = Literal["done", "again", "dead", "returned"]
"""How a lease ends: its work is done; to be tried again; given up for good; handed back without a try."""


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue's word is worth."""

    ack: AckMeans
    words: str
    """The same in a sentence, with what has to be set to make it safer."""
    promises: frozenset[Promise] = frozenset()
    largest: int
    """Bytes that a body may have."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to be done, as it is put into a queue."""

    id: str
    """Unique in its queue, at most 150 printable characters: its result is written under it, once."""
    topic: str = ""
    """What it is about, such as the name of a model."""
    body: bytes = b""
    priority: int = 0
    """Larger numbers are taken first, as far as the queue promises."""
    key: str = ""
    """Messages of one key are taken one at a time, in the order in which they were put; empty: no order."""
    owner: str = ""
    """Whose it is."""
    deadline: float = 0.0
    """Seconds since the epoch after which nobody wants the result; 0: never."""
    max_attempts: int = MOST_TRIES
    """Tries, crashes of a worker included, before it is dead."""
    replay: int = 0
    """How often it was put anew after it had ended: a queue takes another number for another message."""


class Lease(msgspec.Struct, frozen=True):
    """A message that was taken, until it is settled or the time of the lease has run out."""

    message: Message
    attempts: int
    """How often it was taken, this time included."""
    handle: Any = None
    """What the queue needs to know it again; nobody else's business."""


class Outcome(msgspec.Struct, frozen=True):
    """How a lease ends."""

    lease: Lease
    ending: Ending = "done"
    reason: str = ""
    """Why it was not done: a whole sentence."""
    delay: float = 0.0
    """Seconds before it is taken again, at most those of a lease where a broker carries it."""


Beside = Callable[[Any, Sequence[Outcome]], None]
"""Writes results with a connection of the results' database, inside a transaction; may run again where that is
rolled back. It gets the outcomes whose leases are still held. Under an id that has a result it has to write nothing:
the first one stays."""


def unfit(lease: Lease, now: float) -> Outcome | None:
    """The end of a message that must not be worked on: its time is over, or it has killed its workers; else None.

    Args:
        lease: what was taken.
        now: seconds since the epoch.
    """
    message = lease.message
    if message.deadline and now >= message.deadline:
        return Outcome(lease, "dead", f"its deadline passed {now - message.deadline:.1f} seconds ago")
    if lease.attempts > message.max_attempts:
        tries = "once" if message.max_attempts == 1 else f"{message.max_attempts} times"
        return Outcome(lease, "dead", f"it was taken {tries} and never ended: its workers crashed or hung")
    return None


def failed(lease: Lease, reason: str, *, pause: float = 1.0, jitter: float = 0.0) -> Outcome:
    """The end of a try that failed: again after a pause, or dead after the last.

    Args:
        lease: what was tried.
        reason: why it failed, for a person.
        pause: seconds after the first failure; doubles with each further one, as `rung.domain.jobs.backoff`.
        jitter: in [0, 1), takes off up to half of the pause.
    """
    if lease.attempts >= lease.message.max_attempts:
        return Outcome(lease, "dead", reason)
    return Outcome(lease, "again", reason, backoff(lease.attempts, pause, jitter))

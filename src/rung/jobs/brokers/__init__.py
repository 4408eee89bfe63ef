"""What carries messages, by URL: the job table, NATS JetStream, Redis or Valkey Streams.

    sql      nats://host:4222?replicas=3      redis://:password@host:6379/0      unix:///path/of/socket

Each kind is one file here and a row in `rung.plugins.QUEUES`.
"""

import msgspec

from rung.plugins import QUEUES, resolve
from rung.ports import Queue
from rung.store.database import Database

__all__ = ["QueuePlace", "open_queue"]


class QueuePlace(msgspec.Struct, frozen=True):
    """What is opened: all who put into a queue and take from it have to say the same."""

    url: str
    """`sql`, or the URL of a server."""
    name: str
    """Of the queue: lowercase letters, digits and `-`. One place holds many."""
    lease_seconds: float = 30.0
    """After this a message that was taken, and neither renewed nor settled, goes to somebody else."""


def open_queue(place: QueuePlace, database: Database) -> Queue:
    """Open a queue, and make what it needs on its server.

    Args:
        place: where it is.
        database: of the results: what is written beside a message goes there. With `sql` it also holds the messages.

    Raises:
        ConfigurationError: the URL names no queue that rung knows, or the server is not fit for it.
        MissingDependency: an extra has to be installed; the message says which.
        NotReady: the server cannot be reached.
    """
    queue: Queue = resolve(QUEUES, place.url.partition(":")[0], "queue")(place, database)
    return queue

"""How many replicas there should be: what each tells of its load, and what was decided, with its reasons.

Counts and seconds in a load are sums since the replica started, so that whoever looks twice knows what came in
between, and a look that was missed loses nothing.
"""

import msgspec

__all__ = ["Decision", "ModelLoad", "Opinion", "ReplicaLoad"]


class ModelLoad(msgspec.Struct, frozen=True):
    """What one model asks of a replica, over all versions that it holds of it."""

    lanes: int = 1
    """Calls that can run at once."""
    in_flight: int = 0
    """Requests that have no answer yet."""
    wait: float = 0.0
    """Seconds until a request that came in now would start."""
    row: float = 0.0
    """Seconds that a row takes of a lane at the batch size in use; 0 before that is known."""
    rows: int = 0
    """Rows computed."""
    busy: float = 0.0
    """Seconds of model calls; `lanes` of them pass in a second where all are busy."""
    answered: int = 0
    """Requests with an answer."""
    failed: int = 0
    """Requests with an error that is none of `refused`."""
    refused: int = 0
    """Requests turned away because their turn would have come too late."""
    buckets: tuple[int, ...] = ()
    """Answers by the time that they took in all, a count for each of the replica's `bounds` and one above them."""


class ReplicaLoad(msgspec.Struct, frozen=True):
    """What a replica tells of itself."""

    at: float
    """When, in seconds of its own monotonic clock."""
    ready: bool = True
    """Whether every model that should answer can."""
    loop: float = 0.0
    """Processor seconds of its event loop, which reads and writes all requests and computes the smallest models."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of the buckets, in seconds."""
    models: dict[str, ModelLoad] = {}


class Opinion(msgspec.Struct, frozen=True):
    """How many replicas one rule wants."""

    by: str
    """The rule: a metric, `schedule`, `forecast` and so on."""
    replicas: int
    why: str
    """A clause with the figures that it rests on."""
    model: str = ""
    """For which model it speaks; empty for the project."""


class Decision(msgspec.Struct, frozen=True):
    """How many replicas there are to be."""

    replicas: int
    why: str
    """A sentence for a person, with the figures that decided."""
    before: int = 0
    """How many there were."""
    wanted: int = 0
    """What the rules want now; `replicas` differs where a stabilisation window or a limit holds it."""
    at: float = 0.0
    """Seconds since the epoch."""
    opinions: tuple[Opinion, ...] = ()
    """Of every rule that had something to go by."""

    @property
    def moves(self) -> bool:
        """Whether anything changes."""
        return self.replicas != self.before

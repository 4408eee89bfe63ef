"""What a training process says while it runs."""

from typing import Any

import msgspec

__all__ = [
    "Checkpointed",
    "Event",
    "Produced",
    "Progress",
    "Ready",
    "Reported",
    "Restarted",
    "Said",
    "Started",
    "decode",
]


class Started(msgspec.Struct, frozen=True, tag=True):
    """The run has a record."""

    name: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The data has been read, divided and checked."""

    dataset: str
    """Digest of the dataset version."""
    rows: dict[str, int]
    """Of each split."""
    of: dict[str, int]
    """Of each split in the whole data, of which a smoke run takes a few."""
    threads: int
    device: str
    resumed: int = 0
    """Step from which it goes on; 0 is the beginning."""


class Progress(msgspec.Struct, frozen=True, tag=True):
    """How far it is."""

    step: int
    total: int = 0
    """0 where nobody knows."""


class Reported(msgspec.Struct, frozen=True, tag=True):
    """Metrics at a step."""

    step: int
    metrics: dict[str, float]
    best: bool = False
    """Whether the metric that counts was never better."""


class Checkpointed(msgspec.Struct, frozen=True, tag=True):
    """From here it goes on after an interruption."""

    step: int


class Said(msgspec.Struct, frozen=True, tag=True):
    """A sentence for people."""

    text: str


class Restarted(msgspec.Struct, frozen=True, tag=True):
    """A process died, and all begin again at the last checkpoint."""

    reason: str


class Produced(msgspec.Struct, frozen=True, tag=True):
    """The last event of the first process: what `train` returned has been written down."""

    artifact: str
    """File or folder within the run's; empty when it was stopped before there was one."""
    declared: dict[str, Any]
    """What `catalog.models.register` is told beside it."""
    metrics: dict[str, float]
    best_step: int
    last_step: int
    planned: int
    """Steps that were to be done; 0 where nobody knows."""
    stopped: bool
    """Whether it ended because it was asked to."""
    transforms: str
    skipped: int
    data_wait: float
    """Share of the time in which it waited for data."""
    seconds: float
    peak_memory: int
    """Bytes that this process held at most."""


Event = Started | Ready | Progress | Reported | Checkpointed | Said | Restarted | Produced


def decode(value: Any) -> Event:
    """The event in what came over the wire."""
    event: Event = msgspec.convert(value, Event)
    return event

"""What a training process is told when it starts."""

import msgspec

from rung.domain.runs import RunSpec

__all__ = ["Order"]


class Order(msgspec.Struct, frozen=True):
    """What one process is to do."""

    spec: RunSpec
    project: str
    """Folder of the project."""
    run: str
    """Folder of the run."""
    data: str
    """Where dataset versions lie."""
    rank: int = 0
    rendezvous: str = ""
    """Where several processes meet."""
    resumed: bool = False
    baseline: bytes = b""
    """Profile of the data that the newest version was trained on; empty: there is none."""

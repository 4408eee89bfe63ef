"""One execution of training: what was asked for, and how it ended."""

from typing import Any, Literal

import msgspec

__all__ = ["Ended", "RunResult", "RunSpec"]

Ended = Literal["finished", "stopped", "failed", "killed"]
"""`stopped`: somebody asked it to end, and its checkpoint was kept."""


class RunSpec(msgspec.Struct, frozen=True):
    """Everything that decides what a run computes: with equal code and environment it gives an equal model."""

    model: str
    train: str
    """`module:function` in the project's folder."""
    params: dict[str, Any] = {}
    seed: int = 0
    dataset: str = ""
    """Digest of the dataset version; empty before the data was read."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; else `cpu`, `cuda`, `cuda:1`."""
    workers: int = 1
    """Processes that train one model together."""
    threads: int = 0
    """Threads of each process; 0: the cores there are, shared out. Sums are rounded differently by other numbers."""
    smoke: float = 0.0
    """Share of the rows that a smoke run takes; 0 is a whole run."""
    memory: int = 0
    """Limit of each process in bytes; 0: none."""
    cpu_seconds: int = 0
    """Limit of each process; 0: none."""
    register: bool = True
    """Whether the model becomes a version at the end."""


class RunResult(msgspec.Struct, frozen=True):
    """How a run ended."""

    id: str
    """The tracker's, 32 hexadecimal digits."""
    name: str
    """Model and number, such as `nuclei-3`: what people type."""
    ended: Ended
    reason: str = ""
    metrics: dict[str, float] = {}
    """Of the step that was registered."""
    best_step: int = 0
    last_step: int = 0
    saved: float = 0.0
    """Share of the planned steps that early stopping spared."""
    version: int = 0
    """In the registry; 0 where none was registered."""
    dataset: str = ""
    transforms: str = ""
    """Digest of the transforms."""
    weights: str = ""
    """sha256 of the registered artifact: what two runs are compared by."""
    seconds: float = 0.0
    data_wait: float = 0.0
    """Share of the time in which training waited for data."""
    peak_memory: int = 0
    """Bytes of the largest process."""
    skipped: int = 0
    """Steps that were left out because the loss was not finite."""
    restarts: int = 0
    """Times that it went on from a checkpoint."""

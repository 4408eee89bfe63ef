"""Several processes that train one model: each has its share of every batch, gradients are averaged before each step.

torch's own collectives carry it: gloo between processes on CPUs, NCCL between GPUs. Processes meet in a file of the
run's folder, so no port has to be free and no host has to be named; a cluster gives another address.
"""

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from rung.domain.errors import TrainingFailed

__all__ = ["any_of", "barrier", "join", "leave", "mean_of", "wrap"]

_WAIT = timedelta(minutes=5)
"""For the slowest of them; a process that died is noticed by its parent long before."""


def join(rank: int, world: int, rendezvous: str, *, device: str = "cpu") -> None:
    """Meet the others. `rendezvous` is a file that does not exist yet, the same for all.

    Raises:
        TrainingFailed: the others did not come.
    """
    # Found by the host's name, gloo would take an address on which nobody listens.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "nccl" if device.startswith("cuda") else "gloo"
    try:
        distributed.init_process_group(
            backend, init_method=Path(rendezvous).resolve().as_uri(), rank=rank, world_size=world, timeout=_WAIT
        )
    except (RuntimeError, ValueError) as error:
        raise TrainingFailed(f"process {rank} of {world} did not meet the others: {error}") from None


def leave() -> None:
    """Part. Twice is no error."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def wrap(module: nn.Module) -> nn.Module:
    """The module with gradients averaged over all processes, and equal weights at the start.

    Every process has to have the same number of rows in a batch for the mean of means to be the mean; `Feed.batches`
    sees to that.
    """
    device = next(module.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(module, device_ids=ids)


def mean_of(values: Mapping[str, float]) -> dict[str, float]:
    """The mean of each value over all processes; all get the same."""
    names = sorted(values)
    tensor = torch.tensor([values[name] for name in names], dtype=torch.float64)
    distributed.all_reduce(tensor)
    means = (tensor / distributed.get_world_size()).tolist()
    return dict(zip(names, means, strict=True))


def any_of(value: bool) -> bool:
    """Whether it is true in one of the processes at least; all get the same."""
    flag = torch.tensor(float(value))
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag)


def barrier() -> None:
    """Wait until all are here."""
    flag: Any = torch.zeros(1)
    distributed.all_reduce(flag)

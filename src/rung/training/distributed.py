"""Several processes that train one model: each sees its share of every batch, and all take the same step.

The gradients are averaged by torch's DistributedDataParallel: over gloo between CPUs, over NCCL between GPUs. A process
that dies is noticed by whoever started them, who ends all and lets them go on from the checkpoint.
Imported only where there is more than one process.
"""

import os
import zlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rung.domain.errors import ConfigurationError, MissingDependency, TrainingFailed

try:
    import torch
    import torch.distributed as dist
    from torch import nn
except ImportError:
    raise MissingDependency(
        "several processes train one model by torch, which is not installed: pip install 'rung[train]', or leave out "
        "--workers and give the model threads"
    ) from None

__all__ = ["any_of", "barrier", "device_of", "gather", "join", "leave", "mean_of", "wrap"]

_PATIENCE = timedelta(minutes=30)
"""How long one waits for the slowest: reading data and measuring take their time."""


def device_of(device: str, rank: int) -> str:
    """The device of one process: a GPU of its own.

    Raises:
        ConfigurationError: there are more processes than GPUs.
    """
    if device.partition(":")[0] != "cuda":
        return device
    count = torch.cuda.device_count()
    if rank >= count:
        raise ConfigurationError(
            f"{rank + 1} processes need as many GPUs, and there are {count}: lower workers, or train on the CPU "
            "by --device cpu"
        )
    return f"cuda:{rank}"


def join(rank: int, world: int, rendezvous: str, device: str = "cpu") -> None:
    """Meet the others; returns when all `world` are there.

    Args:
        rank: number of this process, from 0.
        world: how many there are.
        rendezvous: path of a file that nobody has used before, in a folder that all of them see.
        device: what this process computes on.

    Raises:
        TrainingFailed: the others did not come.
    """
    # Found by the host's name, gloo would take an address on which nobody may listen.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    gpu = device.startswith("cuda")
    if gpu:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            # Flags and metrics travel between CPUs, whatever computes.
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            init_method=Path(rendezvous).resolve().as_uri(),
            rank=rank,
            world_size=world,
            timeout=_PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        raise TrainingFailed(f"process {rank} of {world} did not meet the others: {error}") from None


def leave() -> None:
    """Part from the others. Twice is no error."""
    if dist.is_initialized():
        dist.destroy_process_group()


def wrap(module: nn.Module) -> nn.Module:
    """The module as one with those of the others: it begins with the weights of the first process, and the gradients
    are the mean over all processes.

    Random numbers differ from here on, so that each process drops other units.
    """
    if not any(value.requires_grad for value in module.parameters()):
        return module
    made = nn.parallel.DistributedDataParallel(module)
    torch.manual_seed(torch.initial_seed() + dist.get_rank())
    return made


def barrier() -> None:
    """Wait until all are here."""
    any_of(False)


def any_of(flag: bool) -> bool:
    """Whether one of them says yes. All have to ask."""
    return bool(_all(torch.tensor(float(flag)), dist.ReduceOp.MAX))


def mean_of(values: Mapping[str, float]) -> dict[str, float]:
    """Mean of each metric over the processes; all of them report the same ones.

    Raises:
        TrainingFailed: they report different ones.
    """
    names = sorted(values)
    mine = float(zlib.crc32("\n".join(names).encode()))
    # Other names in another process would add up what does not belong together.
    bounds = _all(torch.tensor([mine, -mine], dtype=torch.float64), dist.ReduceOp.MAX)
    if bounds[0] != -bounds[1]:
        raise TrainingFailed(
            f"the processes report different metrics; process {dist.get_rank()} reports {', '.join(names) or 'none'}: "
            "call ctx.report in all of them with the same names"
        )
    total = _all(torch.tensor([values[name] for name in names], dtype=torch.float64), dist.ReduceOp.SUM)
    return dict(zip(names, (total / dist.get_world_size()).tolist(), strict=True))


def gather(content: bytes) -> list[bytes]:
    """What each process gives, in the order of their numbers, in all of them."""
    world = dist.get_world_size()
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(content)]))
    longest = max(int(size) for size in sizes)
    mine = torch.zeros(longest, dtype=torch.uint8)
    mine[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else mine[:0]
    parts = [torch.empty_like(mine) for _ in range(world)]
    dist.all_gather(parts, mine)
    return [part[: int(size)].numpy().tobytes() for part, size in zip(parts, sizes, strict=True)]


def _all(values: torch.Tensor, how: Any) -> torch.Tensor:
    dist.all_reduce(values, how)
    return values

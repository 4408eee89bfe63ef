"""What training needs of torch: device, precision, one step of an optimizer, states as bytes, export.

Imported only by runs whose `train` uses torch.
"""

import io
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rung.domain.errors import ConfigurationError
from rung.domain.tensors import Array

__all__ = ["Precision", "dump", "export", "pick_device", "random_state", "recompute", "restore_random", "undump"]


def pick_device(wanted: str) -> str:
    """The device to train on: `auto` is a GPU where torch finds one.

    Raises:
        ConfigurationError: what was asked for is not here.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"device {wanted!r} is not to be had here: {reason}; use auto or cpu") from None
    return wanted


class Precision:
    """Mixed precision: bfloat16 on a CPU, float16 with a scaled loss on a GPU.

    Gradients in float16 vanish below 6e-8; the scale lifts them and is taken out before the step
    (Micikevicius et al., 2018). bfloat16 has the range of float32 and needs none.
    """

    def __init__(self, device: str) -> None:
        self._kind = device.partition(":")[0]
        self._scaler: Any = None

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in half precision what bears it."""
        if self._kind == "cuda" and self._scaler is None:
            self._scaler = torch.amp.GradScaler("cuda")
        return torch.autocast(self._kind, torch.float16 if self._kind == "cuda" else torch.bfloat16)

    def step(self, loss: torch.Tensor, optimizer: torch.optim.Optimizer, clip: float, together: bool) -> bool:
        """Backward and one step of the optimizer; False when the loss was not finite and nothing was changed.

        With several processes all leave the step out when the loss of one is not finite.
        """
        finite = math.isfinite(loss.item())
        if together:
            flag = torch.tensor(float(finite))
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MIN)
            finite = bool(flag)
        optimizer.zero_grad(set_to_none=True)
        if not finite:
            return False
        (self._scaler.scale(loss) if self._scaler else loss).backward()
        if clip:
            if self._scaler:
                self._scaler.unscale_(optimizer)
            parameters = [value for group in optimizer.param_groups for value in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip)
        if self._scaler:
            # It leaves the step out by itself when a gradient overflowed, and lowers the scale.
            self._scaler.step(optimizer)
            self._scaler.update()
        else:
            optimizer.step()
        return True

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return dict(self._scaler.state_dict()) if self._scaler else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as `state` says."""
        if state:
            self._scaler = torch.amp.GradScaler("cuda")
            self._scaler.load_state_dict(dict(state))


def dump(thing: Any) -> bytes:
    """The state of something with a `state_dict`, as bytes."""
    file = io.BytesIO()
    inner = thing.module if isinstance(thing, nn.parallel.DistributedDataParallel) else thing
    torch.save(inner.state_dict(), file)
    return file.getvalue()


def undump(thing: Any, content: bytes) -> None:
    """Give a state back. Only tensors and plain values are read, never code."""
    inner = thing.module if isinstance(thing, nn.parallel.DistributedDataParallel) else thing
    device = (
        next(inner.parameters()).device
        if isinstance(inner, nn.Module) and any(True for _ in inner.parameters())
        else "cpu"
    )
    inner.load_state_dict(torch.load(io.BytesIO(content), map_location=device, weights_only=True))


def random_state() -> bytes:
    """Where torch's random numbers stand."""
    file = io.BytesIO()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    torch.save({"cpu": torch.get_rng_state(), "cuda": gpus}, file)
    return file.getvalue()


def restore_random(content: bytes) -> None:
    """Go on with torch's random numbers from there."""
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def recompute(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call it now, keep only its inputs, and call it again on the way back (Chen et al., 2016)."""
    from torch.utils.checkpoint import checkpoint

    return checkpoint(function, *arguments, use_reentrant=False)


def export(module: nn.Module, path: Path, example: Mapping[str, Array], outputs: Sequence[str]) -> None:
    """Write a module as one ONNX file, the number of rows free.

    `example` names the inputs, in the order of `forward`, each with two rows at least.
    """
    # The exporter names operators of torchvision that nobody asked for.
    logging.getLogger("torch.onnx._internal.exporter").setLevel(logging.ERROR)
    inner = module.module if isinstance(module, nn.parallel.DistributedDataParallel) else module
    inner = inner.to("cpu").eval()
    rows = torch.export.Dim("batch", min=1, max=4096)
    arguments = tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in example.values())
    with warnings.catch_warnings():
        # Deprecations inside torch, of no use to whoever exports a model.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            inner,
            arguments,
            dynamo=True,
            verbose=False,
            opset_version=20,
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: rows} for _ in arguments),
        )
    assert program is not None
    # Traces of the source tree, with the paths of this machine, have no place in a file that others load.
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()
    program.save(path, external_data=False)

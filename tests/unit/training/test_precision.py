"""Gradient checkpointing gives equal gradients for less memory; mixed precision trains as well as full."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from rung.domain.errors import TrainingFailed
from rung.training.context import Context
from rung.training.torch_steps import Precision

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: float16 with a scaled loss runs there"
)


def _blocks(count: int, width: int) -> nn.ModuleList:
    torch.manual_seed(1)
    return nn.ModuleList(
        nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(0.2), nn.Linear(width, width), nn.Tanh())
        for _ in range(count)
    )


def _backward(blocks: nn.ModuleList, x: Any, call: Callable[..., Any]) -> tuple[list[Any], int]:
    """Gradients, and the bytes that were kept for the way back, each storage once; weights are there anyway."""
    weights = {value.untyped_storage().data_ptr() for value in blocks.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            # Held, so that no other tensor comes to lie there.
            kept[storage.data_ptr()] = storage
        return tensor

    blocks.zero_grad(set_to_none=True)
    torch.manual_seed(2)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        for block in blocks:
            x = call(block, x)
        size = sum(storage.nbytes() for storage in kept.values())
        (x**2).mean().backward()
    return [value.grad.clone() for value in blocks.parameters()], size


def test_recomputing_gives_equal_gradients_and_keeps_a_quarter() -> None:
    blocks, x = _blocks(8, 64), torch.randn(256, 64)
    plain, much = _backward(blocks, x, lambda block, value: block(value))
    again, little = _backward(blocks, x, Context.recompute)
    # With dropout: the random numbers are the same on the second way.
    assert all(torch.equal(left, right) for left, right in zip(plain, again, strict=True))
    assert little <= much / 4, f"{little} of {much} bytes"


def _separable() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(512, 8, generator=generator)
    return x, (x[:, 0] * x[:, 1] + x[:, 2] > 0).long()


def _accuracy(device: str, *, mixed: bool, steps: int = 150) -> tuple[float, Any]:
    x, y = (value.to(device) for value in _separable())
    torch.manual_seed(4)
    network = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2)).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, momentum=0.9)
    precision = Precision(device)
    seen: Any = None
    for _ in range(steps):
        if mixed:
            with precision.autocast():
                out = network(x)
                loss = nn.functional.cross_entropy(out, y)
            seen = out.dtype
        else:
            loss = nn.functional.cross_entropy(network(x), y)
        assert precision.step(loss, optimizer, 0.0, False)
    return float((network(x).argmax(1) == y).float().mean()), seen


def test_bfloat16_on_a_cpu_is_within_a_point_of_full_precision() -> None:
    full, _ = _accuracy("cpu", mixed=False)
    half, dtype = _accuracy("cpu", mixed=True)
    assert dtype == torch.bfloat16
    assert full > 0.9
    assert half > full - 0.01


def test_a_loss_that_is_no_number_changes_nothing() -> None:
    network = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = [value.clone() for value in network.parameters()]
    precision = Precision("cpu")
    for bad in (math.nan, math.inf):
        assert not precision.step(network(torch.ones(1, 2)).sum() * bad, optimizer, 0.0, False)
    assert all(torch.equal(left, right) for left, right in zip(before, network.parameters(), strict=True))
    assert precision.step(network(torch.ones(1, 2)).sum(), optimizer, 0.0, False)


@needs_gpu
def test_float16_on_a_gpu_is_within_a_point_of_full_precision() -> None:
    full, _ = _accuracy("cuda", mixed=False)
    half, dtype = _accuracy("cuda", mixed=True)
    assert dtype == torch.float16
    assert half > full - 0.01


@needs_gpu
def test_scaling_saves_gradients_that_float16_would_lose() -> None:
    network = nn.Linear(4, 1, bias=False).cuda()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    precision, x = Precision("cuda"), torch.full((2, 4), 1e-4, device="cuda")
    with precision.autocast():
        # Its gradient is 1e-9: below the least that float16 holds, 6e-8.
        loss = (network(x) * 1e-5).mean()
    precision.step(loss, optimizer, 0.0, False)
    scale = precision.state()["scale"]
    assert scale > 1
    assert network.weight.grad is not None
    assert float(network.weight.grad.abs().max()) > 0


@needs_gpu
def test_an_overflow_on_a_gpu_is_left_out_and_lowers_the_scale() -> None:
    network = nn.Linear(4, 1).cuda()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    precision = Precision("cuda")
    with precision.autocast():
        loss = network(torch.ones(2, 4, device="cuda")).mean()
    before = network.weight.detach().clone()
    # Finite in itself, and above what float16 holds once it is scaled.
    precision.step(loss.float() * 3e4, optimizer, 0.0, False)
    assert torch.equal(before, network.weight)
    assert precision.state()["scale"] < 65536


def test_too_many_bad_losses_end_the_run_and_name_the_step(tmp_path: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("several", Path(__file__).with_name("several.py"))
    assert spec is not None
    assert spec.loader is not None
    several = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(several)
    ctx = several.context(tmp_path, 0, 1, {})
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(10):
        assert not ctx.step(network(torch.ones(1, 1)).sum() * math.nan, optimizer)
    assert ctx.skipped == 10
    with pytest.raises(TrainingFailed, match="11 steps in a row, up to step 11"):
        ctx.step(network(torch.ones(1, 1)).sum() * math.nan, optimizer)

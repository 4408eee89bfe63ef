"""Several processes that train one model give what one process gives."""

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from rung.domain.errors import ConfigurationError

_SCRIPT = Path(__file__).with_name("several.py")
_SPEC = importlib.util.spec_from_file_location("several", _SCRIPT)
assert _SPEC is not None
assert _SPEC.loader is not None
several = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(several)


def _start(folder: Path, **params: Any) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, str(_SCRIPT), str(folder), str(rank), "2", json.dumps(params)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def _run(folder: Path, **params: Any) -> list[dict[str, Any]]:
    processes = _start(folder, **params)
    try:
        for process in processes:
            _, said = process.communicate(timeout=90)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [json.loads((folder / f"{params['meet']}-{rank}.json").read_text()) for rank in range(2)]


def _one(folder: Path, **params: Any) -> tuple[list[Any], Any]:
    ctx = several.context(folder, 0, 1, params)
    model = several.train(ctx)
    return [value.tolist() for value in model.state_dict().values()], ctx


def _furthest(left: list[Any], right: list[Any]) -> float:
    return max(float(np.abs(np.array(a) - np.array(b)).max()) for a, b in zip(left, right, strict=True))


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    # In one batch the loss of one process is not finite: both leave the step out, as a single process does.
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    first, second = _run(tmp_path / "two", meet="a", bad=[1, 2])
    alone, ctx = _one(tmp_path / "one", bad=[1, 2])
    assert _furthest(first["weights"], second["weights"]) == 0
    assert _furthest(first["weights"], alone) < 1e-6
    assert first["skipped"] == second["skipped"] == ctx.skipped == 1
    assert first["steps"] == ctx.steps == 3 * 8
    assert first["mean"] == {"a": 1.0, "b": 0.5}
    assert first["any"] == second["any"] == [False, True]
    assert first["gathered"] == second["gathered"] == ["", "xxx"]
    assert "report different metrics" in first["refused"]


def test_a_killed_process_ends_nothing_that_a_checkpoint_does_not_bring_back(tmp_path: Path) -> None:
    # With dropout: each of them goes on with its own random numbers.
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole, _ = _run(tmp_path / "whole", meet="a", drop=0.3)
    processes = _start(tmp_path / "cut", meet="a", drop=0.3, die=[2, 3])
    try:
        assert processes[1].wait(90) == -signal.SIGKILL
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert sorted(place.name for place in (tmp_path / "cut" / "checkpoints").glob("step-*"))[-1] == "step-000000016"
    again, other = _run(tmp_path / "cut", meet="b", drop=0.3)
    assert again["steps"] == 24
    assert _furthest(again["weights"], whole["weights"]) == 0
    assert _furthest(again["weights"], other["weights"]) == 0


def test_a_process_without_a_gpu_is_refused() -> None:
    import torch

    from rung.training.distributed import device_of

    assert device_of("cpu", 3) == "cpu"
    with pytest.raises(ConfigurationError, match="as many GPUs"):
        device_of("cuda", torch.cuda.device_count())

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


def _start(folder: Path, meet: str, runs: dict[str, Any]) -> list[subprocess.Popen[str]]:
    return [
        subprocess.Popen(
            [sys.executable, str(_SCRIPT), str(folder), str(rank), "2", meet, json.dumps(runs)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]


def _run(folder: Path, meet: str, runs: dict[str, Any]) -> list[dict[str, Any]]:
    processes = _start(folder, meet, runs)
    try:
        for process in processes:
            _, said = process.communicate(timeout=90)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [json.loads((folder / f"{meet}-{rank}.json").read_text()) for rank in range(2)]


def _furthest(left: list[Any], right: list[Any]) -> float:
    return max(float(np.abs(np.array(a) - np.array(b)).max()) for a, b in zip(left, right, strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found in two trainings, one after the other: starting torch is what takes the time."""
    # In one batch the loss of one process is not finite: both leave the step out, as a single process does.
    return _run(tmp_path_factory.mktemp("whole"), "a", {"plain": {"bad": [1, 2]}, "dropout": {"drop": 0.3}})


def test_two_processes_take_the_steps_of_one(whole: list[dict[str, Any]], tmp_path: Path) -> None:
    ctx = several.context(tmp_path, 0, 1, {"bad": [1, 2]})
    alone = [value.tolist() for value in several.train(ctx).state_dict().values()]
    first, second = (found["plain"] for found in whole)
    assert _furthest(first["weights"], second["weights"]) == 0
    assert _furthest(first["weights"], alone) < 1e-6
    assert first["skipped"] == second["skipped"] == ctx.skipped == 1
    assert first["steps"] == ctx.steps == 3 * 8


def test_flags_and_metrics_and_bytes_go_round(whole: list[dict[str, Any]]) -> None:
    first, second = (found["together"] for found in whole)
    assert first["mean"] == {"a": 1.0, "b": 0.5}
    assert first["any"] == second["any"] == [False, True]
    assert first["gathered"] == second["gathered"] == ["", "xxx"]
    assert "report different metrics" in first["refused"]


@pytest.mark.nightly
def test_after_a_kill_they_go_on_to_the_same_weights(whole: list[dict[str, Any]], tmp_path: Path) -> None:
    # With dropout: each of them goes on with its own random numbers.
    (tmp_path / "dropout").mkdir()
    processes = _start(tmp_path, "a", {"dropout": {"drop": 0.3, "die": [2, 3]}})
    try:
        assert processes[1].wait(90) == -signal.SIGKILL
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    again, other = (found["dropout"] for found in _run(tmp_path, "b", {"dropout": {"drop": 0.3}}))
    assert again["steps"] == 24
    assert _furthest(again["weights"], other["weights"]) == 0
    assert _furthest(again["weights"], whole[0]["dropout"]["weights"]) == 0


def test_a_process_without_a_gpu_is_refused() -> None:
    import torch

    from rung.training.distributed import device_of

    assert device_of("cpu", 3) == "cpu"
    with pytest.raises(ConfigurationError, match="as many GPUs"):
        device_of("cuda", torch.cuda.device_count())

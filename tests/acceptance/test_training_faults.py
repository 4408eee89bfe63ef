"""What goes wrong while training: one clear sentence, the last good checkpoint kept, the registry as it was.

All runs share one project, whose tracking store takes seconds to make.
"""

import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rung.catalog.models import list_models
from rung.cli import main
from rung.domain.errors import ConfigurationError, InvalidData, RungError, TrainingFailed
from rung.settings.file import load_project
from rung.store.blobs import open_store
from rung.training import events
from rung.training.run import spec_of, train_model

PROJECT = """
[models.nothing]
task = "regression"
train = "faults:nothing"
data = { source = "csv:rows.csv", label = "y" }

[models.gone]
task = "regression"
train = "faults:nothing"
data = { source = "csv:gone.csv", label = "y" }

[models.unlabelled]
task = "regression"
train = "faults:nothing"
data = { source = "csv:rows.csv", label = "z" }

[models.empty]
task = "regression"
train = "faults:nothing"
data = { source = "csv:empty.csv", label = "y" }

[models.headless]
task = "regression"
train = "faults:nothing"
data = { source = "csv:headless.csv", label = "y" }

[models.broken]
task = "regression"
train = "faults:broken"
data = { source = "csv:rows.csv", label = "y" }

[models.large]
task = "regression"
train = "faults:large"
data = { source = "csv:rows.csv", label = "y" }
run = { memory = "700MiB" }

[models.nan]
task = "regression"
train = "steps:nan"
data = { source = "csv:rows.csv", label = "y" }
run = { skips = 3 }

[models.line]
task = "regression"
train = "steps:line"
data = { source = "csv:rows.csv", label = "y" }
run = { checkpoint_seconds = 0, restarts = 10, threads = 1 }

[models.full]
task = "regression"
train = "steps:full"
data = { source = "csv:rows.csv", label = "y" }
params = { again = true }
run = { threads = 1 }
"""

FAULTS = """
import numpy as np


def nothing(ctx):
    pass


def broken(ctx):
    raise ValueError("no such shape")


def large(ctx):
    held = [np.ones(1 << 24) for _ in range(64)]
    return len(held)
"""

STEPS = """
import errno
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn


def written(net, path):
    weights = {}
    for name, layer in (("a", net[0]), ("b", net[-1])):
        weights[f"{name}w"], weights[f"{name}b"] = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "aw", "ab"], ["h"], transB=1),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Gemm", ["r", "bw", "bb"], ["y"], transB=1),
        ],
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(array.copy(), name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def parts(ctx):
    net = nn.Sequential(nn.Linear(1, 256), nn.Dropout(0.1), nn.ReLU(), nn.Linear(256, 1))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    ctx.track(net=net, optimizer=optimizer)
    return net, optimizer


def losses(ctx, net, epochs):
    for epoch in ctx.epochs(epochs):
        for batch in ctx.data.batches("train", 16):
            x, y = (torch.tensor(np.asarray(batch[name]), dtype=torch.float32).reshape(-1, 1) for name in "xy")
            yield epoch, ((net(x) - y) ** 2).mean()


def nan(ctx):
    net, optimizer = parts(ctx)
    for epoch, loss in losses(ctx, net, 3):
        # Alone it is left out; in the second epoch all of them are.
        ctx.step(loss * float("nan") if epoch or ctx.steps == 2 else loss, optimizer)
    raise AssertionError("it should have been stopped")


def line(ctx):
    net, optimizer = parts(ctx)
    for epoch, loss in losses(ctx, net, 30):
        ctx.step(loss * float("inf") if ctx.steps == 5 else loss, optimizer)
    return written(net, Path(ctx.folder, "model.onnx"))


def full(ctx):
    net, optimizer = parts(ctx)
    filler = Path(ctx.folder, "filler")
    for epoch, loss in losses(ctx, net, 3):
        ctx.step(loss, optimizer)
        if epoch == 1 and not filler.exists():
            with filler.open("wb", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(1 << 12))
                except OSError as error:
                    assert error.errno == errno.ENOSPC
    if ctx.params.again:
        filler.unlink()
    return written(net, Path(ctx.folder, "model.onnx"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("faults")
    (place / "rung.toml").write_text(PROJECT)
    (place / "faults.py").write_text(FAULTS)
    (place / "steps.py").write_text(STEPS)
    rows = "\n".join(f"{step / 100},{step / 50 + 1}" for step in range(200))
    (place / "rows.csv").write_text(f"x,y\n{rows}\n")
    (place / "empty.csv").write_text("x,y\n")
    (place / "headless.csv").write_text("")
    return place


class Heard:
    """What a run tells."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.checkpoints: list[int] = []
        self.restarts = 0
        self.progressed, self.again = threading.Event(), threading.Event()

    def __call__(self, event: events.Event) -> None:
        if isinstance(event, events.Said):
            self.said.append(event.text)
        elif isinstance(event, events.Checkpointed):
            self.checkpoints.append(event.step)
            self.progressed.set()
        elif isinstance(event, events.Restarted):
            # All that the dead process had told has been heard by now.
            self.progressed.clear()
            self.restarts += 1
            self.again.set()


def train(folder: Path, name: str, heard: Heard | None = None, **changes: object):
    project = load_project(folder)
    spec = spec_of(name, project.models[name], **changes)
    return train_model(project, folder, spec, on_event=heard or Heard())


def versions(folder: Path) -> list[tuple[str, int]]:
    return [(entry.name, entry.version) for entry in list_models(open_store(str(folder / ".rung" / "repository")))]


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("nothing", TrainingFailed, ["train returned nothing"]),
        ("gone", ConfigurationError, ["gone.csv"]),
        ("unlabelled", InvalidData, ["'z'", "x, y"]),
        ("empty", InvalidData, ["no row", "empty.csv"]),
        pytest.param("headless", InvalidData, ["headless.csv"], marks=pytest.mark.nightly),
        pytest.param(
            *("broken", TrainingFailed, ["faults.py:10", "ValueError", "no such shape"]), marks=pytest.mark.nightly
        ),
        ("large", TrainingFailed, ["memory", "700 MiB", "[models.NAME.run]"]),
        ("nan", TrainingFailed, ["not a finite number in 4 steps in a row", "step 14 (epoch 1)"]),
    ],
)
def test_one_sentence_names_what_is_wrong_and_nothing_is_registered(folder, name, error, words):
    before = versions(folder)
    with pytest.raises(RungError) as caught:
        train(folder, name)
    text = str(caught.value)
    assert type(caught.value) is error, text
    assert all(word in text for word in words), text
    assert "\n" not in text
    assert versions(folder) == before


def test_the_command_ends_with_2_for_a_setting_and_the_sentence(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["rung", "train", "gone"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rung: ")
    assert "gone.csv" in line


# --- the disk --------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """The folder of the project's runs on a real file system of 192 KiB."""
    runs = folder / ".rung" / "runs"
    kept = folder / ".rung" / "kept"
    if runs.exists():
        runs.rename(kept)
    runs.mkdir(parents=True)
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=192k", "tmpfs", str(runs)], capture_output=True
    )
    if not mounted or mounted.returncode:
        runs.rmdir()
        if kept.exists():
            kept.rename(runs)
        pytest.skip("mounting a small file system takes root; test_checkpoints has the limit of a file's size")
    yield runs
    subprocess.run(["umount", str(runs)], check=True)
    runs.rmdir()
    if kept.exists():
        kept.rename(runs)


def test_a_full_disk_keeps_the_last_good_checkpoint_and_the_run_goes_on(folder, small_disk):
    heard = Heard()
    result = train(folder, "full", heard)
    assert any("no room for the checkpoint" in line and "goes on" in line for line in heard.said), heard.said
    assert heard.checkpoints == [10]
    assert result.ended == "finished"
    assert ("full", result.version) in versions(folder)


@pytest.mark.nightly
def test_a_disk_that_stays_full_is_named_and_nothing_is_registered(folder, small_disk):
    before, heard = versions(folder), Heard()
    with pytest.raises(RungError) as caught:
        train(folder, "full", heard, params={"again": False})
    text = str(caught.value)
    assert "No space left on device" in text or "no room" in text, text
    assert "\n" not in text
    assert versions(folder) == before
    assert any(path.name == "checkpoint.json" for path in small_disk.rglob("step-*/*"))


# --- kill -9 ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=[pytest.mark.nightly, pytest.mark.timeout(600)])])
def test_killed_at_random_points_it_ends_in_the_same_weights(folder, kills):
    whole = train(folder, "line", register=False)
    assert whole.skipped == 1, "the one step whose loss was infinite"

    heard, rng = Heard(), random.Random(kills)
    ended = threading.Event()
    killed = []

    def kill() -> None:
        while len(killed) < kills and not ended.is_set():
            # Only after a new checkpoint: dying twice at one place is given up, on purpose.
            if not heard.progressed.wait(0.05):
                continue
            if ended.wait(rng.uniform(0, 0.15)):
                return
            for child in psutil.Process().children():
                if any("rung.training.child" in part for part in child.cmdline()):
                    heard.again.clear()
                    child.kill()
                    killed.append(child.pid)
                    heard.again.wait(60)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        result = train(folder, "line", heard, register=False)
    finally:
        ended.set()
        killer.join()
    assert result.restarts == heard.restarts == len(killed) == kills
    assert result.weights == whole.weights
    assert result.skipped == 1

"""`rung train --workers 2`: one run, two processes, one of which is killed."""

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("torch")
pytest.importorskip("mlflow")

from rung.settings.file import load_project
from rung.training.events import Checkpointed, Event, Ready, Restarted
from rung.training.run import spec_of, train_model

_TOML = """
[models.m]
task = "regression"
train = "model:train"
metric = "loss"
params = { pause = 0.0 }
[models.m.data]
source = "csv:rows.csv"
label = "y"
"""
_MODEL = """
import time
import numpy as np
import torch
from torch import nn

def train(ctx):
    inner = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
    network = ctx.wrap(inner)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    ctx.track(network=network, optimizer=optimizer)
    for _ in ctx.epochs(4):
        total = 0.0
        for batch in ctx.data.batches("train", 16):
            x = torch.tensor(np.stack([batch["a"], batch["b"]], 1), dtype=torch.float32)
            y = torch.tensor(batch["y"], dtype=torch.float32)
            loss = ((network(x)[:, 0] - y) ** 2).mean()
            ctx.step(loss, optimizer)
            total += float(loss.detach())
        ctx.report(loss=total)
        time.sleep(ctx.params.pause)
    path = ctx.folder / "weights.csv"
    weights = np.concatenate([value.detach().numpy().ravel() for value in inner.parameters()])
    path.write_text("key,value\\n" + "".join(f"{i},{value:.9g}\\n" for i, value in enumerate(weights)))
    return path
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(120, 2)).round(3)
    lines = [f"{a},{b},{a - b + 0.1 * a * b:.3f}\n" for a, b in rows]
    (tmp_path / "rung.toml").write_text(_TOML)
    (tmp_path / "model.py").write_text(_MODEL)
    (tmp_path / "rows.csv").write_text("a,b,y\n" + "".join(lines))
    return tmp_path


def _train(folder: Path, hear: Any = lambda _event: None, **changes: Any) -> tuple[Any, Any]:
    project = load_project(folder)
    params = {**project.models["m"].params, **changes.pop("params", {})}
    spec = spec_of("m", project.models["m"], threads=1, register=False, params=params, **changes)
    result = train_model(project, folder, spec, on_event=hear)
    text = (folder / ".rung" / "runs" / result.name / "work" / "weights.csv").read_text()
    return result, np.loadtxt(text.splitlines()[1:], delimiter=",")[:, 1]


def _ranks() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if any(part == "rung.training.child" for part in child.cmdline())]


@pytest.mark.nightly
@pytest.mark.timeout(400)
def test_a_killed_process_is_brought_back_and_the_weights_are_those_of_one(project: Path) -> None:
    _, alone = _train(project)
    checkpoints: list[int] = []
    events: list[Event] = []
    killed: list[int] = []

    def hear(event: Event) -> None:
        events.append(event)
        if isinstance(event, Checkpointed):
            checkpoints.append(event.step)
        if len(checkpoints) == 2 and not killed:
            victim = _ranks()[-1]
            killed.append(victim.pid)
            os.kill(victim.pid, signal.SIGKILL)

    result, weights = _train(project, hear, workers=2, params={"pause": 0.3})
    assert killed
    assert result.restarts == 1
    assert any(isinstance(event, Restarted) and "SIGKILL" in event.reason for event in events)
    resumed = [event.resumed for event in events if isinstance(event, Ready)]
    assert resumed == [0, checkpoints[1]]
    assert np.abs(weights - alone).max() < 1e-6


_FOREST = """
from sklearn.ensemble import RandomForestRegressor

def train(ctx):
    X, y = ctx.data.arrays("train")
    model = RandomForestRegressor(24, random_state=ctx.seed, n_jobs=ctx.params.jobs).fit(X, y)
    ctx.report(loss=1 - model.score(*ctx.data.arrays("validation")))
    return model.set_params(n_jobs=None)
"""


@pytest.mark.nightly
def test_a_forest_is_the_same_whoever_grows_its_trees(project: Path) -> None:
    pytest.importorskip("sklearn")
    (project / "model.py").write_text(_FOREST)
    (project / "rung.toml").write_text(_TOML.replace("pause = 0.0", "jobs = 1"))
    settings = load_project(project)
    weights = []
    for jobs, seed in ((1, 0), (2, 0), (1, 1)):
        spec = spec_of("m", settings.models["m"], params={"jobs": jobs}, seed=seed, register=False)
        weights.append(train_model(settings, project, spec).weights)
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]

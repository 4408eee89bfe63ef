"""`rung tune` with real runs: workers that share a study, one that is killed, pruning, the winner."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

pytest.importorskip("optuna")
pytest.importorskip("mlflow")

from rung.catalog import models
from rung.domain.errors import ConfigurationError, TrainingFailed
from rung.domain.studies import StudyResult, TrialResult
from rung.settings.file import load_project
from rung.store.blobs import open_store
from rung.training import tuning
from rung.training.run import spec_of

_TOML = """
[models.m]
task = "regression"
train = "model:train"
metric = "loss"
params = { x = 0.0, slow = 0.0, wide = 1 }
[models.m.data]
source = "csv:rows.csv"
label = "y"
[models.m.tune]
space = { x = { low = -2.0, high = 2.0 }, wide = [1, 2] }
sampler = "random"
"""
_MODEL = """
import json, time
from pathlib import Path

def train(ctx):
    for _ in ctx.epochs(6):
        ctx.stepped()
        ctx.report(loss=(ctx.params.x - 1) ** 2 + 1 / (ctx.steps + 1))
        time.sleep(ctx.params.slow)
    path = Path(ctx.folder, "table.csv")
    path.write_text(f"key,value\\na,{ctx.params.x}\\n")
    return path
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "rung.toml").write_text(_TOML)
    (tmp_path / "model.py").write_text(_MODEL)
    (tmp_path / "rows.csv").write_text("a,y\n" + "".join(f"{i},{i * 2}\n" for i in range(60)))
    return tmp_path


def _tune(folder: Path, study: str, **options: Any) -> Any:
    model = load_project(folder).models["m"]
    params = {**model.params, **options.pop("params", {})}
    plan = msgspec.structs.replace(tuning.plan_of("m", model, params), trials=options.pop("trials"))
    return tuning.tune(folder, spec_of("m", model, params=params, threads=1), plan, study=study, **options)


def _workers() -> list[psutil.Process]:
    """Those that this process has started."""
    return [child for child in psutil.Process().children() if any("tuning_worker" in part for part in child.cmdline())]


def test_a_killed_worker_is_replaced_and_the_winner_registers(project: Path) -> None:
    heard: list[TrialResult] = []
    killed: list[int] = []

    def hear(trial: TrialResult) -> None:
        heard.append(trial)
        if trial.state == "running" and trial.number >= 1 and not killed:
            worker = _workers()[-1]
            killed.append(worker.pid)
            os.kill(worker.pid, signal.SIGKILL)

    result = _tune(project, "s", trials=3, workers=2, hear=hear, params={"slow": 0.05})
    assert killed
    assert result.count("complete") + result.count("pruned") == 3
    assert result.count("lost") == result.retried == 1
    assert result.best is not None
    assert result.best.run.startswith("m-")
    assert {Path(path).name for path in result.pictures} >= {"history.png"}
    assert result.dataset
    settings = load_project(project)
    model = settings.models["m"]
    with_version = tuning.register_winner(settings, project, spec_of("m", model, threads=1), result)
    manifest = models.show(open_store(str(project / ".rung/repository")), "m")
    assert manifest.version == with_version.version == 1
    again = tuning.register_winner(settings, project, spec_of("m", model, threads=1), result)
    assert (again.run, again.version) == (with_version.run, 1)
    lineage = manifest.lineage
    assert lineage is not None
    assert (lineage.extra["study"], lineage.extra["trial"]) == ("s", str(result.best.number))
    assert lineage.extra["trial_run"] == result.best.run


@pytest.mark.nightly
def test_a_stopped_study_puts_back_what_was_under_way(project: Path) -> None:
    running: list[TrialResult] = []
    result = _tune(project, "s", trials=3, params={"slow": 0.3}, hear=running.append, stop=lambda: len(running) > 0)
    assert [trial.state for trial in result.trials] == ["lost", "waiting", "waiting", "waiting"]


@pytest.mark.nightly
def test_a_metric_that_train_never_reports_ends_the_study(project: Path) -> None:
    text = (project / "rung.toml").read_text()
    (project / "rung.toml").write_text(text.replace('metric = "loss"', 'metric = "rmse"'))
    with pytest.raises(ConfigurationError, match="train reports loss, and not 'rmse'"):
        _tune(project, "s", trials=2)


@pytest.mark.nightly
def test_trials_that_all_fail_end_the_study(project: Path) -> None:
    (project / "model.py").write_text("def train(ctx):\n    raise ValueError('no way')\n")
    with pytest.raises(TrainingFailed, match=r"the first 5 trials failed.*no way"):
        _tune(project, "s", trials=30)


def _command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rung", "tune", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_a_command_that_was_killed_goes_on_by_resume(project: Path) -> None:
    first = _command(project, "--trials", "4", "--workers", "2", "--set", "slow=0.5", "--no-register")
    try:
        assert first.stdout is not None
        # One has ended, so the other worker's is under way or about to be.
        assert any("trial   0" in line or "trial   1" in line for line in first.stdout)
        workers = psutil.Process(first.pid).children()
        first.send_signal(signal.SIGKILL)
    finally:
        first.kill()
        first.communicate()
    # They end with their parent.
    psutil.wait_procs(workers, timeout=30)
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
    second = _command(project, "--resume", "--trials", "4", "--set", "slow=0.5", "--no-register", "--json")
    try:
        said, _ = second.communicate(timeout=200)
    finally:
        second.kill()
        second.wait()
    assert second.returncode == 0, said
    result = msgspec.json.decode(said.splitlines()[-1], type=StudyResult)
    assert result.study == "m-study-1"
    assert result.count("complete") + result.count("pruned") == 4
    assert result.count("running") == result.count("waiting") == 0
    assert result.retried == result.count("lost") >= 1

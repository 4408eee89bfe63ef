"""`rung train` as it is typed: interrupted, killed, gone on with, watched on a terminal, and mistyped."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from rung.cli import main
from rung.domain.runs import RunResult

pytest.importorskip("torch")

PROJECT = """
[models.line]
task = "regression"
train = "line:train"
metric = "loss"
direction = "minimize"
data = { source = "csv:rows.csv", label = "y" }
params = { pause = false, rate = 0.01, width = 8, kind = "plain" }
run = { checkpoint_seconds = 0, threads = 1 }
"""

LINE = """
import time
from pathlib import Path

import torch
from torch import nn


def train(ctx):
    net = nn.Sequential(nn.Linear(1, ctx.params.width), nn.Dropout(0.2), nn.Linear(ctx.params.width, 1))
    optimizer = torch.optim.Adam(net.parameters(), ctx.params.rate)
    ctx.track(net=net, optimizer=optimizer)
    for epoch in ctx.epochs(3):
        for batch in ctx.data.batches("train", 16):
            x, y = (torch.from_numpy(batch[name]).float()[:, None] for name in "xy")
            loss = ((net(x) - y) ** 2).mean()
            ctx.step(loss, optimizer)
            if ctx.params.pause and not ctx.restore() and ctx.steps == 13:
                ctx.say("paused")
                while not ctx.should_stop:
                    time.sleep(0.01)
        ctx.report(loss=1 / (epoch + 1))
    path = Path(ctx.folder, "weights")
    path.write_bytes(b"".join(value.numpy().tobytes() for value in net.state_dict().values()))
    return path
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("training")
    (place / "rung.toml").write_text(PROJECT)
    (place / "line.py").write_text(LINE)
    rows = "\n".join(f"{step / 100},{step / 50 + 1}" for step in range(200))
    (place / "rows.csv").write_text(f"x,y\n{rows}\n")
    return place


def start(folder: Path, *arguments: str, **streams: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rung", "train", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **streams}
    return subprocess.Popen(command, cwd=folder, text=True, **streams)


def until_paused(process: subprocess.Popen[str]) -> str:
    """The name of the run, once it pauses in the middle of an epoch."""
    said = []
    for line in process.stdout:
        said.append(line)
        if "paused" in line:
            return said[0].split()[0]
    raise AssertionError("".join(said))


def result_of(folder: Path, run: str) -> RunResult:
    return msgspec.json.decode((folder / ".rung" / "runs" / run / "result.json").read_bytes(), type=RunResult)


@pytest.fixture(scope="module")
def whole(folder: Path) -> RunResult:
    """A run that nobody disturbed; as JSON it prints one object and nothing else."""
    process = start(folder, "--no-register", "--json", stderr=subprocess.PIPE)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert out.count("\n") == 1
    found = msgspec.convert(json.loads(out), RunResult)
    assert (found.ended, found.last_step, found.version) == ("finished", 30, 0)
    assert 0 <= found.data_wait <= 1
    return found


@pytest.mark.timeout(300)
def test_ctrl_c_saves_and_says_how_to_go_on_and_the_end_is_the_same(folder, whole, monkeypatch, capsys):
    process = start(folder, "line", "--no-register", "--set", "pause=true")
    run = until_paused(process)
    process.send_signal(signal.SIGINT)
    said = process.stdout.read()
    process.stdout.close()
    assert process.wait(60) == 130
    assert "saving and ending; Ctrl-C again ends at once" in said
    assert f"rung train --resume {run}  goes on" in said
    assert result_of(folder, run).ended == "stopped"

    again = start(folder, "--resume", "last")
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert said.startswith(f"{run}  started")
    assert "goes on from step 13" in said
    assert "% of the time for data" in said
    found = result_of(folder, run)
    assert found.weights == whole.weights
    assert found.metrics == whole.metrics

    # There is nothing left to go on with, and it is said.
    for resume, words in ((run, f"run {run} is finished"), ("last", "no run that was interrupted")):
        assert words in refused(folder, monkeypatch, capsys, "--resume", resume)


@pytest.mark.timeout(300)
def test_killed_with_9_its_child_ends_with_it_and_the_end_is_the_same(folder, whole, monkeypatch, capsys):
    process = start(folder, "line", "--no-register", "--set", "pause=true")
    run = until_paused(process)
    children = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "rung.training.child" in child.cmdline()
    ]
    assert len(children) == 1
    assert f"run {run} is running in process" in refused(folder, monkeypatch, capsys, "--resume", run)
    process.kill()
    process.wait(30)
    process.stdout.close()
    assert not psutil.wait_procs(children, timeout=30)[1]

    # On a terminal, where a bar is shown.
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    again = start(folder, "--resume", run, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 1 << 16):
            shown += chunk
    except OSError:  # That is how a terminal says that nobody holds its other side any more.
        pass
    os.close(ours)
    text = shown.decode()
    assert again.wait(60) == 0, text
    assert "goes on from step" in text
    assert "steps" in text
    assert "\x1b[" in text, "a bar moves the cursor"
    assert f"{run}  finished" in text
    assert result_of(folder, run).weights == whole.weights


def refused(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *typed: str) -> str:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["rung", "train", *typed])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["lime"], "there is no model 'lime' in rung.toml; did you mean line?"),
        (["--set", "rte=0.1"], "has no parameter 'rte'; did you mean rate?"),
        (["--set", "rate=fast"], "the parameter rate is 0.01, and 'fast' is no number"),
        (["--set", "width=2.5"], "the parameter width is 8, and 2.5 is no whole number"),
        (["--set", "pause=1"], "the parameter pause is False, and 1 is no true or false"),
        (["--set", "width"], "write --set NAME=VALUE"),
        (["--resume", "line-99"], "there is no run 'line-99'"),
        (["--resume", "last", "--set", "width=9"], "goes on with a run as it was begun: leave out --set"),
        (["--resume", "last", "--smoke"], "leave out --smoke"),
        (["--resume", "last", "--seed", "4"], "leave out --seed"),
    ],
)
def test_a_slip_is_answered_with_a_way_out_and_nothing_begins(folder, monkeypatch, capsys, typed, words):
    before = sorted((folder / ".rung" / "runs").glob("*"))
    line = refused(folder, monkeypatch, capsys, *typed)
    assert words in line
    assert sorted((folder / ".rung" / "runs").glob("*")) == before

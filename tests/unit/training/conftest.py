"""One store of MLflow for all tests: making its tables takes seconds."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FIRST = """
import json, sys, threading, time
from pathlib import Path

importers = []
sys.addaudithook(lambda name, values: importers.append(threading.current_thread())
                 if name == "import" and values[0].partition(".")[0] == "mlflow" else None)
connected = []
asked = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname")
sys.addaudithook(lambda name, values: connected.append(repr(values[1:])) if name in asked else None)
from rung.domain.runs import RunSpec
from rung.training import tracking

run = tracking.start(Path(sys.argv[1]), "first", RunSpec("first", "m:train", params={"depth": 3}))
run.log({"loss": 0.5}, 1, time.time())
run.finish("finished")
beside = bool(importers) and threading.main_thread() not in importers
print(json.dumps({
    "name": run.name, "id": run.id, "beside": beside, "problem": run.problem, "connected": connected,
}))
"""


def outside() -> dict[str, str]:
    """The environment, as somebody has it who has never heard of MLflow's settings."""
    return {
        name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_") and name != "DO_NOT_TRACK"
    }


@pytest.fixture(scope="session")
def first_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """A project whose first two runs were started at once, by two processes in which warnings are errors."""
    folder = tmp_path_factory.mktemp("first")
    command = [sys.executable, "-W", "error", "-c", FIRST, str(folder)]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=outside())
        for _ in range(2)
    ]
    said = [process.communicate(timeout=110) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    return folder, [json.loads(output) for output, _ in said]


@pytest.fixture
def project(first_runs: tuple[Path, list[dict]], tmp_path: Path) -> Path:
    """A folder with a store that has its tables, and the two runs of the model `first`."""
    place = tmp_path / "project"
    (place / ".rung").mkdir(parents=True)
    shutil.copyfile(first_runs[0] / ".rung/mlflow.db", place / ".rung/mlflow.db")
    return place

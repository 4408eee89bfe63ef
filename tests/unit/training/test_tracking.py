import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from rung.domain.errors import Conflict, NotFound
from rung.domain.runs import RunSpec
from rung.training import runs, tracking
from rung.training.journal import JOURNAL, State, read_state, write_state
from rung.training.tracking import TrackedRun

SPEC = RunSpec("m", "m:train", params={"depth": 3, "kind": "a"}, seed=7)

KILLED = """
import sys, time
from pathlib import Path
from rung.domain.runs import RunSpec
from rung.training import tracking

run = tracking.start(Path(sys.argv[1]), "m", RunSpec("m", "m:train", params={"depth": 3}))
for step in range(50):
    run.log({"loss": 1 / (step + 1)}, step, time.time())
print(run.name, flush=True)
time.sleep(100)
"""

CLAIM = """
import os, sys
from pathlib import Path
from rung.domain.runs import RunSpec
from rung.training import tracking

sys.stdin.readline()
names = [tracking.start(Path(sys.argv[1]), "m", RunSpec("m", "m:train")).name for _ in range(5)]
print(*names, flush=True)
os._exit(0)
"""


def rows(project: Path, query: str, *values: str) -> list[tuple]:
    store = sqlite3.connect(project / ".rung/mlflow.db")
    try:
        return store.execute(query, values).fetchall()
    finally:
        store.close()


def test_first_two_runs_of_a_project_are_recorded_by_two_processes_at_once(
    first_runs: tuple[Path, list[dict]],
) -> None:
    folder, said = first_runs
    assert {one["name"] for one in said} == {"first-1", "first-2"}
    assert [one["problem"] for one in said] == ["", ""]
    found = {run.name: run for run in runs.list_runs(folder)}
    for one in said:
        assert one["beside"], "whoever trains had to wait for MLflow's import"
        run = found[one["name"]]
        assert (run.id, run.status, run.metrics) == (one["id"], "finished", {"loss": 0.5})


def test_nothing_connects_to_a_host(first_runs: tuple[Path, list[dict]]) -> None:
    assert [one["connected"] for one in first_runs[1]] == [[], []]


def test_all_that_is_recorded_is_in_mlflows_tables(project: Path, tmp_path: Path) -> None:
    run = tracking.start(project, "m", SPEC)
    kept = tmp_path / "notes.txt"
    kept.write_text("kept")
    run.artifact(kept)
    run.tags({"rung.dataset": "abc"})
    for step in range(3):
        run.log({"loss": 1.0 - step / 4, "up/down%": float(step)}, step, 1000.0 + step)
    run.log({"bad": math.nan, "large": math.inf}, 3, 1003.0)
    run.finish("finished", "all done")
    assert run.problem == ""

    params = dict(rows(project, "SELECT key, value FROM params WHERE run_uuid = ?", run.id))
    assert params == {"depth": "3", "kind": "a"}
    tags = dict(rows(project, "SELECT key, value FROM tags WHERE run_uuid = ?", run.id))
    assert tags["rung.seed"] == "7"
    assert tags["rung.ended"] == "finished"
    assert tags["rung.reason"] == "all done"
    assert tags["rung.dataset"] == "abc"
    assert rows(project, "SELECT status FROM runs WHERE run_uuid = ?", run.id) == [("FINISHED",)]
    assert [path.read_text() for path in (project / ".rung/artifacts/m").rglob("notes.txt")] == ["kept"]

    read = runs.find(project, run.name)
    assert (read.id, read.params, read.status) == (run.id, params, "finished")
    points = runs.history(project, read)
    assert [(point.step, point.value, point.at) for point in points["loss"]] == [
        (0, 1.0, 1000.0),
        (1, 0.75, 1001.0),
        (2, 0.5, 1002.0),
    ]
    assert [point.value for point in points["up/down_"]] == [0.0, 1.0, 2.0]
    assert math.isnan(points["bad"][0].value)
    assert points["large"][0].value > 1e300


def test_folder_of_the_project_may_be_relative(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    run = tracking.start(Path(), "m", SPEC)
    run.finish("finished")
    assert run.problem == ""
    assert runs.find(Path(), run.name).id == run.id


def test_more_than_mlflow_takes_at_once(project: Path) -> None:
    spec = RunSpec("m", "m:train", params={f"p{i}": i for i in range(250)})
    run = tracking.start(project, "m", spec)
    run.tags({f"t{i}": "x" for i in range(250)})
    for step in range(20):
        run.log({f"metric{i}": float(i) for i in range(100)}, step, time.time())
    run.finish("finished")
    assert run.problem == ""
    read = runs.find(project, run.name)
    assert (len(read.params), len(read.metrics)) == (250, 100)
    assert sum(len(points) for points in runs.history(project, read).values()) == 2000


def test_what_a_killed_process_logged_is_brought_by_the_next_run(project: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(project)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        os.kill(process.pid, signal.SIGKILL)
    before = runs.find(project, name)
    assert before.status == "killed"
    assert len(runs.history(project, before)["loss"]) == 50, "what it logged can be read without MLflow"
    with (project / ".rung/runs" / name / JOURNAL).open("ab") as journal:
        journal.write(b'{"kind": "metr')  # The line at which the power failed.

    tracking.start(project, "m", SPEC).finish("finished")
    run = runs.find(project, name)
    assert len(run.id) == 32
    assert (run.status, run.metrics) == ("killed", {"loss": 1 / 50})
    assert len(runs.history(project, run)["loss"]) == 50
    assert rows(project, "SELECT status FROM runs WHERE run_uuid = ?", run.id) == [("KILLED",)]

    # And once only: nothing of it is sent again by later ones.
    tracking.start(project, "m", SPEC).finish("finished")
    assert len([one for one in runs.list_runs(project) if one.name == name]) == 1


def test_run_whose_id_was_not_written_down_is_not_made_twice(project: Path) -> None:
    run = tracking.start(project, "m", SPEC)
    run.log({"loss": 1.0}, 1, 5.0)
    run.finish("finished")
    # As if it had been killed after MLflow had made it, and before that was noted.
    write_state(run.folder, State("m", pid=2**22 + 1, began=1.0))
    tracking.start(project, "m", SPEC).finish("finished")
    again = read_state(run.folder)
    assert again is not None
    assert again.id == run.id
    assert len(runs.history(project, runs.find(project, run.name))["loss"]) == 1


def test_run_that_goes_on_stands_as_running_and_then_as_it_ended(project: Path) -> None:
    run = tracking.start(project, "m", SPEC)
    run.log({"loss": 1.0}, 1, time.time())
    run.finish("stopped", "somebody asked it to end")
    again = tracking.resume(project, run.name)
    assert runs.find(project, run.name).status == "running"  # before MLflow has heard of it
    assert again.since == run.since or abs(again.since - run.since) < 1
    assert again.id == run.id
    again.log({"loss": 0.5}, 2, time.time())
    standing = runs.find(project, run.name)
    assert standing.status == "running"
    assert standing.ended is None
    again.finish("finished")
    ended = runs.find(project, run.name)
    assert (ended.status, ended.metrics, ended.tags["rung.reason"]) == ("finished", {"loss": 0.5}, "")


def test_run_that_still_goes_on_is_not_taken_over(project: Path) -> None:
    run = tracking.start(project, "m", SPEC)
    with pytest.raises(Conflict, match=f"is running in process {os.getpid()}"):
        tracking.resume(project, run.name)
    run.finish("finished")


@pytest.mark.parametrize("name", ["m-9", "", "../m-1"])
def test_run_that_is_not_there_is_not_resumed(project: Path, name: str) -> None:
    with pytest.raises(NotFound, match="there is no run"):
        tracking.resume(project, name)


def test_processes_that_start_at_once_get_different_names(project: Path) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM, str(project)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    names = [name for process in both for name in process.communicate(timeout=60)[0].split()]
    assert len(names) == 15
    assert sorted(names) == sorted(f"m-{number + 1}" for number in range(15))


def test_a_store_that_mlflow_cannot_use_ends_nothing_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 0.01)
    (tmp_path / ".rung").mkdir()
    (tmp_path / ".rung/mlflow.db").write_bytes(b"no database at all" * 100)
    run = tracking.start(tmp_path, "m", SPEC)
    run.log({"loss": 1.0}, 1, time.time())
    run.finish("finished")
    assert run.id == ""
    assert "file is not a database" in run.problem
    assert str(run.folder / JOURNAL) in run.problem
    lines = [json.loads(line) for line in (run.folder / JOURNAL).read_bytes().splitlines()]
    assert [line["values"] for line in lines if line["kind"] == "metrics"] == [{"loss": 1.0}]


def test_lines_of_the_journal_are_whole_at_once(project: Path) -> None:
    run: TrackedRun = tracking.start(project, "m", SPEC)
    for step in range(100):
        run.log({"loss": 1.0}, step, time.time())
        line = (run.folder / JOURNAL).read_bytes().splitlines()[-1]
        assert msgspec.json.decode(line)["kind"] == "metrics"
    run.finish("finished")

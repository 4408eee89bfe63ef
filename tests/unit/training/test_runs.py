import sqlite3
import time
from pathlib import Path

import pytest

from rung.domain.errors import InvalidData, InvalidInput, NotFound
from rung.domain.runs import RunSpec
from rung.training import runs, tracking
from rung.training.runs import compare, find, history, list_runs


def fill(project: Path, model: str, count: int, metrics: int = 2) -> None:
    """Put runs into the tables that MLflow made: run `i` began at second `i`, and its id begins with `i` in hex."""
    store = sqlite3.connect(project / ".rung/mlflow.db")
    with store:
        store.execute(
            "INSERT INTO experiments (name, lifecycle_stage, workspace) VALUES (?, 'active', 'default')", [model]
        )
        (number,) = store.execute("SELECT experiment_id FROM experiments WHERE name = ?", [model]).fetchone()
        ids = [f"{i:04x}{'a' * 28}" for i in range(count)]
        store.executemany(
            "INSERT INTO runs (run_uuid, name, experiment_id, status, start_time, end_time, lifecycle_stage) "
            "VALUES (?, ?, ?, 'FINISHED', ?, ?, 'active')",
            [(ids[i], f"{model}-{i + 1}", number, i * 1000, i * 1000 + 500) for i in range(count)],
        )
        store.executemany(
            "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan) VALUES (?, ?, ?, 0, 1, 0)",
            [(one, f"metric{j:03}", i + j / 1000) for i, one in enumerate(ids) for j in range(metrics)],
        )
        store.executemany(
            "INSERT INTO params (run_uuid, key, value) VALUES (?, ?, ?)",
            [(one, key, value) for i, one in enumerate(ids) for key, value in (("depth", str(i % 3)), ("kind", "a"))],
        )
        store.executemany(
            "INSERT INTO tags (run_uuid, key, value) VALUES (?, ?, ?)",
            [
                (one, key, value)
                for i, one in enumerate(ids)
                for key, value in (("rung.ended", "finished"), ("rung.dataset", f"d{i % 2}"), ("rung.code", "c"))
            ],
        )
    store.close()


def test_a_thousand_runs_with_a_hundred_metrics_each_are_listed_in_no_time(project: Path) -> None:
    fill(project, "many", 1000, 100)
    took = []
    for _ in range(3):
        began = time.perf_counter()
        found = list_runs(project, model="many")
        took.append(time.perf_counter() - began)
    print(f"1,000 runs x 100 metrics are listed in {min(took):.2f} s")
    assert len(found) == 1000
    assert all(len(run.metrics) == 100 for run in found)
    assert min(took) < 3


def test_newest_come_first_and_so_many_as_are_asked_for(project: Path) -> None:
    fill(project, "a", 5)
    fill_other = [run.name for run in list_runs(project, model="first")]
    assert [run.name for run in list_runs(project, model="a")] == ["a-5", "a-4", "a-3", "a-2", "a-1"]
    assert [run.name for run in list_runs(project, model="a", limit=2)] == ["a-5", "a-4"]
    assert len(list_runs(project)) == 5 + len(fill_other) == 7
    assert list_runs(project, model="none") == []


def test_run_is_found_by_name_id_and_beginning_of_its_id(project: Path) -> None:
    fill(project, "a", 20)
    assert find(project, "a-3").id == f"0002{'a' * 28}"
    assert find(project, f"0004{'a' * 28}").name == "a-5"
    assert find(project, "0004a").name == "a-5"
    assert find(project, "a-1").name == "a-1", "a-1 is a name, although a-10 begins like it"


@pytest.mark.parametrize("text", ["b-1", "", "%", "00", "a-", "____", "x' OR '1'='1"])
def test_run_that_is_not_there_is_said_with_those_that_are(project: Path, text: str) -> None:
    fill(project, "a", 20)
    with pytest.raises(NotFound, match=r"there is no run .*the newest are: "):
        find(project, text)


def test_beginning_that_several_ids_have_is_no_run(project: Path) -> None:
    fill(project, "a", 3)
    store = sqlite3.connect(project / ".rung/mlflow.db")
    with store:
        store.execute("UPDATE runs SET run_uuid = '0001abbb' || substr(run_uuid, 9) WHERE name = 'a-3'")
    store.close()
    with pytest.raises(InvalidInput, match="several runs begin with '0001a'"):
        find(project, "0001a")


def test_project_without_runs(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []
    with pytest.raises(NotFound, match="none yet"):
        find(tmp_path, "a-1")


def test_store_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / ".rung").mkdir()
    (tmp_path / ".rung/mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(InvalidData, match=r"mlflow.db cannot be read as MLflow's store: .* Move it away"):
        list_runs(tmp_path)


def test_runs_that_mlflow_does_not_know_are_read_from_their_folders(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.TrackedRun, "_send", lambda self: self._known.set())
    run = tracking.start(project, "m", RunSpec("m", "m:train", params={"depth": 3}))
    run.log({"loss": 0.5}, 1, 10.0)
    run.log({"loss": 0.25}, 2, 11.0)
    found = find(project, "m-1")
    assert (found.id, found.status, found.params, found.metrics) == ("", "running", {"depth": "3"}, {"loss": 0.25})
    assert [(point.step, point.value) for point in history(project, found)["loss"]] == [(1, 0.5), (2, 0.25)]
    run.finish("failed", "no reason")
    assert list_runs(project, limit=1)[0].status == "failed"
    assert list_runs(project, model="first", limit=1)[0].model == "first"


def test_comparison_has_what_differs_and_all_metrics(project: Path) -> None:
    fill(project, "a", 3)
    made = compare([find(project, name) for name in ("a-1", "a-2")])
    assert made.runs == ("a-1", "a-2")
    assert made.params == {"depth": ("0", "1")}
    assert made.metrics == {"metric000": (0.0, 1.0), "metric001": (0.001, 1.001)}
    assert made.facts == {"dataset": ("d0", "d1")}


def test_what_the_machine_did_is_no_metric_to_compare(project: Path) -> None:
    run = tracking.start(project, "m", RunSpec("m", "m:train"))
    run.log({"loss": 0.5}, 1, 10.0)
    run.log({f"{runs.SYSTEM}cpu": 99.0}, 1, 10.0)
    run.finish("finished")
    found = find(project, run.name)
    assert set(found.metrics) == {"loss", "system/cpu"}
    assert runs.measured(found) == {"loss": 0.5}
    assert set(compare([found, find(project, "first-1")]).metrics) == {"loss"}

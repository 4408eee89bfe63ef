import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rung.cli import app
from rung.domain.errors import ConfigurationError, Conflict, NotFound
from rung.domain.jobs import NewJob
from rung.jobs.queue import JobStore
from rung.store.database import open_database

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`rung jobs ...` in a project's folder with five jobs: done, dead, cancelled with it, waiting, ready."""
    monkeypatch.chdir(tmp_path)
    with open_database("sqlite:.rung/rung.db") as database:
        store = JobStore(database)
        first, second = store.submit_many([NewJob(kind="score", owner="ann"), NewJob(kind="score", max_attempts=1)])
        store.submit(NewJob(kind="report", after=(second,)))
        one, two = store.claim("w", {"score": 0}, batch=2)
        store.complete(one, {"rows": 12})
        store.fail(two, "ValueError: no such column")
        store.submit_many([NewJob(kind="train", key="nuclei"), NewJob(kind="train", key="nuclei")])
        assert (first, second) == (1, 2)

    def invoke(*arguments: str) -> Result:
        result = CliRunner().invoke(app, ["jobs", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result

    return invoke


def test_list(run: Run) -> None:
    lines = run("list").stdout.splitlines()
    assert lines[:3] == ["report: 1 cancelled", "score: 1 done, 1 dead", "train: 1 waiting, 1 ready"]
    table = [line.split() for line in lines[4:]]
    assert table[0] == ["ID", "KIND", "STATE", "TRIES", "AGE", "OWNER", "KEY", "WHAT"]
    assert [row[:3] for row in table[1:]] == [
        ["5", "train", "waiting"],
        ["4", "train", "ready"],
        ["3", "report", "cancelled"],
        ["2", "score", "dead"],
        ["1", "score", "done"],
    ]
    assert lines[-1].endswith('{"rows":12}')
    assert lines[-2].endswith("ValueError: no such column")


def test_list_picks(run: Run) -> None:
    def ids(*arguments: str) -> list[int]:
        return [job["id"] for job in json.loads(run("list", "--json", *arguments).stdout)["jobs"]]

    assert ids("--state", "dead") == [2]
    assert ids("--kind", "train", "--limit", "1") == [5]
    assert ids("--kind", "train", "--before", "5") == [4]
    assert ids("--owner", "ann") == [1]
    assert "none of them is asked for" in run("list", "--state", "leased").stdout
    with pytest.raises(ConfigurationError, match="use one of waiting, scheduled"):
        run("list", "--state", "asleep")


def test_show(run: Run) -> None:
    assert '  result       {"rows":12}' in run("show", "1").stdout
    assert "  reason       ValueError: no such column" in run("show", "2").stdout
    assert "it waited for job 2, which is dead" in run("show", "3").stdout
    assert "it waits for the job before it with the key 'nuclei'" in run("show", "5").stdout
    assert json.loads(run("show", "1", "--json").stdout)["result"] == {"rows": 12}
    with pytest.raises(NotFound, match="there is no job 77"):
        run("show", "77")


def test_cancel_and_retry(run: Run) -> None:
    assert run("retry", "2").stdout == "job 2 is ready\n"
    assert json.loads(run("show", "3", "--json").stdout)["state"] == "waiting"
    assert run("cancel", "4", "5", "--because", "a mistake").stdout == "cancelled job 4\ncancelled job 5\n"
    assert json.loads(run("show", "5", "--json").stdout)["error"] == "a mistake"
    with pytest.raises(Conflict, match="job 4 is cancelled already"):
        run("cancel", "4")
    with pytest.raises(Conflict, match="only dead and cancelled jobs"):
        run("retry", "1")


def test_the_database_is_the_projects(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rung.toml").write_text('[project]\nstore = "sqlite:elsewhere.db"\n')
    with pytest.raises(ConfigurationError, match=r"there is no database elsewhere\.db"):
        run("list")
    open_database("sqlite:elsewhere.db").close()
    assert run("list").stdout == "no jobs in sqlite:elsewhere.db\n"
    assert "score: 1 done" in run("list", "--database", "sqlite:.rung/rung.db").stdout

"""Studies in a real PostgreSQL: shared by processes, and trials of the dead come back."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from rung.domain.studies import Range, StudyPlan
from rung.testing.postgres import serve_postgres
from rung.training.studies import Book

_SCRIPT = Path(__file__).parents[2] / "unit" / "training" / "study_worker.py"
PLAN = StudyPlan("m", {"x": Range(-5.0, 5.0)}, "loss", minimize=True, params={"x": 0.0})


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with serve_postgres() as url:
        yield url


def _worker(folder: Path, at: int, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(_SCRIPT), str(folder), "s", str(at), url], stdout=subprocess.PIPE, text=True
    )


@pytest.mark.nightly
def test_two_folders_share_a_study_and_a_killed_trial_comes_back(tmp_path: Path, postgres: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    book = Book.begin(here, postgres, "s", PLAN)
    book.fill(8)
    process = _worker(here, 2, postgres)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    # Another machine cannot know so soon; this one does.
    other = Book.open(there, postgres, "s")
    assert other.bury() == []
    other.close()
    assert book.bury() == [2]
    workers = [_worker(folder, -1, postgres) for folder in (here, there)]
    for worker in workers:
        worker.communicate(timeout=90)
        assert worker.returncode == 0
    states: list[Any] = [trial.state for trial in book.trials()]
    assert sorted(states) == ["complete"] * 8 + ["lost"]
    assert [trial.retry_of for trial in book.trials() if trial.retry_of is not None] == [2]
    book.close()

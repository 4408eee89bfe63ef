"""Studies: every trial is done once, whoever does it and whoever dies."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("optuna")

from rung.domain.errors import ConfigurationError, NotFound
from rung.domain.studies import Range, StudyPlan, TrialResult, best_of
from rung.training.studies import Book, Failed
from rung.training.study_storage import names

_SCRIPT = Path(__file__).with_name("study_worker.py")
PLAN = StudyPlan("m", {"x": Range(-5.0, 5.0)}, "loss", minimize=True, sampler="random", params={"x": 0.0})


def _square(trial: Any) -> float:
    return float(trial.suggest_float("x", -5, 5) ** 2)


def _worker(folder: Path, waits_at: int = -1, storage: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(_SCRIPT), str(folder), "s", str(waits_at), storage], stdout=subprocess.PIPE, text=True
    )


def _killed(folder: Path, at: int, storage: str = "") -> None:
    """Start a worker and kill it -9 in the middle of trial `at`."""
    process = _worker(folder, at, storage)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()


def _drawn(book: Book) -> dict[int, float]:
    return {trial.number: trial.params["x"] for trial in book.trials()}


def test_two_workers_share_a_study_and_do_each_trial_once(tmp_path: Path) -> None:
    book = Book.begin(tmp_path, "", "s", PLAN)
    book.fill(12)
    workers = [_worker(tmp_path), _worker(tmp_path)]
    for worker in workers:
        worker.communicate(timeout=60)
        assert worker.returncode == 0
    trials = book.trials()
    assert [trial.state for trial in trials] == ["complete"] * 12
    assert len(set(_drawn(book).values())) == 12
    best = best_of(trials, PLAN)
    assert best is not None
    assert best.value == min(trial.value for trial in trials if trial.value is not None)
    # What a trial draws depends on its number, not on who does it.
    alone = Book.begin(tmp_path, "", "alone", PLAN)
    alone.fill(12)
    while alone.work(_square):
        pass
    assert _drawn(alone) == _drawn(book)
    assert names(tmp_path) == ["s", "alone"]


def test_a_trial_whose_worker_was_killed_is_tried_again(tmp_path: Path) -> None:
    book = Book.begin(tmp_path, "", "s", PLAN)
    book.fill(5)
    _killed(tmp_path, 2)
    assert [trial.state for trial in book.trials()] == ["complete", "complete", "running", "waiting", "waiting"]
    assert book.bury() == [2]
    assert book.bury() == []
    while book.work(_square):
        pass
    trials = book.trials()
    assert [trial.state for trial in trials] == ["complete", "complete", "lost", *["complete"] * 3]
    assert trials[5].retry_of == 2
    assert trials[5].params == trials[2].params


def test_a_trial_that_kills_every_worker_fails_in_the_end(tmp_path: Path) -> None:
    book = Book.begin(tmp_path, "", "s", msgspec.structs.replace(PLAN, retries=0))
    book.fill(1)
    _killed(tmp_path, 0)
    assert book.bury() == [0]
    assert not book.waiting()
    (trial,) = book.trials()
    assert (trial.state, trial.reason) == ("failed", "its process died again and again")


def test_a_living_worker_is_left_alone(tmp_path: Path) -> None:
    book = Book.begin(tmp_path, "", "s", PLAN)
    book.fill(2)
    other = Book.open(tmp_path, "", "s")
    other.attend()

    def look(trial: Any) -> float:
        # A process may hold a lock of its own twice; another one may not.
        script = "import sys, pathlib; from rung.training.studies import Book; "
        script += "print(Book.open(pathlib.Path(sys.argv[1]), '', 's').bury())"
        done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"
        return _square(trial)

    assert other.work(look)
    other.close()
    assert [trial.state for trial in book.trials()] == ["complete", "waiting"]


def test_a_study_goes_on_to_the_trials_that_are_left(tmp_path: Path) -> None:
    whole = Book.begin(tmp_path, "", "whole", PLAN)
    whole.fill(8)
    while whole.work(_square):
        pass
    half = Book.begin(tmp_path, "", "half", PLAN)
    half.fill(3)
    while half.work(_square):
        pass
    again = Book.begin(tmp_path, "", "half", PLAN)
    assert again.fill(8) == 8
    assert again.waiting() == 5
    while again.work(_square):
        pass
    assert _drawn(again) == _drawn(whole)


def test_what_fails_is_counted_and_what_is_interrupted_waits_again(tmp_path: Path) -> None:
    book = Book.begin(tmp_path, "", "s", PLAN)
    book.fill(3)

    def fail(trial: Any) -> float:
        raise Failed("the loss was no number")

    def stop(trial: Any) -> float:
        _square(trial)
        raise KeyboardInterrupt

    assert book.work(fail)
    with pytest.raises(KeyboardInterrupt):
        book.work(stop)
    while book.work(_square):
        pass
    trials: list[TrialResult] = book.trials()
    assert [trial.state for trial in trials] == ["failed", "lost", "complete", "complete"]
    assert trials[0].reason == "the loss was no number"
    assert trials[3].params == trials[1].params
    assert trials[3].retry_of is None


def test_a_study_is_not_mixed_with_another(tmp_path: Path) -> None:
    Book.begin(tmp_path, "", "s", PLAN)
    with pytest.raises(ConfigurationError, match="begun with another space"):
        Book.begin(tmp_path, "", "s", msgspec.structs.replace(PLAN, space={"x": Range(0.0, 1.0)}))
    with pytest.raises(NotFound, match="there is no study 't'; there are: s"):
        Book.open(tmp_path, "", "t")
    with pytest.raises(ConfigurationError, match="postgresql://"):
        Book.begin(tmp_path, "sqlite:x.db", "u", PLAN)


def test_importance_says_what_matters(tmp_path: Path) -> None:
    space = {"x": Range(-5.0, 5.0), "y": Range(-5.0, 5.0)}
    book = Book.begin(tmp_path, "", "s", msgspec.structs.replace(PLAN, space=space))
    assert book.importance() == {}
    book.fill(30)
    while book.work(lambda trial: _square(trial) + 0.001 * trial.suggest_float("y", -5, 5)):
        pass
    found = book.importance()
    assert list(found) == ["x", "y"]
    assert found["x"] > 0.7
    assert sum(found.values()) == pytest.approx(1)

"""`rung tune`: workers that do the trials of a study, and the winner that is trained once more and registered."""

import queue
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from rung.domain import errors
from rung.domain.errors import InvalidInput, NotFound, TrainingFailed, WorkerDied
from rung.domain.runs import RunSpec
from rung.domain.studies import StudyPlan, StudyResult, TrialResult, best_of
from rung.processes import Child
from rung.settings.project import ModelSettings, ProjectSettings
from rung.training.crew import log_to
from rung.training.events import Event
from rung.training.run import train_model
from rung.training.search_space import check
from rung.training.session import watch_of
from rung.training.studies import Book
from rung.training.study_storage import names
from rung.training.tuning_worker import DataRead, Task, TrialBegan, TrialEnded, WorkerEvent

__all__ = ["newest", "next_name", "plan_of", "register_winner", "status", "tune"]

_TICK = 0.25
"""Seconds between two looks at whether to stop."""
_HOPELESS = 5
"""Trials that fail before any other has ended well, after which a study ends."""


def plan_of(name: str, model: ModelSettings, params: dict[str, Any]) -> StudyPlan:
    """What the project's file asks for; `params` are those of the model, changed as the command line says.

    Raises:
        ConfigurationError: the space does not fit the parameters.
    """
    tune, watch = model.tune, watch_of(model)
    check(tune.space, params, name)
    return StudyPlan(
        model=name,
        space=tune.space,
        metric=watch.metric,
        minimize=watch.minimize,
        trials=tune.trials,
        sampler=tune.sampler,
        pruner=tune.pruner,
        seed=model.run.seed,
        retries=tune.retries,
        params=params,
    )


def newest(folder: Path, model: str) -> str:
    """The study of a model that was at work last.

    Raises:
        NotFound: there is none.
    """
    for name in reversed(names(folder)):
        with closing(Book.open(folder, "", name)) as book:
            if book.plan.model == model:
                return name
    raise NotFound(f"no study of {model} was begun in this folder: leave out --resume")


def next_name(folder: Path, model: str) -> str:
    """A name for a new study: model and number."""
    there = set(names(folder))
    number = 1
    while f"{model}-study-{number}" in there:
        number += 1
    return f"{model}-study-{number}"


def status(folder: Path, storage: str, study: str) -> StudyResult:
    """Where a study stands, with pictures of it.

    Raises:
        NotFound: there is no such study.
    """
    from rung.training.study_plots import draw

    with closing(Book.open(folder, storage, study)) as book:
        trials = book.trials()
        result = StudyResult(
            study, book.plan, trials, best_of(trials, book.plan), book.importance(), dataset=book.dataset
        )
    return msgspec.structs.replace(result, pictures=[str(path) for path in draw(result, book.folder)])


def tune(
    folder: Path,
    spec: RunSpec,
    plan: StudyPlan,
    *,
    study: str,
    workers: int = 1,
    storage: str = "",
    hear: Callable[[TrialResult], None] = lambda _trial: None,
    stop: Callable[[], bool] = lambda: False,
) -> StudyResult:
    """Do the trials of a study until there are as many as planned, `workers` at once; goes on where it stood.

    `hear` gets every trial as it begins and as it ends. When `stop` says yes, trials under way go back to those
    that wait.

    Raises:
        ConfigurationError: the study was planned otherwise, or trials cannot work as things are set.
        TrainingFailed: trial after trial fails.
    """
    folder = folder.resolve()
    with closing(Book.begin(folder, storage, study, plan)) as book:
        book.bury()
        have = book.fill(plan.trials)
        if have > plan.trials:
            raise InvalidInput(f"study {study} has {have} trials already: give a larger --trials", field="trials")
        _Team(book, Task(str(folder), storage, study, spec), workers, hear).run(stop)
    return status(folder, storage, study)


def register_winner(
    project: ProjectSettings,
    folder: Path,
    spec: RunSpec,
    result: StudyResult,
    *,
    storage: str = "",
    on_event: Callable[[Event], None] = lambda _event: None,
    stop: Callable[[], bool] = lambda: False,
) -> StudyResult:
    """Train once more with the best parameters, on the same data and seed, and register that.

    Acting twice does no harm: while the same trial is the best, its version is told again.

    Raises as `train_model` does, and:
        TrainingFailed: no trial is complete.
    """
    best = result.best
    if best is None:
        raise TrainingFailed(f"no trial of {result.study} is complete, so there is nothing to register")
    with closing(Book.open(folder.resolve(), storage, result.study)) as book:
        number, run_before, version = book.winner
    if number == best.number:
        return msgspec.structs.replace(result, run=run_before, version=version)
    params = {**result.plan.params, **best.params}
    spec = msgspec.structs.replace(spec, params=params, dataset=result.dataset)
    tags = {"rung.study": result.study, "rung.trial": str(best.number), "rung.trial_run": best.run}
    run = train_model(project, folder, spec, on_event=on_event, stop=stop, tags=tags)
    if run.version:
        with closing(Book.open(folder.resolve(), storage, result.study)) as book:
            book.winner = (best.number, run.name, run.version)
    return msgspec.structs.replace(result, run=run.name, version=run.version)


class _Team:
    """The workers of one command."""

    def __init__(self, book: Book, task: Task, workers: int, hear: Callable[[TrialResult], None]) -> None:
        self._book, self._task, self._workers, self._hear = book, task, workers, hear
        self._children: dict[int, Child] = {}
        self._begun: dict[int, int] = {}
        """Worker -> the trial that it is at."""
        self._heard: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._started = 0
        self._error: Exception | None = None

    @property
    def pids(self) -> list[int]:
        """Of the workers that live."""
        return [child.pid for child in self._children.values()]

    def run(self, stop: Callable[[], bool]) -> None:
        """Start workers as long as trials wait; returns when none waits and all workers have ended."""
        asked = False
        try:
            self._start_more()
            while self._children:
                if not asked and (self._error is not None or stop()):
                    asked = True
                    self._ask_to_stop()
                try:
                    worker, heard = self._heard.get(timeout=_TICK)
                except queue.Empty:
                    continue
                self._take(worker, heard)
                if not asked:
                    self._start_more()
        finally:
            for child in self._children.values():
                child.kill()
        if self._error is not None:
            raise self._error

    def _start_more(self) -> None:
        # Until one has read the data, another would read it beside it.
        most = self._workers if self._book.dataset or self._started > 1 else 1
        for _ in range(min(most - len(self._children), self._book.waiting())):
            self._start()

    def _start(self) -> None:
        self._started += 1
        number = self._started
        child = Child("rung.training.tuning_worker", output=log_to(self._book.folder / "workers.log"))
        child.spawn()
        self._children[number] = child
        child.send("task", msgspec.to_builtins(self._task))
        threading.Thread(target=self._listen, args=(number, child), daemon=True).start()

    def _listen(self, number: int, child: Child) -> None:
        try:
            while True:
                message = child.receive()
                self._heard.put((number, message))
                if message.kind != "event":
                    return
        except WorkerDied as error:
            self._heard.put((number, error))

    def _take(self, worker: int, heard: Any) -> None:
        if isinstance(heard, WorkerDied):
            self._children.pop(worker).kill()
            self._book.bury()
            if worker not in self._begun:
                self._error = self._error or TrainingFailed(f"a worker died before its first trial: {heard}")
            return
        if heard.kind == "failed":
            kind = getattr(errors, heard.detail["kind"], TrainingFailed)
            self._error = self._error or kind(heard.detail["text"])
        if heard.kind != "event":
            self._children.pop(worker).terminate()
            return
        event: WorkerEvent = msgspec.convert(heard.detail, WorkerEvent)
        if isinstance(event, TrialBegan):
            self._begun[worker] = event.number
        if isinstance(event, DataRead):
            return
        trials = self._book.trials()
        self._hear(next(trial for trial in trials if trial.number == event.number))
        if isinstance(event, TrialEnded):
            self._give_up_on(trials)

    def _give_up_on(self, trials: list[TrialResult]) -> None:
        failed = [trial for trial in trials if trial.state == "failed"]
        if len(failed) >= _HOPELESS and not any(trial.state in ("complete", "pruned") for trial in trials):
            self._error = self._error or TrainingFailed(
                f"the first {len(failed)} trials failed, the last one so: {failed[-1].reason}"
            )

    def _ask_to_stop(self) -> None:
        for child in self._children.values():
            try:
                child.send("stop")
            except WorkerDied:
                continue

"""The process that does trials: `python -m rung.training.tuning_worker`, started by `training.tuning`.

It takes one waiting trial of the study after another, and each becomes a run. It ends when none waits.
"""

import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from rung.channel import Channel
from rung.domain.errors import BundleError, ConfigurationError, MissingDependency, RungError, TrainingFailed
from rung.domain.runs import RunSpec
from rung.processes import attach
from rung.settings.file import load_project
from rung.settings.project import ProjectSettings
from rung.training.events import Event, Ready, Reported, Started
from rung.training.run import train_model
from rung.training.search_space import draw

__all__ = ["DataRead", "Task", "TrialBegan", "TrialEnded", "WorkerEvent", "main"]


class Task(msgspec.Struct, frozen=True):
    """What one worker is to do."""

    project: str
    """Folder of the project."""
    storage: str
    study: str
    spec: RunSpec
    """That all trials share; each changes the parameters of the space."""


class TrialBegan(msgspec.Struct, frozen=True, tag=True):
    """A trial has a run that reads its data."""

    number: int
    run: str


class DataRead(msgspec.Struct, frozen=True, tag=True):
    """All trials see this dataset version."""

    digest: str


class TrialEnded(msgspec.Struct, frozen=True, tag=True):
    """A trial is complete, pruned or failed."""

    number: int


WorkerEvent = TrialBegan | DataRead | TrialEnded


class _Worker:
    def __init__(self, task: Task, channel: Channel) -> None:
        # Optuna takes half a second to load; whoever only reads these classes needs none of it.
        from rung.training.studies import Book

        self._task, self._channel = task, channel
        self._folder = Path(task.project)
        self._project: ProjectSettings = load_project(self._folder)
        self._book = Book.open(self._folder, task.storage, task.study)
        self._asked = threading.Event()
        self._number = -1

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        self._book.attend()
        try:
            while not self._asked.is_set() and self._book.work(self._trial):
                self._tell(TrialEnded(self._number))
        except _Asked:
            return
        finally:
            self._book.close()

    def _listen(self) -> None:
        try:
            while self._channel.receive().kind != "stop":
                pass
        except (EOFError, OSError, ValueError):
            pass
        self._asked.set()

    def _tell(self, event: WorkerEvent) -> None:
        self._channel.send("event", msgspec.to_builtins(event))

    def _trial(self, trial: Any) -> float:
        """One trial as a run; returns the metric that counts."""
        from optuna import TrialPruned

        from rung.training.studies import Failed

        self._number = trial.number
        plan, spec = self._book.plan, self._task.spec
        params = draw(trial, plan.space, plan.params)
        watch = _Watch(self, trial)
        tags = {"rung.study": self._book.name, "rung.trial": str(trial.number)}
        # Whatever was read first is read by all.
        spec = msgspec.structs.replace(spec, params=params, register=False, dataset=self._book.dataset or spec.dataset)
        try:
            result = train_model(self._project, self._folder, spec, on_event=watch.hear, stop=watch.over, tags=tags)
        except (ConfigurationError, MissingDependency):
            raise
        except (BundleError, TrainingFailed) as error:
            raise Failed(str(error)) from None
        if result.ended == "stopped":
            raise TrialPruned if watch.pruned else _Asked
        if plan.metric not in result.metrics:
            there = ", ".join(sorted({*watch.names, *result.metrics})) or "nothing"
            raise ConfigurationError(
                f"train reports {there}, and not {plan.metric!r}, by which trials are compared: call "
                f"ctx.report({plan.metric}=...), or set metric in [models.{plan.model}]"
            )
        return result.metrics[plan.metric]


class _Asked(Exception):
    """Somebody asked the worker to end."""


class _Watch:
    """Hears what a run reports, and says when it is not worth going on."""

    def __init__(self, worker: _Worker, trial: Any) -> None:
        self._worker, self._trial = worker, trial
        self._metric = worker._book.plan.metric
        self._reports = 0
        self.names: set[str] = set()
        """Of the metrics that it reports."""
        self.pruned = False

    def hear(self, event: Event) -> None:
        if isinstance(event, Started):
            self._worker._book.note_run(self._trial, event.name)
            self._worker._tell(TrialBegan(self._trial.number, event.name))
        elif isinstance(event, Ready):
            if not self._worker._book.dataset:
                self._worker._book.dataset = event.dataset
            self._worker._tell(DataRead(event.dataset))
        elif isinstance(event, Reported):
            self.names.update(event.metrics)
            self._weigh(event)

    def over(self) -> bool:
        """Whether to end: it is worse than others were, or somebody asked."""
        return self.pruned or self._worker._asked.is_set()

    def _weigh(self, event: Reported) -> None:
        if self._metric in event.metrics and not self.pruned:
            # Pruners compare trials at equal reports; steps differ where batch sizes do.
            self._reports += 1
            self._trial.report(event.metrics[self._metric], self._reports)
            self.pruned = self._trial.should_prune()


def main() -> int:
    """Do trials, as the first message says."""
    channel = attach()
    task = msgspec.convert(channel.receive().detail, Task)
    try:
        _Worker(task, channel).run()
    except RungError as error:
        channel.send("failed", {"kind": type(error).__name__, "text": str(error)})
    else:
        channel.send("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())

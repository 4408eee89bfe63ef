"""Brings the journals of runs into MLflow's SQL store. Only this file imports MLflow for that, and only in a thread.

Two processes that make MLflow's tables at once leave a store that can never be used again, and so does one that is
killed meanwhile. So they are made under a lock, in another file, which takes its place when it is complete.
"""

import fcntl
import os
import re
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from rung.training.journal import JOURNAL, STORE, Entry, State, alive, entries, mend, read_state, write_state

__all__ = ["ARTIFACTS", "Sender", "quiet"]


ARTIFACTS = ".rung/artifacts"
_LOCK = ".rung/mlflow.lock"
_IMPORT = threading.Lock()
"""Two threads that import one package at once may see half of it."""
_FORBIDDEN = re.compile(r"[^\w\-. /:]|^[/.]+|/(?=/)|[/.]+$")
"""What MLflow takes in no name."""
_BATCH, _FEW = 800, 100
"""Metrics, and parameters or tags, in one batch: MLflow takes 1,000 of all, and 100 of each of the latter."""


class Sender:
    """MLflow's client on the store of one project."""

    def __init__(self, project: Path) -> None:
        # Before the import, which reads them: nothing phones home.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        quiet()
        with _IMPORT:
            from mlflow.tracking import MlflowClient

        self._project, store = project, project / STORE
        self._locked = False
        store.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            if not store.exists():
                draft = store.with_name(f".{store.name}.draft")
                draft.unlink(missing_ok=True)
                MlflowClient(f"sqlite:///{draft}").search_experiments(max_results=1)
                draft.replace(store)
            self._client = MlflowClient(f"sqlite:///{store}")
            self._client.search_experiments(max_results=1)
        self._artifacts = (project / ARTIFACTS).as_uri()
        self._experiments: dict[str, str] = {}

    def bring_leftovers(self, runs: Path, own: Path) -> None:
        """Send what runs whose process is gone did not send, and close them."""
        with self._alone():
            for folder in sorted(runs.iterdir()):
                state = read_state(folder)
                if folder != own and state is not None and not alive(state):
                    self._bring(folder, state)

    def send(self, folder: Path, state: State) -> None:
        """Send what is new in a run's journal; `state` says how far it got, and is written down."""
        new, size = entries(folder / JOURNAL, state.sent)
        if not size:
            return
        if not state.id:
            state.id = self._made(folder.name, state.model, int(new[0].at * 1000) if new else int(time.time() * 1000))
            write_state(folder, state)
        self._entries(state.id, new)
        state.sent += size
        write_state(folder, state)

    def _bring(self, folder: Path, state: State) -> None:
        path = folder / JOURNAL
        if not path.exists():
            return
        if not state.ended:
            mend(path)
            last = path.stat().st_mtime
            tags = {"rung.ended": "killed", "rung.reason": "its process was ended"}
            with path.open("ab") as journal:
                journal.write(msgspec.json.encode(Entry("tags", last, tags)) + b"\n")
                journal.write(msgspec.json.encode(Entry("finish", last, {"status": "KILLED"})) + b"\n")
            state.ended = "killed"
            write_state(folder, state)
        elif state.sent >= path.stat().st_size:
            return
        self.send(folder, state)

    def _made(self, name: str, model: str, began: int) -> str:
        """The id of the run: it may have been made by a process that was killed before it wrote that down."""
        experiment = self._experiment(model)
        found = self._client.search_runs([experiment], f"tags.`rung.run` = '{name}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        return str(self._client.create_run(experiment, began, {"rung.run": name}, run_name=name).info.run_id)

    def _entries(self, run: str, new: list[Entry]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics: list[Metric] = []
        params: dict[str, str] = {}
        tags: dict[str, str] = {}
        for entry in new:
            if entry.kind == "metrics":
                at = int(entry.at * 1000)
                metrics += [Metric(_named(name), float(v), at, entry.step) for name, v in entry.values.items()]
            elif entry.kind == "params":
                params |= {_named(name): str(value)[:6000] for name, value in entry.values.items()}
            elif entry.kind == "tags":
                tags |= {_named(name): str(value)[:8000] for name, value in entry.values.items()}
            elif entry.kind == "artifact" and Path(entry.values["path"]).exists():
                self._client.log_artifact(run, entry.values["path"])
            elif entry.kind == "again":
                self._client.update_run(run, "RUNNING")
        many = [Param(name, value) for name, value in params.items()]
        words = [RunTag(name, value) for name, value in tags.items()]
        while metrics or many or words:
            # A batch is one transaction.
            self._client.log_batch(run, metrics[:_BATCH], many[:_FEW], words[:_FEW])
            metrics, many, words = metrics[_BATCH:], many[_FEW:], words[_FEW:]
        if new and new[-1].kind == "finish":
            self._client.set_terminated(run, new[-1].values["status"], int(new[-1].at * 1000))

    def _experiment(self, model: str) -> str:
        if model not in self._experiments:
            with self._alone():
                found = self._client.get_experiment_by_name(model)
                self._experiments[model] = str(
                    found.experiment_id
                    if found
                    else self._client.create_experiment(model, f"{self._artifacts}/{model}")
                )
        return self._experiments[model]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the project's store; one thread of one process has it."""
        if self._locked:
            yield
            return
        with (self._project / _LOCK).open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._locked = True
            try:
                yield
            finally:
                self._locked = False


def quiet() -> None:
    """Hide what MLflow and its libraries say about each other, which nobody else can mend."""
    warnings.filterwarnings("ignore", module=r"(mlflow|alembic)\b")
    warnings.filterwarnings("ignore", message=r"The ``noload`` loader strategy")


def _named(name: str) -> str:
    return _FORBIDDEN.sub("_", name)[:250] or "_"

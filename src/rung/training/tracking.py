"""The record of a run: in MLflow's SQL store in the project, and in the run's folder.

    .rung/mlflow.db               MLflow's own SQLite file; `mlflow ui` opens it
    .rung/runs/NAME/              one run: spec.json, events.jsonl, output.log, checkpoints, model
    .rung/artifacts/              what MLflow holds of each run

Importing MLflow and making its tables takes seconds, so a thread does it while training starts. Whatever is recorded
is first appended to `events.jsonl`, which a killed process leaves behind whole; the next run of the project brings
what such a run did not send.
"""

import importlib.util
import os
import threading
import time
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec
import psutil

from rung.domain.errors import Conflict, MissingDependency, NotFound
from rung.domain.names import check_name
from rung.domain.runs import Ended, RunSpec
from rung.training.journal import JOURNAL, STORE, Entry, State, alive, entries, mend, numbers, read_state, write_state

__all__ = ["TrackedRun", "folder_of", "resume", "standing", "start", "unsent"]

_RUNS = ".rung/runs"
_FLUSH_SECONDS = 0.5
_PATIENCE = 120.0
"""Seconds that closing a run waits for MLflow."""
_RETRIES = 4
"""Times in a row that sending may fail."""
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "killed": "KILLED"}


class TrackedRun:
    """A run that is being recorded. No method waits for MLflow, except `id` and `finish`.

    Attributes:
        name: model and number, such as `nuclei-3`.
        folder: of the run.
        since: when it began, also where it goes on now, in seconds since the epoch.
        problem: why MLflow does not have all of it; empty where it has, or is still being sent.
    """

    def __init__(self, project: Path, model: str, name: str) -> None:
        project = project.absolute()  # MLflow writes addresses, which have no relative form
        self.name, self.folder = name, project / _RUNS / name
        self._project, self._model = project, model
        self._lock = threading.Lock()
        mend(self.folder / JOURNAL)
        self._journal: IO[bytes] | None = (self.folder / JOURNAL).open("ab")
        self.since = _began(self.folder)
        self._ended = threading.Event()
        self._known = threading.Event()
        self.problem = ""
        self._state = read_state(self.folder) or State(model)
        self._state.pid, self._state.began = os.getpid(), psutil.Process().create_time()
        self._state.ended = ""
        write_state(self.folder, self._state)
        self._thread = threading.Thread(target=self._send, name=f"record {name}", daemon=True)
        self._thread.start()

    @property
    def id(self) -> str:
        """MLflow's id of the run, 32 hexadecimal digits; waits until there is one, and is empty if MLflow fails."""
        self._known.wait(_PATIENCE)
        return self._state.id

    def params(self, values: Mapping[str, Any]) -> None:
        """Record what was asked for."""
        self._write(Entry("params", time.time(), {name: str(value) for name, value in values.items()}))

    def tags(self, values: Mapping[str, str]) -> None:
        """Record what it is."""
        self._write(Entry("tags", time.time(), dict(values)))

    def log(self, metrics: Mapping[str, float], step: int, at: float) -> None:
        """Record metrics of a step; `at` is the time in seconds since the epoch."""
        self._write(Entry("metrics", at, numbers(metrics), step))

    def artifact(self, path: Path) -> None:
        """Keep a file, which must not change any more, among the run's artifacts."""
        self._write(Entry("artifact", time.time(), {"path": str(path.resolve())}))

    def finish(self, ended: Ended, reason: str = "") -> None:
        """Close the record. What MLflow did not take in time is sent by the next run."""
        if self._journal is None:
            return
        if reason:
            self.tags({"rung.reason": reason[:4000]})
        self.tags({"rung.ended": ended})
        self._write(Entry("finish", time.time(), {"status": _STATUS[ended]}))
        with self._lock:
            self._journal.close()
            self._journal = None
            self._state.ended = ended
            write_state(self.folder, self._state)
        self._ended.set()
        self._thread.join(_PATIENCE)

    def _write(self, entry: Entry) -> None:
        with self._lock:
            if self._journal is not None:
                self._journal.write(msgspec.json.encode(entry) + b"\n")
                self._journal.flush()

    def again(self) -> None:
        """Open the record again: what it said about how the run ended no longer holds."""
        self._write(Entry("again", time.time()))
        self.tags({"rung.ended": "", "rung.reason": ""})

    def _send(self) -> None:
        try:
            from rung.training.mlflow_store import Sender, quiet

            sender: Sender | None = None
            failures = 0
            while True:
                # Looked at before sending: what is written until then is sent by this turn.
                last = self._ended.is_set()
                try:
                    if sender is None:
                        sender = Sender(self._project)
                        sender.bring_leftovers(self._project / _RUNS, self.folder)
                    quiet()
                    self._send_once(sender)
                    failures = 0
                except Exception:  # Busy, or locked by another process: so much can pass.
                    failures += 1
                    if failures > _RETRIES:
                        raise
                    time.sleep(_FLUSH_SECONDS * failures)
                    continue
                if last:
                    return
                self._ended.wait(_FLUSH_SECONDS)
        except Exception as error:  # noqa: BLE001 - training does not end because its record fails
            self._fail(error)
        finally:
            self._known.set()

    def _send_once(self, sender: Any) -> None:
        # A copy: `finish` writes this one at the same time.
        state = msgspec.structs.replace(self._state)
        sender.send(self.folder, state)
        with self._lock:
            self._state.id, self._state.sent = state.id, state.sent
            write_state(self.folder, self._state)
        self._known.set()

    def _fail(self, error: Exception) -> None:
        reason = " ".join(str(error).split())[:300]
        self.problem = (
            f"MLflow's store {self._project / STORE} does not take the record of {self.name} "
            f"({type(error).__name__}: {reason}); it is kept in {self.folder / JOURNAL}, and the next run sends it"
        )
        with suppress(OSError):
            (self.folder / "tracking-error.txt").write_text(f"{self.problem}\n")


def start(folder: Path, model: str, spec: RunSpec) -> TrackedRun:
    """Begin the record of a new run of the project in `folder`.

    Raises:
        MissingDependency: MLflow's client is not installed.
    """
    _need_mlflow()
    check_name(model)
    run = TrackedRun(folder, model, _claim(folder / _RUNS, model))
    run.params(spec.params)
    run.tags(
        {
            "rung.model": model,
            "rung.train": spec.train,
            "rung.seed": str(spec.seed),
            "rung.workers": str(spec.workers),
            "rung.smoke": str(spec.smoke),
        }
    )
    return run


def resume(folder: Path, run: str) -> TrackedRun:
    """Go on with the record of a run.

    Raises:
        NotFound: there is no such run.
        Conflict: it is finished, or goes on in a process that lives.
    """
    _need_mlflow()
    state = read_state(folder / _RUNS / run) if run and "/" not in run else None
    if state is None:
        raise NotFound(f"there is no run {run!r} in {folder / _RUNS}; rung runs list shows all")
    if state.ended == "finished":
        raise Conflict(f"run {run} is finished, there is nothing to go on with; rung train starts a new one")
    if alive(state) and not state.ended:
        raise Conflict(f"run {run} is running in process {state.pid}; end that first")
    tracked = TrackedRun(folder, state.model, run)
    tracked.again()
    return tracked


def folder_of(project: Path, run: str) -> Path:
    """The folder of a run, by its name."""
    return project / _RUNS / run


def standing(project: Path, run: str, ended: str, status: str) -> str:
    """How a run stands, by its folder: `killed` where its process is gone without having said how it ended.

    MLflow, which hears of an end and of going on again a moment later, is asked only where the folder is gone; it says
    `ended` and its own `status`.
    """
    state = read_state(folder_of(project, run))
    if state is not None:
        return state.ended or ("running" if alive(state) else "killed")
    return ended or {"FINISHED": "finished", "FAILED": "failed", "RUNNING": "running"}.get(status, "killed")


def unsent(project: Path, known: AbstractSet[str]) -> Iterator[tuple[str, State, list[Entry]]]:
    """Runs that MLflow has not heard of yet, because they have just begun or its store fails; not those `known`."""
    runs = project / _RUNS
    for path in sorted(runs.iterdir()) if runs.exists() else ():
        if path.name not in known and (state := read_state(path)) is not None and (path / JOURNAL).exists():
            yield path.name, state, entries(path / JOURNAL)[0]


def _need_mlflow() -> None:
    if importlib.util.find_spec("mlflow") is None:
        raise MissingDependency("runs are recorded by MLflow's client: pip install 'rung[tracking]'")


def _claim(runs: Path, model: str) -> str:
    """A name that nobody has: the folder is made here, by one process only."""
    runs.mkdir(parents=True, exist_ok=True)
    numbers = [int(tail) for path in runs.glob(f"{model}-*") if (tail := path.name[len(model) + 1 :]).isdecimal()]
    number = max(numbers, default=0) + 1
    while True:
        try:
            (runs / f"{model}-{number}").mkdir()
        except FileExistsError:
            number += 1
            continue
        return f"{model}-{number}"


def _began(folder: Path) -> float:
    with (folder / JOURNAL).open("rb") as journal:
        line = journal.readline()
    return msgspec.json.decode(line, type=Entry).at if line.endswith(b"\n") else time.time()

"""The record of a run: in MLflow's SQL store in the project, and in the run's folder. Only this file imports MLflow.

    .rung/mlflow.db               MLflow's own SQLite file; `mlflow ui` opens it
    .rung/runs/NAME/              one run: spec.json, events.jsonl, output.log, checkpoints, model
    .rung/artifacts/              what MLflow holds of each run

Importing MLflow and making its tables takes seconds, so a thread does it while training starts. Whatever is recorded
is first appended to `events.jsonl`, which a killed process leaves behind whole; the next run of the project brings
what such a run did not send.
"""

import importlib.util
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import msgspec
import psutil

from rung.domain.errors import MissingDependency, NotFound
from rung.domain.names import check_name
from rung.domain.runs import Ended, RunSpec

__all__ = ["STORE", "TrackedRun", "folder_of", "resume", "standing", "start"]

STORE = ".rung/mlflow.db"
_RUNS, _ARTIFACTS = ".rung/runs", ".rung/artifacts"
_JOURNAL, _STATE = "events.jsonl", "state.json"
_FLUSH_SECONDS = 0.5
_PATIENCE = 120.0
"""Seconds that closing a run waits for MLflow."""
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "killed": "KILLED"}


class _Entry(msgspec.Struct, omit_defaults=True):
    """A line of the journal."""

    kind: Literal["params", "tags", "metrics", "artifact", "finish"]
    at: float
    values: dict[str, Any] = {}
    step: int = 0
    to: str = ""


class _State(msgspec.Struct):
    """How far the journal has been sent, and who writes it."""

    model: str
    id: str = ""
    """MLflow's; empty before it has one."""
    sent: int = 0
    """Bytes of the journal that MLflow has."""
    pid: int = 0
    began: float = 0.0
    """When the process of that number began: numbers come back."""
    ended: str = ""


class TrackedRun:
    """A run that is being recorded. No method waits for MLflow, except `id` and `finish`.

    Attributes:
        name: model and number, such as `nuclei-3`.
        folder: of the run.
        commit: of the project's code, with `+` where files differ from it; empty outside git.
    """

    def __init__(self, project: Path, model: str, name: str) -> None:
        self.name, self.folder = name, project / _RUNS / name
        self.commit = _commit(project)
        self._project, self._model = project, model
        self._lock = threading.Lock()
        self._journal: IO[bytes] | None = (self.folder / _JOURNAL).open("ab")
        self._ended = threading.Event()
        self._known = threading.Event()
        self._error: BaseException | None = None
        self._state = _read_state(self.folder) or _State(model)
        self._state.pid, self._state.began = os.getpid(), psutil.Process().create_time()
        self._state.ended = ""
        _write_state(self.folder, self._state)
        self._thread = threading.Thread(target=self._send, name=f"record {name}", daemon=True)
        self._thread.start()

    @property
    def id(self) -> str:
        """MLflow's id of the run, 32 hexadecimal digits; waits until there is one, and is empty if MLflow fails."""
        self._known.wait(_PATIENCE)
        return self._state.id

    def params(self, values: Mapping[str, Any]) -> None:
        """Record what was asked for."""
        self._write(_Entry("params", time.time(), {name: str(value) for name, value in values.items()}))

    def tags(self, values: Mapping[str, str]) -> None:
        """Record what it is."""
        self._write(_Entry("tags", time.time(), dict(values)))

    def log(self, metrics: Mapping[str, float], step: int, at: float) -> None:
        """Record metrics of a step; `at` is the time in seconds since the epoch."""
        self._write(_Entry("metrics", at, dict(metrics), step))

    def artifact(self, path: Path, to: str = "") -> None:
        """Keep a file, which must not change any more, in the folder `to` of the run's artifacts."""
        self._write(_Entry("artifact", time.time(), {"path": str(path.resolve())}, to=to))

    def finish(self, ended: Ended, reason: str = "") -> None:
        """Close the record. What MLflow did not take in time is sent by the next run."""
        if self._journal is None:
            return
        if reason:
            self.tags({"rung.reason": reason[:4000]})
        self.tags({"rung.ended": ended})
        self._write(_Entry("finish", time.time(), {"status": _STATUS[ended]}))
        with self._lock:
            self._journal.close()
            self._journal = None
            self._state.ended = ended
            _write_state(self.folder, self._state)
        self._ended.set()
        self._thread.join(_PATIENCE)

    def _write(self, entry: _Entry) -> None:
        with self._lock:
            if self._journal is not None:
                self._journal.write(msgspec.json.encode(entry) + b"\n")
                self._journal.flush()

    def _send(self) -> None:
        try:
            sender = _Sender(self._project)
            sender.bring_leftovers(self._project / _RUNS, self.folder)
            last = False
            while True:
                # Looked at before sending: what is written until then is sent by this turn.
                last = self._ended.is_set()
                with self._lock:
                    state = self._state
                sender.send(self.folder, self.name, state)
                with self._lock:
                    _write_state(self.folder, state)
                self._known.set()
                if last:
                    return
                self._ended.wait(_FLUSH_SECONDS)
        except Exception as error:  # noqa: BLE001 - training does not end because its record fails
            self._error = error
            (self.folder / "tracking-error.txt").write_text(f"{type(error).__name__}: {error}\n")
        finally:
            self._known.set()


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
            "rung.commit": run.commit,
        }
    )
    return run


def resume(folder: Path, run: str) -> TrackedRun:
    """Go on with the record of a run.

    Raises:
        NotFound: there is no such run.
    """
    _need_mlflow()
    state = _read_state(folder / _RUNS / run) if run and "/" not in run else None
    if state is None:
        raise NotFound(f"there is no run {run!r} in {folder / _RUNS}; rung runs list shows all")
    return TrackedRun(folder, state.model, run)


def folder_of(project: Path, run: str) -> Path:
    """The folder of a run, by its name."""
    return project / _RUNS / run


def standing(project: Path, run: str, ended: str, status: str) -> str:
    """How a run stands: what its record says, or `killed` where its process is gone without having said so."""
    if ended:
        return ended
    state = _read_state(folder_of(project, run))
    if state is None:
        return {"FINISHED": "finished", "FAILED": "failed", "RUNNING": "running"}.get(status, "killed")
    return state.ended or ("running" if _alive(state) else "killed")


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


class _Sender:
    """Brings journals into MLflow's store."""

    def __init__(self, project: Path) -> None:
        # Before the import, which reads them: nothing phones home.
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(f"sqlite:///{project / STORE}")
        self._artifacts = (project / _ARTIFACTS).as_uri()
        self._experiments: dict[str, str] = {}

    def bring_leftovers(self, runs: Path, own: Path) -> None:
        """Send what runs whose process is gone did not send, and close them."""
        for folder in sorted(runs.iterdir()):
            state = _read_state(folder)
            if folder == own or state is None or _alive(state):
                continue
            if not state.ended:
                with (folder / _JOURNAL).open("ab") as journal:
                    last = time.time()
                    tags = {"rung.ended": "killed", "rung.reason": "its process was ended"}
                    journal.write(msgspec.json.encode(_Entry("tags", last, tags)) + b"\n")
                    journal.write(msgspec.json.encode(_Entry("finish", last, {"status": "KILLED"})) + b"\n")
                state.ended = "killed"
            elif state.sent >= (folder / _JOURNAL).stat().st_size:
                continue
            self.send(folder, folder.name, state)
            _write_state(folder, state)

    def send(self, folder: Path, name: str, state: _State) -> None:
        """Send what is new in a run's journal; `state` says how far it got."""
        with (folder / _JOURNAL).open("rb") as journal:
            journal.seek(state.sent)
            content = journal.read()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole:
            return
        entries = [msgspec.json.decode(line, type=_Entry) for line in whole.splitlines()]
        if not state.id:
            began, tags = int(entries[0].at * 1000), {"rung.run": name}
            experiment = self._experiment(state.model)
            state.id = self._client.create_run(experiment, began, tags, run_name=name).info.run_id
        self._entries(state.id, entries)
        state.sent += len(whole)

    def _entries(self, run: str, entries: list[_Entry]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics, params, tags = [], [], []
        for entry in entries:
            if entry.kind == "metrics":
                at = int(entry.at * 1000)
                metrics += [Metric(name, value, at, entry.step) for name, value in entry.values.items()]
            elif entry.kind == "params":
                params += [Param(name, str(value)[:6000]) for name, value in entry.values.items()]
            elif entry.kind == "tags":
                tags += [RunTag(name, str(value)[:8000]) for name, value in entry.values.items()]
            elif entry.kind == "artifact" and Path(entry.values["path"]).exists():
                self._client.log_artifact(run, entry.values["path"], entry.to or None)
        for begin in range(0, max(len(metrics), 1), 1000):
            # A batch is one transaction.
            self._client.log_batch(run, metrics[begin : begin + 1000], params[:100], tags[:100])
            params, tags = params[100:], tags[100:]
        while params or tags:
            self._client.log_batch(run, [], params[:100], tags[:100])
            params, tags = params[100:], tags[100:]
        status = [entry.values["status"] for entry in entries if entry.kind == "finish"]
        if status:
            self._client.set_terminated(run, status[-1], int(entries[-1].at * 1000))
        elif any(entry.kind == "metrics" for entry in entries):
            self._client.update_run(run, "RUNNING")

    def _experiment(self, model: str) -> str:
        if model not in self._experiments:
            found = self._client.get_experiment_by_name(model)
            self._experiments[model] = (
                found.experiment_id if found else self._client.create_experiment(model, f"{self._artifacts}/{model}")
            )
        return self._experiments[model]


def _read_state(folder: Path) -> _State | None:
    try:
        return msgspec.json.decode((folder / _STATE).read_bytes(), type=_State)
    except (OSError, msgspec.MsgspecError):
        return None


def _write_state(folder: Path, state: _State) -> None:
    draft = folder / f".{_STATE}.{threading.get_ident()}"
    draft.write_bytes(msgspec.json.encode(state))
    draft.replace(folder / _STATE)


def _alive(state: _State) -> bool:
    try:
        return bool(abs(psutil.Process(state.pid).create_time() - state.began) < 1)
    except psutil.NoSuchProcess:
        return False


def _commit(folder: Path) -> str:
    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "HEAD")
        return f"{commit}+" if commit and git("status", "--porcelain", "--", ".") else commit
    except (OSError, subprocess.TimeoutExpired):
        return ""

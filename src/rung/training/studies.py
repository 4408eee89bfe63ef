"""Studies: which trials wait, which were done, and whose worker died.

The trials of a study wait in a queue from its beginning, so that any number of workers, of one command or of several,
do each of them once. A trial whose worker was killed goes back into the queue. On one machine a worker holds a lock on
a file of its own for as long as it lives, which the kernel takes back however it ends; to other machines, that share a
study in PostgreSQL, a heartbeat says that it lives.
"""

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from rung.domain.errors import ConfigurationError, MissingDependency, NotFound
from rung.domain.names import check_name
from rung.domain.studies import State, StudyPlan, TrialResult
from rung.training.samplers import pruner_for, sampler_for
from rung.training.study_storage import FOLDER, close, experimental, journal_of, locked, names, open_storage

try:
    import optuna
except ImportError:
    raise MissingDependency("rung tune needs Optuna: pip install 'rung[tune]'") from None

__all__ = ["Book", "Failed"]

_PLAN, _SLOT, _WORKER, _RUN, _REASON, _DATASET, _WINNER = (
    f"rung.{name}" for name in ("plan", "slot", "worker", "run", "reason", "dataset", "winner")
)
"""Names of attributes that Optuna keeps for us."""
_STATES: dict[str, State] = {
    "COMPLETE": "complete",
    "PRUNED": "pruned",
    "FAIL": "failed",
    "RUNNING": "running",
    "WAITING": "waiting",
}

optuna.logging.set_verbosity(optuna.logging.ERROR)


class Failed(Exception):
    """A trial came to nothing, for the reason that this says; others may still."""


class _Surplus(Exception):
    """A trial that nobody asked for."""


class Book:
    """One study, and the folder beside it on this machine. `close` it.

    Attributes:
        study: Optuna's.
        plan: what it does.
        name: what it is called.
        folder: where its pictures and locks lie.
    """

    def __init__(self, study: Any, plan: StudyPlan, folder: Path, kept: Any, *, shared: bool) -> None:
        self.study, self.plan, self.name, self.folder = study, plan, folder.name, folder
        self._kept, self._shared = kept, shared
        self._lock: int | None = None
        self._mine = ""

    @classmethod
    def begin(cls, project: Path, storage: str, name: str, plan: StudyPlan) -> "Book":
        """A new study, or the one of that name if it was planned alike.

        Raises:
            ConfigurationError: it was planned otherwise, or the storage cannot be used.
        """
        check_name(name)
        direction: Literal["minimize", "maximize"] = "minimize" if plan.minimize else "maximize"
        folder = project / FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        kept = open_storage(project, storage, name, _retry)
        with locked(folder / "claim.lock"):
            study = optuna.create_study(storage=kept, study_name=name, direction=direction, load_if_exists=True)
            known = study.user_attrs.get(_PLAN)
            if known is None:
                study.set_user_attr(_PLAN, msgspec.json.encode(plan).decode())
        try:
            if known is not None:
                _same(msgspec.json.decode(known, type=StudyPlan), plan, name)
        except ConfigurationError:
            close(kept)
            raise
        return cls._of(study, folder, kept, shared=bool(storage))

    @classmethod
    def open(cls, project: Path, storage: str, name: str) -> "Book":
        """A study that there is.

        Raises:
            NotFound: there is none of that name.
            ConfigurationError: the storage cannot be used.
        """
        if not storage and not journal_of(project, name).exists():
            there = ", ".join(names(project)) or "none"
            raise NotFound(f"there is no study {name!r}; there are: {there}")
        folder = project / FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        kept = open_storage(project, storage, name, _retry)
        try:
            study = optuna.load_study(storage=kept, study_name=name)
        except KeyError:
            close(kept)
            raise NotFound(f"there is no study {name!r} in this storage") from None
        return cls._of(study, folder, kept, shared=bool(storage))

    @classmethod
    def _of(cls, study: Any, folder: Path, kept: Any, *, shared: bool) -> "Book":
        plan = msgspec.json.decode(study.user_attrs[_PLAN], type=StudyPlan)
        # What the study was begun with counts, whatever the project's file says now.
        study.sampler, study.pruner = sampler_for(plan.sampler, plan.seed), pruner_for(plan.pruner)
        return cls(study, plan, folder, kept, shared=shared)

    def close(self) -> None:
        """Part from it. Twice is no error."""
        if self._lock is not None:
            with suppress(FileNotFoundError):
                (self.folder / self._mine).unlink()
            os.close(self._lock)
            self._lock = None
        close(self._kept)

    # --- the queue --------------------------------------------------------------------------------

    def fill(self, trials: int) -> int:
        """Let so many trials wait that there are `trials` in all; says how many those are now."""
        with locked(self.folder / "claim.lock"):
            slots = {trial.user_attrs[_SLOT] for trial in self.study.get_trials(deepcopy=False) if _ours(trial)}
            for slot in range(len(slots), trials):
                self.study.enqueue_trial({}, user_attrs={_SLOT: slot})
            return max(len(slots), trials)

    def waiting(self) -> int:
        """How many trials nobody has begun yet."""
        return len(self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)))

    def attend(self) -> None:
        """Say that this process lives, until it ends or closes the study."""
        self._mine = f"worker-{os.getpid()}-{os.urandom(4).hex()}.lock"
        self._lock = os.open(self.folder / self._mine, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def work(self, objective: Callable[[Any], float]) -> bool:
        """Do one trial that waits; False where none does.

        `objective` gets Optuna's trial. When it raises `Failed`, the trial has failed for that reason; `TrialPruned`
        ends it early. When it raises anything else, the trial waits once more, and that is raised here.
        """
        with locked(self.folder / "claim.lock") as release:
            if not self.waiting():
                return False
            number = -1

            def begin(trial: Any) -> float:
                nonlocal number
                number = trial.number
                trial.set_user_attr(_WORKER, self._mine)
                release()
                if _SLOT not in trial.user_attrs:
                    # Another machine took the last one in between, and Optuna made one more.
                    raise _Surplus
                try:
                    return objective(trial)
                except Failed as error:
                    trial.set_user_attr(_REASON, str(error))
                    raise

            try:
                with experimental():
                    self.study.optimize(begin, n_trials=1, catch=(_Surplus, Failed))
            except BaseException:
                if number >= 0:
                    self._wait_again(number)
                raise
        return True

    def _wait_again(self, number: int) -> None:
        trial = self.study.trials[number]
        self.study.enqueue_trial(trial.params, user_attrs={_SLOT: trial.user_attrs[_SLOT]})

    def bury(self) -> list[int]:
        """Put trials back whose process is dead; says which.

        Acting twice does no harm: Optuna lets a trial fail once only.
        """
        dead: list[int] = []
        with locked(self.folder / "claim.lock"), experimental():
            if self._shared:
                optuna.storages.fail_stale_trials(self.study)
            for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
                worker = trial.user_attrs.get(_WORKER)
                # Without a worker it was killed between taking and signing, which happens under the lock held here;
                # unless it is another machine's, whose heart we hear.
                if (worker is None and self._shared) or (worker and not self._is_dead(worker)):
                    continue
                try:
                    self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
                except (ValueError, RuntimeError):
                    continue
                _retry(self.study, self.study.trials[trial.number])
                dead.append(trial.number)
        return dead

    def _is_dead(self, worker: str) -> bool:
        path = self.folder / worker
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            # A worker removes its file when it has ended all trials of its own; one of another machine has none here.
            return not self._shared
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(descriptor)

    # --- what it says --------------------------------------------------------------------------------

    @property
    def dataset(self) -> str:
        """Digest of the data that all its trials see; empty before the first has read any."""
        return str(self.study.user_attrs.get(_DATASET, ""))

    @dataset.setter
    def dataset(self, digest: str) -> None:
        self.study.set_user_attr(_DATASET, digest)

    @property
    def winner(self) -> tuple[int, str, int]:
        """Trial, run and version of the winner that was registered last; -1, nothing and 0 before."""
        number, run, version = self.study.user_attrs.get(_WINNER, (-1, "", 0))
        return number, run, version

    @winner.setter
    def winner(self, value: tuple[int, str, int]) -> None:
        self.study.set_user_attr(_WINNER, list(value))

    def trials(self) -> list[TrialResult]:
        """All trials, in their order."""
        ours = [trial for trial in self.study.get_trials(deepcopy=False) if _ours(trial)]
        last = {trial.user_attrs[_SLOT]: trial.number for trial in ours}
        return [_result(trial, repeated=last[trial.user_attrs[_SLOT]] != trial.number) for trial in ours]

    @staticmethod
    def note_run(trial: Any, run: str) -> None:
        """Write down which run does a trial."""
        trial.set_user_attr(_RUN, run)

    def importance(self) -> dict[str, float]:
        """Parameter -> share of what makes trials differ; empty where too few are complete."""
        done = [trial for trial in self.trials() if trial.state == "complete"]
        if len(done) < 4 or len({trial.value for trial in done}) < 2:
            return {}
        try:
            with experimental():
                found = optuna.importance.get_param_importances(self.study)
        except (ValueError, RuntimeError):
            return {}
        return {name: float(share) for name, share in found.items()}


def _same(known: StudyPlan, plan: StudyPlan, name: str) -> None:
    for field in ("model", "space", "metric", "minimize", "params"):
        if getattr(known, field) != getattr(plan, field):
            raise ConfigurationError(
                f"study {name!r} was begun with another {field}: {getattr(known, field)!r}, not "
                f"{getattr(plan, field)!r}; give a new name by --study"
            )


def _ours(trial: Any) -> bool:
    return _SLOT in trial.user_attrs


def _result(trial: Any, *, repeated: bool) -> TrialResult:
    reports = trial.intermediate_values
    last = reports[max(reports)] if reports else None
    began, ended = trial.datetime_start, trial.datetime_complete
    state: State = _STATES[trial.state.name]
    reason = trial.user_attrs.get(_REASON, "")
    if state == "failed" and not reason:
        state, reason = ("lost", "") if repeated else ("failed", "its process died again and again")
    return TrialResult(
        trial.number,
        state,
        dict(trial.params),
        trial.value if state == "complete" else last,
        run=trial.user_attrs.get(_RUN, ""),
        reason=reason,
        reports=len(reports),
        seconds=(ended - began).total_seconds() if began and ended else 0.0,
        retry_of=trial.system_attrs.get("failed_trial"),
    )


def _retry(study: Any, trial: Any) -> None:
    """Let a trial wait again whose process died, if that has not happened too often."""
    plan = msgspec.json.decode(study.user_attrs[_PLAN], type=StudyPlan)
    with experimental():
        optuna.storages.RetryHeartbeatStaleTrialCallback(plan.retries)(study, trial)

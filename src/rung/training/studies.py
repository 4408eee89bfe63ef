"""Studies of Optuna: where they are kept, who proposes parameters, which trials are left, which died.

The trials of a study wait in a queue from its beginning, so that any number of workers, of one command or of several,
do each of them once. A trial whose worker was killed goes back into the queue. On one machine a worker holds a lock on
a file of its own for as long as it lives, which the kernel takes back however it ends; to other machines, that share a
study in PostgreSQL, a heartbeat says that it lives.
"""

import fcntl
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from rung.domain.errors import ConfigurationError, MissingDependency, NotFound
from rung.domain.names import check_name
from rung.domain.studies import Pruner, Sampler, State, StudyPlan, TrialResult

try:
    import optuna
    from optuna.storages import journal
except ImportError:
    raise MissingDependency("rung tune needs Optuna: pip install 'rung[tune]'") from None

__all__ = ["Book", "Failed", "names", "pruner_for", "sampler_for"]

FOLDER = Path(".rung", "studies")
_PLAN, _SLOT, _WORKER, _RUN, _REASON, _DATASET = (
    f"rung.{name}" for name in ("plan", "slot", "worker", "run", "reason", "dataset")
)
"""Names of attributes that Optuna keeps for us."""
_HEARTBEAT, _GRACE = 10, 40
"""Seconds between two heartbeats in PostgreSQL, and after which a silent trial counts as dead."""
_SCHEMA = "rung_studies"
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


class _Lock:
    """The kernel's lock on a file. Optuna's own, a link, would outlive a process that was killed."""

    def __init__(self, path: Path) -> None:
        self._path, self._descriptor = path, -1

    def acquire(self) -> bool:
        """Wait until nobody holds it."""
        self._descriptor = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let it go."""
        os.close(self._descriptor)


class _Numbered(optuna.samplers.BaseSampler):
    """Draws the numbers of a trial from its number: the same whichever worker does it, and none twice on resuming."""

    def __init__(self, make: Callable[[int], optuna.samplers.BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._inner = make(seed)

    def before_trial(self, study: Any, trial: Any) -> None:
        self._inner = self._make((self._seed * 1_000_003 + trial.number) % 2**32)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Any, trial: Any, state: Any, values: Sequence[float] | None) -> None:
        self._inner.after_trial(study, trial, state, values)


def sampler_for(name: Sampler, seed: int) -> Any:
    """Optuna's sampler of that name. What it draws depends on `seed`, the trial's number, and earlier results.

    Raises:
        MissingDependency: `cmaes` is not installed.
    """
    samplers = optuna.samplers
    if name == "random":
        return _Numbered(lambda number: samplers.RandomSampler(seed=number), seed)
    if name == "tpe":
        # Trials that are running count as bad meanwhile, so that workers do not all try the same place.
        return _Numbered(lambda number: samplers.TPESampler(seed=number, constant_liar=True), seed)
    try:
        import cmaes  # noqa: F401 - Optuna would say so at the second trial only.
    except ImportError:
        raise MissingDependency("--sampler cmaes needs cmaes: pip install 'rung[tune]'") from None
    return _Numbered(lambda number: samplers.CmaEsSampler(seed=number, warn_independent_sampling=False), seed)


def pruner_for(name: Pruner) -> Any:
    """Optuna's pruner of that name. It counts reports, from 1."""
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource="auto", reduction_factor=3)
    return optuna.pruners.NopPruner()


class Book:
    """One study, and the folder beside it on this machine.

    Attributes:
        study: Optuna's.
        plan: what it does.
        name: what it is called.
        folder: where its pictures and locks lie.
    """

    def __init__(self, study: Any, plan: StudyPlan, name: str, folder: Path, *, shared: bool) -> None:
        self.study, self.plan, self.name, self.folder = study, plan, name, folder
        self._shared = shared
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
        opened = _storage(project, storage, name)
        with _locked(folder / "claim.lock"):
            study = optuna.create_study(storage=opened, study_name=name, direction=direction, load_if_exists=True)
            known = study.user_attrs.get(_PLAN)
            if known is None:
                study.set_user_attr(_PLAN, msgspec.json.encode(plan).decode())
            else:
                _same(msgspec.json.decode(known, type=StudyPlan), plan, name)
        return cls.open(project, storage, name)

    @classmethod
    def open(cls, project: Path, storage: str, name: str) -> "Book":
        """A study that there is.

        Raises:
            NotFound: there is none of that name.
        """
        folder = project / FOLDER / name
        if not storage and not _journal(project, name).exists():
            there = ", ".join(names(project)) or "none"
            raise NotFound(f"there is no study {name!r}; there are: {there}")
        opened = _storage(project, storage, name)
        try:
            study = optuna.load_study(storage=opened, study_name=name)
        except KeyError:
            raise NotFound(f"there is no study {name!r} in this storage") from None
        plan = msgspec.json.decode(study.user_attrs[_PLAN], type=StudyPlan)
        study.sampler, study.pruner = sampler_for(plan.sampler, plan.seed), pruner_for(plan.pruner)
        folder.mkdir(parents=True, exist_ok=True)
        return cls(study, plan, name, folder, shared=bool(storage))

    # --- the queue --------------------------------------------------------------------------------

    def fill(self, trials: int) -> int:
        """Let so many trials wait that there are `trials` in all; says how many those are now."""
        with _locked(self.folder / "claim.lock"):
            slots = {trial.user_attrs[_SLOT] for trial in self.study.get_trials(deepcopy=False) if _ours(trial)}
            for slot in range(len(slots), trials):
                self.study.enqueue_trial({}, user_attrs={_SLOT: slot})
            return max(len(slots), trials)

    def waiting(self) -> int:
        """How many trials nobody has begun yet."""
        return len(self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)))

    def running(self) -> int:
        """How many trials somebody is at, or died at."""
        return len(self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)))

    def attend(self) -> None:
        """Say that this process lives, until it ends."""
        self._mine = f"worker-{os.getpid()}-{os.urandom(4).hex()}.lock"
        self._lock = os.open(self.folder / self._mine, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def depart(self) -> None:
        """The opposite of `attend`. Twice is no error."""
        if self._lock is not None:
            with suppress(FileNotFoundError):
                (self.folder / self._mine).unlink()
            os.close(self._lock)
            self._lock = None

    def work(self, objective: Callable[[Any], float]) -> bool:
        """Do one trial that waits; False where none does.

        `objective` gets Optuna's trial. When it raises `Failed`, the trial has failed for that reason; `TrialPruned`
        ends it early. When it raises anything else, the trial waits once more, and that is raised here.
        """
        with _locked(self.folder / "claim.lock") as release:
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
                with _experimental():
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
        with _locked(self.folder / "claim.lock"), _experimental():
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

    def trials(self) -> list[TrialResult]:
        """All trials, in their order."""
        ours = [trial for trial in self.study.get_trials(deepcopy=False) if _ours(trial)]
        last = {trial.user_attrs[_SLOT]: trial.number for trial in ours}
        return [_result(trial, repeated=last[trial.user_attrs[_SLOT]] != trial.number) for trial in ours]

    @staticmethod
    def note_run(trial: Any, run: str) -> None:
        """Write down which run does a trial."""
        trial.set_user_attr(_RUN, run)

    def best(self) -> TrialResult | None:
        """The complete trial with the best value; None where there is none."""
        done = [trial for trial in self.trials() if trial.state == "complete" and trial.value is not None]
        sign = 1 if self.plan.minimize else -1
        return min(done, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def importance(self) -> dict[str, float]:
        """Parameter -> share of what makes trials differ; empty where too few are complete."""
        done = [trial for trial in self.trials() if trial.state == "complete"]
        if len(done) < 4 or len({trial.value for trial in done}) < 2:
            return {}
        try:
            with _experimental():
                found = optuna.importance.get_param_importances(self.study)
        except (ValueError, RuntimeError):
            return {}
        return {name: float(share) for name, share in found.items()}


def names(project: Path) -> list[str]:
    """The studies in the project's folder, the newest last."""
    found = sorted((project / FOLDER).glob("*.journal"), key=lambda path: path.stat().st_mtime)
    return [path.stem for path in found]


def _journal(project: Path, name: str) -> Path:
    return project / FOLDER / f"{name}.journal"


def _storage(project: Path, storage: str, name: str) -> Any:
    if not storage:
        path = _journal(project, name)
        lock: Any = _Lock(path.with_suffix(".lock"))
        file = journal.JournalFileBackend(str(path), lock)
        return optuna.storages.JournalStorage(file)
    if not storage.startswith("postgresql://"):
        raise ConfigurationError(
            f"storage = {storage!r} will not do: write postgresql://USER@HOST/DATABASE, or leave it empty for a file "
            "in the project's folder"
        )
    return _postgres(storage)


def _postgres(url: str) -> Any:
    try:
        import psycopg
        import sqlalchemy.exc
    except ImportError:
        raise MissingDependency("studies in PostgreSQL need its driver: pip install 'rung[postgres]'") from None
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            # A schema of its own: Optuna's tables of migrations and rung's have one name.
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {_SCHEMA}")
        return optuna.storages.RDBStorage(
            url.replace("postgresql://", "postgresql+psycopg://", 1),
            engine_kwargs={"connect_args": {"options": f"-csearch_path={_SCHEMA}"}, "pool_pre_ping": True},
            heartbeat_interval=_HEARTBEAT,
            grace_period=_GRACE,
            heartbeat_stale_trial_callback=_retry,
        )
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as error:
        raise ConfigurationError(f"the storage of studies cannot be used: {error}") from None


def _same(known: StudyPlan, plan: StudyPlan, name: str) -> None:
    for field in ("model", "space", "metric", "minimize", "params"):
        if getattr(known, field) != getattr(plan, field):
            raise ConfigurationError(
                f"study {name!r} was begun with another {field}: {getattr(known, field)!r}, not "
                f"{getattr(plan, field)!r}; give a new name by --study"
            )


def _retry(study: Any, trial: Any) -> None:
    """Let a trial wait again whose process died, if that has not happened too often."""
    plan = msgspec.json.decode(study.user_attrs[_PLAN], type=StudyPlan)
    with _experimental():
        optuna.storages.RetryHeartbeatStaleTrialCallback(plan.retries)(study, trial)


@contextmanager
def _experimental() -> Iterator[None]:
    """What Optuna calls experimental is what its manual recommends for this."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


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


@contextmanager
def _locked(path: Path) -> Iterator[Callable[[], None]]:
    """Hold a lock among the processes of this machine; what is yielded lets it go before the end."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    held = [descriptor]

    def release() -> None:
        if held:
            os.close(held.pop())

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield release
    finally:
        release()

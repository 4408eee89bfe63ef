"""One run from its specification to a registered version: start the processes, record, restart, register."""

import errno
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from rung.catalog import models
from rung.catalog.golden import unpack_golden
from rung.domain.errors import (
    BundleError,
    ConfigurationError,
    NotFound,
    RungError,
    StorageFull,
    TrainingFailed,
    TrainingKilled,
    WorkerDied,
)
from rung.domain.models import Lineage, Manifest, Transforms
from rung.domain.runs import RunResult, RunSpec
from rung.ports import BlobStore
from rung.settings.cache import parse_size
from rung.settings.project import ModelSettings, ProjectSettings
from rung.store.blobs import open_store
from rung.training import environment, tracking
from rung.training.crew import Crew, log_to
from rung.training.events import Checkpointed, Event, Produced, Ready, Reported, Restarted, Said, Started
from rung.training.orders import Order
from rung.training.resources import Use
from rung.training.runs import SYSTEM
from rung.training.session import GOLDEN, MODEL_FOLDER, PROFILE
from rung.training.weights import weights_digest

__all__ = ["CODE", "ENVIRONMENT", "OUTPUT", "RESULT", "SNAPSHOT", "SPEC", "spec_of", "train_model", "under"]

SPEC, RESULT, OUTPUT = "spec.json", "result.json", "output.log"
"""Files in the folder of a run: what was asked for, how it ended, what its processes printed."""
ENVIRONMENT, CODE, SNAPSHOT = "environment.json", "code.json", "code.tar.gz"
"""And what it ran in: packages, digests of the project's files with commit and difference, and those files."""


def spec_of(name: str, model: ModelSettings, **changes: object) -> RunSpec:
    """What the project's file asks for.

    Raises:
        ConfigurationError: it names no function that trains the model.
    """
    if not model.train:
        raise ConfigurationError(
            f'[models.{name}] does not say how it is trained: add train = "model:train" for the function train '
            "in model.py"
        )
    run = model.run
    spec = RunSpec(
        model=name,
        train=model.train,
        params=model.params,
        seed=run.seed,
        device=run.device,
        workers=run.workers,
        threads=run.threads,
        memory=parse_size(run.memory) if run.memory else 0,
        cpu_seconds=run.cpu_seconds,
    )
    return msgspec.structs.replace(spec, **changes)


def train_model(
    project: ProjectSettings,
    folder: Path,
    spec: RunSpec,
    *,
    on_event: Callable[[Event], None] = lambda _event: None,
    stop: Callable[[], bool] = lambda: False,
    resume: str = "",
    tags: dict[str, str] | None = None,
    record: Path | None = None,
) -> RunResult:
    """Train a model of the project in `folder`, and register what came out.

    `resume` names a run that was interrupted: it goes on from its last checkpoint, as it was specified then. `stop` is
    asked now and then; when it says yes, the run saves a checkpoint and ends without a version. `record` is the project
    that keeps the run's record, where that is not the one whose code runs.

    Raises:
        Conflict: the run to resume is finished, or goes on already.
        NotFound: there is no such run.
        TrainingFailed, InvalidData, ConfigurationError, BundleError: why there is no new version; the run's record
            says so as well, and the registry is as it was.
    """
    folder = folder.resolve()
    place = (record or folder).resolve()
    if resume:
        # Before the record is opened again: without a specification nothing can go on.
        spec = _spec_before(place, resume)
        tracked = tracking.resume(place, resume)
    else:
        tracked = tracking.start(place, spec.model, spec)
        # First of all: without it nobody can go on.
        _write(tracked.folder / SPEC, spec)
    run = _Run(project, folder, spec, tracked, on_event)
    if tags:
        tracked.tags(tags)
        run.lineage = {name.removeprefix("rung."): value for name, value in tags.items()}
    on_event(Started(tracked.name))
    try:
        if not (tracked.folder / CODE).exists():
            _describe(tracked, folder)
        result = run.go(stop, resumed=bool(resume))
    except BaseException as error:
        reason = str(error) if isinstance(error, RungError) else type(error).__name__
        # On a full disk the record of the run cannot be ended either; why it failed matters more.
        with suppress(OSError):
            tracked.finish("failed" if isinstance(error, RungError) else "killed", reason)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"no room for the records of {tracked.name} in {tracked.folder}: make some") from error
        raise
    _write(tracked.folder / RESULT, result)
    tracked.tags({"rung.data_wait": f"{result.data_wait:.3f}"})
    tracked.finish(result.ended, result.reason)
    if tracked.problem:
        on_event(Said(tracked.problem))
    return result


def _describe(tracked: tracking.TrackedRun, folder: Path) -> None:
    """Write down what the run runs in: environment, code, machine."""
    ran_in, files = environment.environment(), environment.code(folder)
    _write(tracked.folder / ENVIRONMENT, ran_in)
    environment.snapshot(folder, tracked.folder / SNAPSHOT)
    tracked.tags({"rung.environment": ran_in.digest, "rung.code": files.digest, "rung.commit": files.state})
    tracked.tags({f"rung.hardware.{name}": value for name, value in environment.hardware().items()})
    # Last of all: whoever is killed before does it again when the run goes on.
    _write(tracked.folder / CODE, files)
    for name in (ENVIRONMENT, CODE, SNAPSHOT):
        tracked.artifact(tracked.folder / name)


def _spec_before(project: Path, name: str) -> RunSpec:
    try:
        return msgspec.json.decode((tracking.folder_of(project, name) / SPEC).read_bytes(), type=RunSpec)
    except OSError:
        raise NotFound(f"there is no run {name} that could go on; rung runs list shows all") from None


class _Run:
    """A run that is under way."""

    def __init__(
        self,
        project: ProjectSettings,
        folder: Path,
        spec: RunSpec,
        tracked: tracking.TrackedRun,
        on_event: Callable[[Event], None],
    ) -> None:
        self._model = project.models[spec.model]
        self._repository = open_store(under(folder, project.project.repository))
        self._data = under(folder, project.project.data)
        self._folder, self._spec, self._tracked, self._on_event = folder, spec, tracked, on_event
        self.lineage: dict[str, str] = {}
        """What the version's lineage says beside the run."""
        self._produced: Produced | None = None
        self._checkpoint = 0

    def go(self, stop: Callable[[], bool], *, resumed: bool) -> RunResult:
        """Train, going on from the last checkpoint when a process dies; then register."""
        begun = time.monotonic()
        peak = restarts = 0
        while True:
            crew = Crew(self._order(resumed), log_to(self._tracked.folder / OUTPUT), self._record_use)
            before = self._checkpoint
            try:
                crew.run(self._hear, stop)
                break
            except WorkerDied as error:
                # Without a new checkpoint it would die at the same place again.
                if restarts >= self._model.run.restarts or self._checkpoint == before:
                    raise self._end(error) from None
                restarts, resumed = restarts + 1, True
                self._tracked.tags({"rung.restarted": str(error)})
                self._on_event(Restarted(str(error)))
            finally:
                peak = max(peak, crew.peak_memory)
        assert self._produced is not None
        result = self._result(self._produced, peak, restarts)
        if not self._produced.stopped:
            result = self._finish(self._produced, result, resumed=resumed)
        return msgspec.structs.replace(result, seconds=time.monotonic() - begun)

    def _order(self, resumed: bool) -> Order:
        return Order(
            self._spec,
            project=str(self._folder),
            run=str(self._tracked.folder),
            data=self._data,
            # Another for each start: what a killed process left in the last one would be taken for company.
            rendezvous=str(self._tracked.folder / f"rendezvous-{secrets.token_hex(4)}"),
            resumed=resumed,
            baseline=_baseline(self._repository, self._spec.model),
        )

    def _hear(self, event: Event) -> None:
        if isinstance(event, Ready):
            # From here on the run is about this data, whatever comes in later.
            self._spec = msgspec.structs.replace(self._spec, dataset=event.dataset, threads=event.threads)
            _write(self._tracked.folder / SPEC, self._spec)
            self._tracked.tags({"rung.dataset": event.dataset, "rung.device": event.device})
        elif isinstance(event, Reported):
            self._tracked.log(event.metrics, event.step, time.time())
        elif isinstance(event, Checkpointed):
            self._checkpoint = event.step
        elif isinstance(event, Produced):
            self._produced = event
        self._on_event(event)

    def _record_use(self, use: Use) -> None:
        now = time.time()
        values = {"cpu": use.cpu, "memory_mib": use.memory / 2**20, "threads": float(use.threads)}
        step = int(now - self._tracked.since)
        self._tracked.log({f"{SYSTEM}{name}": value for name, value in values.items()}, step, now)

    def _end(self, error: WorkerDied) -> TrainingFailed:
        """Why the run ends with its process."""
        if "SIGKILL" in str(error):
            return TrainingKilled(
                f"{error}: the system's memory may have run out, or somebody ended it; rung train --resume goes on"
            )
        if "SIGXCPU" in str(error):
            seconds = self._spec.cpu_seconds
            return TrainingFailed(f"training used up its {seconds} seconds of processor time ([models.NAME.run])")
        return TrainingFailed(
            f"training ended by itself: {error}; what it printed is in {self._tracked.folder / OUTPUT}"
        )

    def _result(self, produced: Produced, peak: int, restarts: int) -> RunResult:
        saved = 1 - produced.last_step / produced.planned if produced.planned > produced.last_step else 0.0
        return RunResult(
            id=self._tracked.id,
            name=self._tracked.name,
            ended="stopped" if produced.stopped else "finished",
            reason="somebody asked it to end" if produced.stopped else "",
            metrics=produced.metrics,
            best_step=produced.best_step,
            last_step=produced.last_step,
            saved=0.0 if produced.stopped else saved,
            dataset=self._spec.dataset,
            transforms=produced.transforms,
            data_wait=produced.data_wait,
            peak_memory=max(peak, produced.peak_memory),
            skipped=produced.skipped,
            restarts=restarts,
        )

    def _finish(self, produced: Produced, result: RunResult, *, resumed: bool) -> RunResult:
        artifact = Path(produced.artifact)
        result = msgspec.structs.replace(result, weights=weights_digest(artifact))
        if self._spec.register and not self._spec.smoke:
            # Its process may have been ended between registering and saying so.
            version = _version_of(self._repository, self._spec.model, self._tracked.id) if resumed else 0
            if not version:
                try:
                    version = self._register(artifact, produced).version
                except BundleError as error:
                    raise BundleError(f"what {self._tracked.name} trained cannot be served: {error}") from None
            result = msgspec.structs.replace(result, version=version)
            self._tracked.tags({"rung.version": str(version)})
        self._tracked.tags({"rung.weights": result.weights, "rung.transforms": produced.transforms})
        return result

    def _register(self, artifact: Path, produced: Produced) -> Manifest:
        place = self._tracked.folder / MODEL_FOLDER
        golden = place / GOLDEN
        declared = produced.declared
        return models.register(
            self._repository,
            artifact,
            name=self._spec.model,
            examples=[inputs for inputs, _ in unpack_golden(golden.read_bytes())] if golden.exists() else None,
            beside={PROFILE: place / PROFILE},
            profile=PROFILE,
            task=declared["task"],
            labels=tuple(declared["labels"]),
            transforms=msgspec.convert(declared["transforms"], Transforms),
            description=declared["description"],
            metrics=produced.metrics,
            lineage=Lineage(
                source=f"run {self._tracked.name}",
                code=msgspec.json.decode((self._tracked.folder / CODE).read_bytes(), type=environment.Code).state,
                data={self._spec.model: self._spec.dataset},
                extra={
                    "run": self._tracked.id,
                    "run_name": self._tracked.name,
                    "transforms": produced.transforms,
                    "seed": str(self._spec.seed),
                    **self.lineage,
                },
            ),
        )


def _baseline(store: BlobStore, name: str) -> bytes:
    """The profile of the data of the newest version, for comparison; empty where there is none."""
    try:
        manifest = models.show(store, name)
        if not manifest.profile:
            return b""
        return store.get(f"{name}/{manifest.version}/{manifest.profile}")
    except (NotFound, BundleError):
        return b""


def _version_of(store: BlobStore, name: str, run: str) -> int:
    """The version that a run has registered; 0: none."""
    for entry in models.list_models(store) if run else ():
        if entry.name == name and entry.manifest is not None and entry.manifest.lineage.extra.get("run") == run:
            return entry.version
    return 0


def under(folder: Path, place: str) -> str:
    """A place of the project's file, as seen from anywhere."""
    return place if "://" in place else str((folder / place).resolve())


def _write(path: Path, value: object) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(msgspec.json.encode(value))
    draft.replace(path)

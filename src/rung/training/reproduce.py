"""Run a recorded run again, and say honestly whether the same model came out.

Grades: `bit-equal` (the weights are the same), `within tolerance` (the metrics are, as the project's file declares),
`different`, and `not possible`, each with the reason.
"""

import shutil
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from rung.data import datasets
from rung.domain.errors import ConfigurationError, InvalidData, MissingDependency, NotFound, OperatorError
from rung.domain.runs import RunResult, RunSpec
from rung.settings.file import FILE, load_project
from rung.settings.project import ProjectSettings
from rung.store.blobs import open_store
from rung.training import rebuilding
from rung.training.environment import Code, Environment, environment, unpack
from rung.training.environment import code as code_of
from rung.training.events import Event
from rung.training.rebuilding import ENVIRONMENTS
from rung.training.run import CODE, ENVIRONMENT, RESULT, SNAPSHOT, SPEC, train_model, under
from rung.training.runs import Run

__all__ = ["Grade", "Report", "differences", "reproduce"]

Grade = Literal["bit-equal", "within tolerance", "different", "not possible"]


class Report(msgspec.Struct, frozen=True):
    """What came of running a run again."""

    run: str
    grade: Grade
    reason: str
    weights: tuple[str, str] = ("", "")
    """sha256 of the model then and now."""
    metrics: dict[str, tuple[float, float]] = {}
    """Then and now."""
    environment: tuple[str, ...] = ()
    """How the environment differs from the recorded one."""
    rerun: str = ""
    """Name of the run that was made."""


def reproduce(
    project: ProjectSettings,
    folder: Path,
    run: Run,
    *,
    same_environment: bool = False,
    on_event: Callable[[Event], None] = lambda _event: None,
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _line: None,
) -> Report:
    """Run it again from its specification, code and data, in an equal environment, and compare.

    Where the packages of this environment are not the recorded ones, an environment with those is built and used;
    `same_environment` goes on in this one, and the report names the differences. Nothing is registered. `say` hears
    what is being waited for.
    """
    try:
        spec, before, recorded, files = _records(run)
        _check_data(project, folder, spec)
        with tempfile.TemporaryDirectory(prefix="rung-reproduce-") as place:
            code = Path(place, "project")
            _restore(run, files, code, folder)
            changed = differences(recorded, environment())
            if changed and not same_environment:
                say(
                    f"{len(changed)} packages are not as they were, such as {changed[0]}; making an environment of them"
                )
                python = rebuilding.build(folder / ENVIRONMENTS, recorded)
                return _elsewhere(python, folder, run)
            there = _in_place(project, folder, code)
            wanted = msgspec.structs.replace(spec, register=False)
            tags = {"rung.reproduces": run.name}
            try:
                again = train_model(there, code, wanted, on_event=on_event, stop=stop, tags=tags, record=folder)
            except OperatorError as error:
                return Report(run.name, "different", f"it failed this time: {error}", environment=changed)
    except (NotFound, InvalidData, ConfigurationError, MissingDependency) as error:
        return Report(run.name, "not possible", str(error))
    if again.ended != "finished":
        return Report(run.name, "not possible", f"it did not come to its end this time: {again.reason}")
    now = project.models.get(spec.model) or there.models[spec.model]
    return _judged(run, before, again, changed, now.run.tolerance)


def differences(before: Environment, now: Environment) -> tuple[str, ...]:
    """How two environments differ, in words."""
    found = []
    if before.python != now.python:
        found.append(f"Python {now.python} instead of {before.python}")
    if before.system != now.system:
        found.append(f"{now.system} instead of {before.system}")
    was, has = (dict(one.rsplit("==", 1) for one in env.packages) for env in (before, now))
    for name in sorted(was.keys() | has.keys()):
        if name not in has:
            found.append(f"{name} is missing")
        elif name not in was:
            found.append(f"{name} is new")
        elif was[name] != has[name]:
            found.append(f"{name} {has[name]} instead of {was[name]}")
    return tuple(found)


def _records(run: Run) -> tuple[RunSpec, RunResult, Environment, Code]:
    if run.status != "finished":
        raise NotFound(f"{run.name} is {run.status}: only a finished run has something to compare with")
    try:
        return (
            msgspec.json.decode((run.folder / SPEC).read_bytes(), type=RunSpec),
            msgspec.json.decode((run.folder / RESULT).read_bytes(), type=RunResult),
            msgspec.json.decode((run.folder / ENVIRONMENT).read_bytes(), type=Environment),
            msgspec.json.decode((run.folder / CODE).read_bytes(), type=Code),
        )
    except OSError as error:
        raise NotFound(f"the record of {run.name} has lost {error.filename}") from None
    except msgspec.MsgspecError as error:
        raise InvalidData(f"the record of {run.name} cannot be read: {error}") from None


def _check_data(project: ProjectSettings, folder: Path, spec: RunSpec) -> None:
    store = open_store(under(folder, project.project.data))
    version = datasets.load(store, spec.model, spec.dataset)
    for _ in datasets.scan(store, version, columns=[]):
        pass


def _restore(run: Run, files: Code, code: Path, folder: Path) -> None:
    """The project's files as they were, each of them."""
    try:
        unpack(run.folder / SNAPSHOT, code)
    except FileNotFoundError:
        raise NotFound(f"the record of {run.name} has lost {run.folder / SNAPSHOT}, the code that ran") from None
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise InvalidData(f"the code that {run.name} ran, {run.folder / SNAPSHOT}, cannot be read: {error}") from None
    found = code_of(code).files
    if found != files.files:
        wrong = sorted(name for name in found.keys() | files.files.keys() if found.get(name) != files.files.get(name))
        raise InvalidData(f"the code in {run.folder / SNAPSHOT} is not what {run.name} ran: {', '.join(wrong[:5])}")
    if not (code / FILE).exists():
        shutil.copyfile(folder / FILE, code / FILE)


def _in_place(project: ProjectSettings, folder: Path, code: Path) -> ProjectSettings:
    """The project as its file was then, with the data and the models where they are now."""
    then, section = load_project(code), project.project
    places = msgspec.structs.replace(
        then.project, data=under(folder, section.data), repository=under(folder, section.repository)
    )
    return msgspec.structs.replace(then, project=places)


def _elsewhere(python: Path, folder: Path, run: Run) -> Report:
    """What another interpreter finds."""
    command = [str(python), "-m", "rung", "reproduce", run.name, "--same-environment", "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    begin = done.stdout.find("{")
    try:
        return msgspec.json.decode(done.stdout[max(begin, 0) :], type=Report)
    except msgspec.MsgspecError:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise MissingDependency(
            f"rung does not run in the environment {python.parents[1]} that was made for it: {' '.join(last)[:300]}; "
            "--same-environment tries with the packages that are here"
        ) from None


def _judged(run: Run, before: RunResult, again: RunResult, changed: tuple[str, ...], tolerance: float) -> Report:
    metrics = {name: (value, again.metrics[name]) for name, value in before.metrics.items() if name in again.metrics}
    lost = sorted(before.metrics.keys() - again.metrics.keys())
    largest = max((abs(now - then) for then, now in metrics.values()), default=0.0)
    grade: Grade
    if again.weights == before.weights:
        grade, reason = "bit-equal", f"the weights are the same, {again.weights[:12]}"
    elif lost:
        grade, reason = "different", f"it did not report {', '.join(lost)} this time"
    elif tolerance and metrics and largest <= tolerance:
        grade = "within tolerance"
        reason = f"the weights differ; metrics differ by at most {largest:.3g}, and {tolerance:g} is allowed"
    else:
        grade = "different"
        reason = f"the weights differ, and metrics by up to {largest:.3g}"
        reason += f", more than the tolerance of {tolerance:g}" if tolerance else "; no tolerance is declared"
    if grade == "different" and changed:
        reason += f"; {len(changed)} packages are not as they were"
    return Report(run.name, grade, reason, (before.weights, again.weights), metrics, changed, again.name)

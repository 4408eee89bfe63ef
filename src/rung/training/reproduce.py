"""Run a recorded run again, and say honestly whether the same model came out.

Grades: `bit-equal` (the weights are the same), `within tolerance` (the metrics are, as the project's file declares),
`different`, and `not possible`, each with the reason.
"""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from rung.data import datasets
from rung.domain.errors import InvalidData, NotFound, OperatorError
from rung.domain.runs import RunResult, RunSpec
from rung.settings.project import ProjectSettings
from rung.store.blobs import open_store
from rung.training.environment import Environment, environment, unpack
from rung.training.events import Event
from rung.training.run import ENVIRONMENT, RESULT, SNAPSHOT, SPEC, train_model, under
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
) -> Report:
    """Run it again from its specification, code and data, in an equal environment, and compare.

    The packages of this environment have to be the recorded ones; `same_environment` goes on where they are not, and
    the report names the differences. Nothing is registered.
    """
    try:
        spec, before, recorded = _records(run)
        _check_data(project, folder, spec)
    except (NotFound, InvalidData) as error:
        return Report(run.name, "not possible", str(error))
    changed = differences(recorded, environment())
    if changed and not same_environment:
        some = "; ".join(changed[:5]) + ("; ..." if len(changed) > 5 else "")
        reason = f"this environment is not the recorded one ({some}); install those packages, or --same-environment"
        return Report(run.name, "not possible", reason, environment=changed)
    with tempfile.TemporaryDirectory(prefix="rung-reproduce-") as place:
        code = Path(place, "project")
        unpack(run.folder / SNAPSHOT, code)
        there = _in_place(project, folder, code)
        try:
            again = train_model(
                there,
                code,
                msgspec.structs.replace(spec, register=False),
                on_event=on_event,
                stop=stop,
                tags={"rung.reproduces": run.name},
                record=folder,
            )
        except OperatorError as error:
            return Report(run.name, "different", f"it failed this time: {error}", environment=changed)
    return _judged(run, before, again, changed, project.models[spec.model].run.tolerance)


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


def _records(run: Run) -> tuple[RunSpec, RunResult, Environment]:
    if run.status != "finished":
        raise NotFound(f"{run.name} is {run.status}: only a finished run has something to compare with")
    try:
        return (
            msgspec.json.decode((run.folder / SPEC).read_bytes(), type=RunSpec),
            msgspec.json.decode((run.folder / RESULT).read_bytes(), type=RunResult),
            msgspec.json.decode((run.folder / ENVIRONMENT).read_bytes(), type=Environment),
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


def _in_place(project: ProjectSettings, folder: Path, code: Path) -> ProjectSettings:
    """The project as its code was, with the data and the models where they are now."""
    text = (code / "rung.toml").read_text() if (code / "rung.toml").exists() else ""
    section = project.project
    if not text:
        shutil.copyfile(folder / "rung.toml", code / "rung.toml")
    replaced = msgspec.structs.replace(
        section, data=under(folder, section.data), repository=under(folder, section.repository)
    )
    return msgspec.structs.replace(project, project=replaced)


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

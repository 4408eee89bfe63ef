"""Training as a job: however often it is tried, one version comes of it."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from rung.domain.errors import Cancelled, Conflict, InvalidInput
from rung.domain.runs import RunResult
from rung.settings.file import load_project
from rung.training import runs
from rung.training.events import Event, Progress, Ready, Reported
from rung.training.params import with_params
from rung.training.run import RESULT, SPEC, spec_of, train_model

__all__ = ["TAG", "train"]

TAG = "rung.job"
"""Tag of a run: the job that it does."""
_PATIENCE = 30.0
"""Seconds for the try before, whose lease ran out, to save and end."""


def train(
    folder: Path,
    job: str,
    model: str,
    changes: Mapping[str, Any],
    *,
    dataset: str = "",
    tags: Mapping[str, str] | None = None,
    progress: Callable[[float, str], None],
    should_stop: Callable[[], bool],
    patience: float = _PATIENCE,
) -> RunResult:
    """Train a model of the project in `folder` for a job; a later try of it goes on with the run of the first.

    `dataset` is the digest of the data to train on; empty: what the source has now. `tags` are the run's and, beside
    it, those of the version's lineage.

    Raises:
        Cancelled: `should_stop` said yes; what there is has been saved.
        Conflict: the try before is still running.
        InvalidInput: there is no such model or parameter.
        RungError: why the run failed, as `train_model` raises it.
    """
    project = load_project(folder)
    if model not in project.models:
        raise InvalidInput(
            f"there is no model {model!r} in rung.toml; there are {', '.join(project.models) or 'none'}", field="model"
        )
    section = project.models[model]
    spec = spec_of(model, section, params=with_params(section.params, changes, model), dataset=dataset)
    before = _run_of(folder, job, model, should_stop, patience)
    if before is not None and before.status == "finished":
        return msgspec.json.decode((before.folder / RESULT).read_bytes(), type=RunResult)
    result = train_model(
        project,
        folder,
        spec,
        on_event=_Progress(progress).hear,
        stop=should_stop,
        resume=before.name if before is not None else "",
        tags={TAG: job, **(tags or {})},
    )
    if result.ended == "stopped":
        raise Cancelled(f"{result.name} was asked to end, and goes on from step {result.last_step} later")
    return result


def _run_of(folder: Path, job: str, model: str, should_stop: Callable[[], bool], patience: float) -> runs.Run | None:
    """The run that an earlier try of the job began, once nobody is at it any more."""
    until = time.monotonic() + patience
    while True:
        mine = (run for run in runs.list_runs(folder, model=model) if run.tags.get(TAG) == job)
        found = next((run for run in mine if (run.folder / SPEC).exists()), None)
        if found is None or found.status != "running":
            return found
        if should_stop():
            raise Cancelled(f"{found.name} is still running")
        if time.monotonic() > until:
            raise Conflict(f"an earlier try of this job is still at {found.name}")
        time.sleep(0.2)


class _Progress:
    """Says how far the run is in words and as a share."""

    def __init__(self, say: Callable[[float, str], None]) -> None:
        self._say = say
        self._share, self._note = 0.0, "reads the data"

    def hear(self, event: Event) -> None:
        """Take what is of interest, and pass it on."""
        match event:
            case Ready():
                self._note = f"trains on {event.rows['train']:,} rows"
            case Progress(step=step, total=total):
                # The end is said by whoever does the job.
                self._share = min(step / total, 0.99) if total else 0.0
            case Reported(step=step, metrics=metrics):
                self._note = "  ".join([f"step {step}", *(f"{name} {value:.4g}" for name, value in metrics.items())])
            case _:
                return
        self._say(self._share, self._note)

"""What triggers go by: drift, quality and labels of a model, measured by a job and kept for the control loop."""

from pathlib import Path

import msgspec

from rung.data import feedback
from rung.domain.errors import NotFound
from rung.loop import requests
from rung.loop.triggers import Seen
from rung.ports import BlobStore
from rung.settings.project import ModelSettings, ProjectSettings
from rung.store.blobs import open_store
from rung.training.run import under

__all__ = ["last", "measure"]


def last(store: BlobStore, model: str) -> Seen:
    """What was measured last; nothing is known where nothing was."""
    try:
        return msgspec.json.decode(store.get(_key(model)), type=Seen)
    except (NotFound, msgspec.MsgspecError):
        return Seen()


def measure(project: ProjectSettings, folder: Path, model: str, now: float) -> Seen:
    """Measure a model's traffic, and keep what was found.

    Raises:
        RungError: the log or the repository cannot be read.
    """
    store = open_store(under(folder, project.project.data))
    section = project.models[model]
    seen = Seen(at=now, labels=_labels(store, folder / project.project.log, model, section, now))
    store.put(_key(model), msgspec.json.encode(seen))
    return seen


def _labels(store: BlobStore, log: Path, model: str, section: ModelSettings, now: float) -> int:
    """Labelled requests, old enough to count, beyond those that the last retraining took."""
    taken = [
        float(one.decisions["extract"].result["before"])
        for one in requests.retrainings(store, model)
        if "extract" in one.decisions and one.decisions["extract"].outcome == "pass"
    ]
    until = now - section.release.maturity
    return feedback.labelled(
        store, log, model, since=max(taken, default=0.0), until=until, kind=section.retrain.kind, columns=["time"]
    ).height


def _key(model: str) -> str:
    return f"watch/{model}.json"

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
    labels, labelled = _labels(store, folder / project.project.log, model, section, now)
    seen = Seen(at=now, labels=labels, labelled=labelled)
    store.put(_key(model), msgspec.json.encode(seen))
    return seen


def _labels(store: BlobStore, log: Path, model: str, section: ModelSettings, now: float) -> tuple[int, int]:
    """Labelled requests, old enough to count: those beyond the last retraining's, and all."""
    taken = [
        float(one.decisions["extract"].result["before"])
        for one in requests.retrainings(store, model)
        if "extract" in one.decisions and one.decisions["extract"].outcome == "pass"
    ]
    until, kind = now - section.release.maturity, section.retrain.kind
    times = feedback.labelled(store, log, model, until=until, kind=kind, columns=["time"])["time"]
    return int((times >= max(taken, default=0.0)).sum()), times.len()


def _key(model: str) -> str:
    return f"watch/{model}.json"

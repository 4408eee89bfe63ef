"""What triggers go by: drift, quality and labels of a model, measured by a job and kept for the control loop."""

from pathlib import Path
from typing import Any

import msgspec

from rung.data import feedback, quality
from rung.data.quality_catalog import with_catalog
from rung.domain.errors import NotFound
from rung.domain.quality import QualityReport, Watch
from rung.loop import requests
from rung.loop.triggers import Seen
from rung.ports import BlobStore
from rung.settings.project import ModelSettings, ProjectSettings
from rung.store.blobs import open_store
from rung.training.run import under

__all__ = ["Measured", "last", "measure"]


class Measured(msgspec.Struct, frozen=True):
    """What a measurement found."""

    seen: Seen = Seen()
    """What triggers go by."""
    watch: Watch | None = None
    """The quality detector, which goes on from here."""
    quality: dict[str, Any] = {}
    """The main figures of live quality, for people."""


def last(store: BlobStore, model: str) -> Measured:
    """What was measured last; nothing is known where nothing was."""
    try:
        return msgspec.json.decode(store.get(_key(model)), type=Measured)
    except (NotFound, msgspec.MsgspecError):
        return Measured()


def measure(project: ProjectSettings, folder: Path, model: str, now: float) -> Measured:
    """Measure a model's traffic, and keep what was found.

    Raises:
        RungError: the log or the repository cannot be read.
    """
    store = open_store(under(folder, project.project.data))
    repository = open_store(under(folder, project.project.repository))
    log = folder / project.project.log
    section = project.models[model]
    how = quality.How(maturity=section.release.maturity, cohort=section.retrain.cohort)
    report = quality.measure(
        store, log, model, now=now, how=with_catalog(how, repository, model), before=last(store, model).watch
    )
    labels, labelled = _labels(store, log, model, section, now)
    watched = report.detector
    seen = Seen(
        at=now,
        labels=labels,
        labelled=labelled,
        worse=watched.alarm if watched is not None and watched.limit is not None else None,
        evidence={"quality": watched.why} if watched is not None else {},
    )
    found = Measured(seen, watched, _figures(report))
    store.put(_key(model), msgspec.json.encode(found))
    return found


def _figures(report: QualityReport) -> dict[str, Any]:
    """Of each version, over all that is mature."""
    return {
        str(one.version): {
            "quality": msgspec.to_builtins(one.quality),
            "labelled": one.labelled,
            "predictions": one.predictions,
        }
        for one in report.versions
    }


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

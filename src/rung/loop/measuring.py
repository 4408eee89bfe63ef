"""What triggers go by: drift, quality and labels of a model, measured by a job and kept for the control loop."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rung.data import feedback, quality
from rung.data.quality_catalog import with_catalog
from rung.domain.drift import DriftReport
from rung.domain.errors import NotFound
from rung.domain.quality import QualityReport, Watch
from rung.loop import requests
from rung.loop.triggers import Seen
from rung.ports import BlobStore
from rung.settings.project import ModelSettings, ProjectSettings
from rung.store.blobs import open_store
from rung.training.run import under

if TYPE_CHECKING:
    from rung.training.skew import Skew

__all__ = ["Measured", "last", "measure"]


class Measured(msgspec.Struct, frozen=True):
    """What a measurement found."""

    seen: Seen = Seen()
    """What triggers go by."""
    maturity: float = 0.0
    """Age in seconds at which a label counts; 0 while it is not known."""
    watch: Watch | None = None
    """The quality detector, which goes on from here."""
    quality: dict[str, Any] = {}
    """The main figures of live quality, for people."""
    drift: dict[str, Any] = {}
    """Those of drift; empty where nothing asks for it, or nothing is known of the training data."""
    skew: dict[str, Any] = {}
    """What answering the latest requests again found; empty where `replay` asks for none."""


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
    watched, maturity = report.detector, report.maturity_seconds or 0.0
    moved = _drift(store, log, repository, model, section, report)
    again, skew = _again(store, log, repository, model, section, now)
    labels, labelled = _labels(store, log, model, section, now - maturity)
    evidence = {"quality": watched.why if watched is not None else "", "skew": skew}
    if moved is not None:
        evidence |= {"triage": moved.triage.why, "columns": ", ".join(moved.persistent)}
    seen = Seen(
        at=now,
        labels=labels,
        labelled=labelled,
        drifted=moved.confirmed if moved is not None else None,
        triage=moved.triage.kind if moved is not None else "",
        worse=report.fell,
        skew=again.share.low if again is not None and again.share is not None else None,
        evidence={name: text for name, text in evidence.items() if text},
    )
    found = Measured(seen, maturity, watched, _figures(report), _told(moved), msgspec.to_builtins(again) or {})
    store.put(_key(model), msgspec.json.encode(found))
    return found


def _drift(
    store: BlobStore,
    log: Path,
    repository: BlobStore,
    model: str,
    section: ModelSettings,
    report: QualityReport,
) -> DriftReport | None:
    # Triage is for both: what looks like a fault of the data starts nothing.
    if not {"drift", "quality"} & set(section.retrain.on):
        return None
    # 65 MB with what it imports, and the control plane only reads what a job has measured.
    from rung.data import drift

    try:
        found = drift.examine(
            store,
            log,
            repository,
            model,
            section,
            now=report.at,
            quality_fell=report.fell,
            coverage_moved=report.uneven,
        )
    except NotFound:
        return None
    return found.report


def _again(
    store: BlobStore, log: Path, repository: BlobStore, model: str, section: ModelSettings, now: float
) -> "tuple[Skew | None, str]":
    """What answering the latest requests again found, and in words what is wrong: with them, or with looking."""
    if not section.drift.replay:
        return None, ""
    from rung.training.skew import replay

    try:
        found = replay(store, log, repository, model, now=now, count=section.drift.replay)
    except Exception as error:  # noqa: BLE001 - a model's own code runs here, and triggers go by all the rest
        return None, f"requests cannot be answered again: {error}"
    if found.share is None:
        reason, count = next(iter(found.skipped.items()), ("", 0))
        return found, f"none of {found.requests} requests could be compared; {count}: {reason}" if count else ""
    if found.worst is None:
        return found, ""
    return found, f"{found.mismatched} of {found.compared} requests, at least {found.share.low:.2%}: {found.worst}"


def _told(report: DriftReport | None) -> dict[str, Any]:
    """What a person wants to know of it."""
    if report is None:
        return {}
    return {
        "version": report.version,
        "confirmed": report.confirmed,
        "outlook": report.outlook,
        "worst": report.worst,
        "columns": list(report.persistent),
        "triage": msgspec.to_builtins(report.triage),
        "run_length": report.run_length,
    }


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


def _labels(store: BlobStore, log: Path, model: str, section: ModelSettings, until: float) -> tuple[int, int]:
    """Labelled requests, old enough to count: those beyond the last retraining's, and all."""
    taken = [
        float(one.decisions["extract"].result["before"])
        for one in requests.retrainings(store, model)
        if "extract" in one.decisions and one.decisions["extract"].outcome == "pass"
    ]
    times = feedback.labelled(store, log, model, until=until, kind=section.retrain.kind, columns=["time"])["time"]
    return int((times >= max(taken, default=0.0)).sum()), times.len()


def _key(model: str) -> str:
    return f"watch/{model}.json"

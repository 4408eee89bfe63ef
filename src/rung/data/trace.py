"""The whole trail of one prediction: what its id says, its record, the release in force, what was said of it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from rung.catalog import ledger
from rung.data.feedback import versions
from rung.data.predictions import scan
from rung.domain.errors import NotFound
from rung.domain.identity import Identity, Keyring, parse
from rung.domain.releases import Release
from rung.ports import BlobStore

__all__ = ["Trail", "trace"]

_SLACK = 0.002
"""Seconds round the time in an id, which has milliseconds."""
_NEAR = 5.0
"""Seconds round a prediction in which what was lost may be its record."""


class Trail(msgspec.Struct):
    """What is known of a prediction. Parts that are not there are None or empty."""

    id: str
    identity: Identity
    verified: bool
    """Whether its tag is this project's."""
    prediction: dict[str, Any] | None = None
    """Its row of the table `predictions`."""
    release: Release | None = None
    """The link of the model's chain that was in force."""
    shadows: list[dict[str, Any]] = []
    feedback: list[dict[str, Any]] = []
    """Every event, by time; `counts` marks the one that does."""
    gaps: list[dict[str, Any]] = []
    """Where the record is missing: what the log says it lost about then."""


def trace(
    prediction: str,
    *,
    keyring: Keyring | None,
    models: Iterable[str],
    store: BlobStore,
    log: Path,
    repository: BlobStore | None = None,
) -> Trail:
    """Gather the trail of a prediction.

    Args:
        prediction: its id, from the header `rung-prediction-id`.
        keyring: of this project; None leaves the id unverified.
        models: names under which it may have been minted.
        store: where the tables lie.
        log: folder of the segments.
        repository: where the chain of releases lies.

    Raises:
        NotFound: it is no prediction id.
        BundleError: the chain of releases was tampered with.
    """
    trail = Trail(prediction, parse(prediction), verified=False)
    try:
        if keyring is not None:
            trail.identity, trail.verified = keyring.verify(prediction, models), True
    except NotFound:
        pass  # it is said in the trail; what the log has is shown all the same
    when = trail.identity.time
    near = scan(store, log, since=when - _SLACK, until=when + _SLACK)
    trail.prediction = next(iter(_about(near, prediction)), None)
    trail.shadows = _about(scan(store, log, table="shadows", since=when - _SLACK), prediction)
    trail.feedback = versions(store, log, prediction=prediction).to_dicts()
    if trail.prediction is None:
        found = scan(store, log, table="gaps", since=when - _NEAR, until=when + _NEAR).to_dicts()
        trail.gaps = [gap for gap in found if gap["count"] or gap["seconds"]]
    model = trail.identity.model or (trail.prediction or {}).get("model", "")
    if repository is not None and trail.identity.epoch and model:
        trail.release = _release(repository, model, trail.identity.epoch)
    return trail


def _about(rows: Any, prediction: str) -> list[dict[str, Any]]:
    import polars as pl

    found: list[dict[str, Any]] = rows.filter(pl.col("id") == prediction).to_dicts()
    return found


def _release(repository: BlobStore, model: str, epoch: int) -> Release | None:
    try:
        return ledger.read(repository, model, epoch).release
    except NotFound:
        return None

"""Does a version still answer as it answered? Logged requests once more, through the same bundle, value by value.

What differs between training and serving shows here: another transform, another library, a model file that is not what
it was. Requests are read by the code that reads them at the door, and prepared by the bundle's own steps.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rung.catalog import bundles
from rung.data.predictions import scan
from rung.domain.errors import BundleError, ConfigurationError, NotFound, RungError
from rung.domain.models import Manifest
from rung.domain.packing import unpack
from rung.domain.tensors import Array
from rung.plugins import RUNTIMES, resolve
from rung.ports import BlobStore, LoadOptions, Model
from rung.protocols.bodies import payload_of
from rung.stats.intervals import Interval, clopper_pearson
from rung.transforms.pipeline import Pipeline

__all__ = ["Different", "Skew", "replay"]

_COLUMNS = ("version", "rows", "error", "body", "media", "inputs", "outputs", "output_summary")
_SHOWN = 5


class Different(msgspec.Struct, frozen=True):
    """One answer that came out otherwise."""

    id: str
    """Of the prediction."""
    version: int
    output: str
    """That differs most, with the place of its value or the figure of its summary."""
    logged: float
    replayed: float


class Skew(msgspec.Struct, frozen=True):
    """What a replay found."""

    model: str
    requests: int
    """That were looked at, the newest ones."""
    compared: int
    mismatched: int
    share: Interval | None
    """Of the compared ones that differ; None where none was compared."""
    outputs: dict[str, int]
    """Output -> requests in which it differs, the worst first."""
    worst: Different | None
    examples: tuple[Different, ...] = ()
    exact: int = 0
    """Compared value by value; of the others only mean, least and greatest are logged."""
    skipped: dict[str, int] = {}
    """Why requests could not be compared -> how many."""


def replay(
    store: BlobStore,
    log: Path | None,
    repository: BlobStore,
    model: str,
    *,
    now: float,
    count: int = 200,
    rtol: float = 1e-3,
    atol: float = 1e-4,
) -> Skew:
    """Answer the latest logged requests again, each by the version that did, and compare.

    Args:
        store: where the tables of the log lie.
        log: folder of the log's segments.
        repository: where versions lie.
        model: its name.
        now: seconds since the epoch; later requests are left out.
        count: requests, at most.
        rtol: part of a value by which it may differ, as with golden examples.
        atol: what it may differ by beyond that.
    """
    found = _latest(store, log, model, now, count)
    tally = _Tally(rtol, atol)
    for version in sorted({row["version"] for row in found}):
        own = [row for row in found if row["version"] == version]
        try:
            with _loaded(repository, model, version) as (manifest, loaded):
                pipeline = Pipeline.build(manifest)
                for row in own:
                    tally.add(row, manifest, pipeline, loaded)
        except (NotFound, BundleError, ConfigurationError) as error:
            tally.skipped[f"version {version} cannot be loaded: {error}"] += len(own)
    share = clopper_pearson(tally.mismatched, tally.compared) if tally.compared else None
    return Skew(
        model=model,
        requests=len(found),
        compared=tally.compared,
        mismatched=tally.mismatched,
        share=share,
        outputs=dict(tally.outputs.most_common()),
        worst=tally.worst[1] if tally.worst else None,
        examples=tuple(tally.examples),
        exact=tally.exact,
        skipped=dict(tally.skipped),
    )


def _latest(store: BlobStore, log: Path | None, model: str, now: float, count: int) -> list[dict[str, Any]]:
    """The newest answered requests, oldest first."""
    import polars as pl

    times = scan(store, log, model, until=now, columns=["error"]).filter(pl.col("error") == "")["time"]
    if not times.len():
        return []
    rows = scan(store, log, model, since=float(times[-min(count, times.len())]), until=now, columns=_COLUMNS)
    return rows.filter(pl.col("error") == "").tail(count).to_dicts()


@contextmanager
def _loaded(repository: BlobStore, name: str, version: int) -> Iterator[tuple[Manifest, Model]]:
    with tempfile.TemporaryDirectory(prefix="rung-skew-") as folder:
        manifest, _ = bundles.read_version(repository, name, version)
        if manifest.graph is not None:
            raise ConfigurationError("it is a graph of other models: replay those")
        fetched = bundles.fetch(repository, name, version, Path(folder))
        model: Model = resolve(RUNTIMES, manifest.runtime, "runtime")().load(fetched.artifact, LoadOptions(threads=1))
        try:
            yield manifest, model
        finally:
            model.close()


class _Tally:
    def __init__(self, rtol: float, atol: float) -> None:
        self._rtol, self._atol = rtol, atol
        self.compared = self.mismatched = self.exact = 0
        self.outputs: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.examples: list[Different] = []
        self.worst: tuple[float, Different] | None = None

    def add(self, row: dict[str, Any], manifest: Manifest, pipeline: Pipeline, model: Model) -> None:
        """Answer one request again."""
        logged = unpack(msgspec.msgpack.decode(row["outputs"])) if row["outputs"] else None
        summary = {one["name"]: (one["mean"], one["least"], one["greatest"]) for one in row["output_summary"] or ()}
        if logged is None and not summary:
            self.skipped['answers are not logged: set [models.NAME.serve.log] outputs = "tensors"'] += 1
            return
        try:
            inputs = _inputs(row, manifest, pipeline)
            if inputs is None:
                self.skipped['what was asked is not logged: set [models.NAME.serve.log] inputs = "body"'] += 1
                return
            outputs = model.predict(inputs, 1)
        except RungError as error:
            # It was answered once, so whatever refuses it now is a difference.
            self._differs(row, f"refused: {error}", (np.inf, np.nan, np.nan))
            self.compared += 1
            self.mismatched += 1
            return
        self.compared += 1
        self.exact += logged is not None
        apart = self._values(logged, outputs) if logged is not None else self._summaries(summary, outputs)
        self.mismatched += bool(apart)
        for name, difference in apart.items():
            self.outputs[name.partition("[")[0].partition(" ")[0]] += 1
            self._differs(row, name, difference)

    def _differs(self, row: dict[str, Any], name: str, difference: tuple[float, float, float]) -> None:
        excess, was, now = difference
        one = Different(row["id"], row["version"], name, was, now)
        if len(self.examples) < _SHOWN:
            self.examples.append(one)
        if self.worst is None or excess > self.worst[0]:
            self.worst = (excess, one)

    def _values(self, logged: dict[str, Array], outputs: Any) -> dict[str, tuple[float, float, float]]:
        found = {}
        for name, was in logged.items():
            now = outputs.get(name)
            if now is None or np.shape(now) != was.shape:
                found[f"{name} (another shape)"] = (np.inf, np.nan, np.nan)
                continue
            if was.dtype.kind not in "fiub":
                if any(_text(a) != _text(b) for a, b in zip(was.ravel(), np.ravel(now), strict=True)):
                    found[f"{name} (another text)"] = (np.inf, np.nan, np.nan)
                continue
            excess = self._excess(was.astype(np.float64).ravel(), np.asarray(now, np.float64).ravel())
            if excess.size and excess.max() > 0:
                place = int(excess.argmax())
                index = ", ".join(map(str, np.unravel_index(place, was.shape)))
                pair = float(was.ravel()[place]), float(np.ravel(now)[place])
                found[f"{name}[{index}]"] = (float(excess[place]), *pair)
        return found

    def _summaries(
        self, summary: dict[str, tuple[float, float, float]], outputs: Any
    ) -> dict[str, tuple[float, float, float]]:
        found = {}
        for name, was in summary.items():
            if name not in outputs:
                found[f"{name} (gone)"] = (np.inf, np.nan, np.nan)
                continue
            values = np.asarray(outputs[name], np.float64)
            values = values[np.isfinite(values)]
            now = (values.mean(), values.min(), values.max()) if values.size else (0.0, 0.0, 0.0)
            excess = self._excess(np.array(was), np.array(now))
            if excess.max() > 0:
                place = int(excess.argmax())
                figure = ("mean", "least", "greatest")[place]
                found[f"{name} {figure}"] = (float(excess[place]), float(was[place]), float(now[place]))
        return found

    def _excess(self, was: Array, now: Array) -> Array:
        """By how much each value is further away than it may be; what is not finite on one side only is infinitely."""
        same = (was == now) | (np.isnan(was) & np.isnan(now))
        with np.errstate(invalid="ignore"):
            apart: Array = np.abs(was - now) - (self._atol + self._rtol * np.abs(was))
        return np.where(same, -1.0, np.where(np.isfinite(apart), apart, np.inf))


def _inputs(row: dict[str, Any], manifest: Manifest, pipeline: Pipeline) -> Any:
    if row["inputs"]:
        return unpack(msgspec.msgpack.decode(row["inputs"]))
    if not row["body"]:
        return None
    media = row["media"].partition(";")[0].strip().lower()
    return pipeline.prepare(payload_of(row["body"], media, {}, manifest)).inputs


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

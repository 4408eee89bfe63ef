"""Does a version still answer as it answered? Logged requests once more, through the same bundle, value by value.

What differs between training and serving shows here: another transform, another library, a model file that is not what
it was. Requests are read by the code that reads them at the door, and prepared by the bundle's own steps: where the
log has both what was sent and what was made of it, feature by feature.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

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
from rung.transforms.schema import Column

__all__ = ["Different", "Skew", "replay"]

_COLUMNS = ("version", "rows", "error", "body", "media", "inputs", "outputs", "output_summary")
_SHOWN = 5


class Different(msgspec.Struct, frozen=True):
    """One request that came out otherwise."""

    id: str
    """Of the prediction."""
    version: int
    kind: Literal["feature", "output"]
    name: str
    """Of the feature or output that differs, with the place of its value or the figure of its summary."""
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
    """Output -> requests in which it differs, most first."""
    worst: Different | None
    """Of the features, if any differ: they are the cause."""
    examples: tuple[Different, ...] = ()
    exact: int = 0
    """Compared value by value; of the others only mean, least and greatest are logged."""
    prepared: int = 0
    """Whose features were compared as well, because the log has `both` of their inputs."""
    features: dict[str, int] = {}
    """Feature, a column where they have names and else an input -> requests in which it differs, most first."""
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
                columns = _columns(manifest)
                for row in own:
                    tally.add(row, manifest, pipeline, loaded, columns)
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
        worst=tally.worst[2] if tally.worst else None,
        examples=tuple(tally.examples),
        exact=tally.exact,
        prepared=tally.prepared,
        features=dict(tally.features.most_common()),
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


class _Apart(NamedTuple):
    """The values of one feature or output that are furthest apart."""

    excess: float
    """By which they are further apart than they may be."""
    logged: float
    replayed: float
    where: str = ""
    """To be put behind the name."""


class _Tally:
    def __init__(self, rtol: float, atol: float) -> None:
        self._rtol, self._atol = rtol, atol
        self.compared = self.mismatched = self.exact = self.prepared = 0
        self.outputs: Counter[str] = Counter()
        self.features: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.examples: list[Different] = []
        self.worst: tuple[bool, float, Different] | None = None

    def add(
        self,
        row: dict[str, Any],
        manifest: Manifest,
        pipeline: Pipeline,
        model: Model,
        columns: Mapping[str, tuple[str, ...]],
    ) -> None:
        """Answer one request again."""
        logged = unpack(msgspec.msgpack.decode(row["outputs"])) if row["outputs"] else None
        summary = {one["name"]: (one["mean"], one["least"], one["greatest"]) for one in row["output_summary"] or ()}
        if logged is None and not summary:
            self.skipped['answers are not logged: set [models.NAME.serve.log] outputs = "tensors"'] += 1
            return
        sent = unpack(msgspec.msgpack.decode(row["inputs"])) if row["inputs"] else None
        if sent is None and not row["body"]:
            self.skipped['what was asked is not logged: set [models.NAME.serve.log] inputs = "body"'] += 1
            return
        try:
            made = _prepared(row, manifest, pipeline) if row["body"] else None
            outputs = model.predict(made or sent or {}, 1)
        except RungError as error:
            # It was answered once, so whatever refuses it now is a difference.
            self._differs(row, "output", f"refused: {error}", _Apart(np.inf, np.nan, np.nan))
            self.compared += 1
            self.mismatched += 1
            return
        self.compared += 1
        self.exact += logged is not None
        apart = self._values(logged, outputs, {}) if logged is not None else self._summaries(summary, outputs)
        moved: dict[str, _Apart] = {}
        if sent is not None and made is not None:
            self.prepared += 1
            moved = self._values(sent, made, columns)
        self.mismatched += bool(apart or moved)
        for name, one in moved.items():
            self.features[name] += 1
            self._differs(row, "feature", name, one)
        for name, one in apart.items():
            self.outputs[name] += 1
            self._differs(row, "output", name, one)

    def _differs(self, row: dict[str, Any], kind: Literal["feature", "output"], name: str, apart: _Apart) -> None:
        one = Different(row["id"], row["version"], kind, f"{name}{apart.where}", apart.logged, apart.replayed)
        if len(self.examples) < _SHOWN:
            self.examples.append(one)
        rank = (kind == "feature", apart.excess)
        if self.worst is None or rank > self.worst[:2]:
            self.worst = (*rank, one)

    def _values(
        self, logged: Mapping[str, Array], replayed: Mapping[str, Any], columns: Mapping[str, tuple[str, ...]]
    ) -> dict[str, _Apart]:
        """What differs; by column where the last dimension has names."""
        found = {}
        for name, was in logged.items():
            now = replayed.get(name)
            if now is None or np.shape(now) != was.shape:
                found[name] = _Apart(np.inf, np.nan, np.nan, " (another shape)")
                continue
            if was.dtype.kind not in "fiub":
                if any(_text(a) != _text(b) for a, b in zip(was.ravel(), np.ravel(now), strict=True)):
                    found[name] = _Apart(np.inf, np.nan, np.nan, " (another text)")
                continue
            now = np.asarray(now)
            excess = self._excess(was.astype(np.float64), now.astype(np.float64))
            names = columns.get(name, ())
            if was.ndim and len(names) == was.shape[-1]:
                for place, column in enumerate(names):
                    one = _furthest(excess[..., place], was[..., place], now[..., place])
                    if one is not None and (column not in found or one.excess > found[column].excess):
                        found[column] = one._replace(where="")
            elif (one := _furthest(excess, was, now)) is not None:
                found[name] = one
        return found

    def _summaries(self, summary: dict[str, tuple[float, float, float]], outputs: Any) -> dict[str, _Apart]:
        found = {}
        for name, was in summary.items():
            if name not in outputs:
                found[name] = _Apart(np.inf, np.nan, np.nan, " (gone)")
                continue
            values = np.asarray(outputs[name], np.float64)
            values = values[np.isfinite(values)]
            now = (values.mean(), values.min(), values.max()) if values.size else (0.0, 0.0, 0.0)
            excess = self._excess(np.array(was), np.array(now))
            if excess.max() > 0:
                place = int(excess.argmax())
                figure = ("mean", "least", "greatest")[place]
                found[name] = _Apart(float(excess[place]), float(was[place]), float(now[place]), f" {figure}")
        return found

    def _excess(self, was: Array, now: Array) -> Array:
        """By how much each value is further away than it may be; what is not finite on one side only is infinitely."""
        same = (was == now) | (np.isnan(was) & np.isnan(now))
        with np.errstate(invalid="ignore"):
            apart: Array = np.abs(was - now) - (self._atol + self._rtol * np.abs(was))
        return np.where(same, -1.0, np.where(np.isfinite(apart), apart, np.inf))


def _furthest(excess: Array, was: Array, now: Array) -> _Apart | None:
    """The values that are furthest apart; None where none is too far."""
    if not excess.size or excess.max() <= 0:
        return None
    place = np.unravel_index(int(excess.argmax()), excess.shape)
    where = f"[{', '.join(map(str, place))}]" if place else ""
    return _Apart(float(excess[place]), float(was[place]), float(now[place]), where)


def _prepared(row: dict[str, Any], manifest: Manifest, pipeline: Pipeline) -> Any:
    """What the bundle's steps make of the body today."""
    media = row["media"].partition(";")[0].strip().lower()
    return pipeline.prepare(payload_of(row["body"], media, {}, manifest)).inputs


def _columns(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """Input -> the names of its last dimension, for those whose entries have some."""
    steps, inputs = manifest.transforms.input, manifest.signature.inputs
    if len(inputs) == 1 and steps and steps[0].name == "tabular.columns":
        columns = msgspec.convert(steps[0].params["columns"], tuple[Column, ...])
        return {inputs[0].name: tuple(one.name for one in columns for _ in range(one.width))}
    return {one.name: one.columns for one in inputs}


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

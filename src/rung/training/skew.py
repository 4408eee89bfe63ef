"""Does a version still answer as it answered? Logged requests once more, through the same bundle, value by value.

What differs between training and serving shows here: another transform, another library, a model file that is not what
it was. Requests are read by the code that reads them at the door, and prepared by the bundle's own steps: where the
log has both what was sent and what was made of it, feature by feature.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from rung.catalog import bundles
from rung.data.predictions import scan
from rung.domain.errors import ConfigurationError, RungError, WorkerDied
from rung.domain.models import Manifest
from rung.domain.packing import unpack
from rung.domain.predictions import PREDICT
from rung.domain.tensors import Tensors
from rung.plugins import RUNTIMES, resolve
from rung.ports import BlobStore, LoadOptions, Model
from rung.protocols.bodies import payload_of
from rung.protocols.media import content_type
from rung.stats.intervals import Interval, clopper_pearson
from rung.training.differences import ANOTHER, Apart, Tolerance
from rung.transforms.pipeline import Pipeline
from rung.transforms.schema import Column

__all__ = ["Different", "Skew", "replay"]

_COLUMNS = ("version", "rows", "error", "body", "media", "door", "inputs", "outputs", "output_summary")
_SHOWN = 5
_UNKNOWN = 'what was asked is not logged: set [models.NAME.serve.log] inputs = "body"'
_UNREAD = (
    "they came in by another door than /predict, whose bodies are not read again: "
    'set [models.NAME.serve.log] inputs = "both"'
)


class Different(msgspec.Struct, frozen=True):
    """One request that came out otherwise."""

    id: str
    """Of the prediction."""
    version: int
    kind: Literal["feature", "output"]
    name: str
    """Of the feature or output that differs, with the place of its value or the figure of its summary."""
    logged: float
    """NaN where it cannot be put in a number."""
    replayed: float
    """The same."""

    def __str__(self) -> str:
        figures = f" was {self.logged:.6g} and is {self.replayed:.6g}" if self.logged == self.logged else ""
        return f"{self.kind} {self.name} of {self.id}{figures} (version {self.version})"


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
    tally = _Tally(Tolerance(rtol, atol))
    for version in sorted({row["version"] for row in found}):
        own = [row for row in found if row["version"] == version]
        try:
            with _loaded(repository, model, version) as loaded:
                while own:
                    tally.add(own[0], loaded)
                    own.pop(0)
        except RungError as error:
            tally.skipped[f"version {version} cannot be asked: {error}"] += len(own)
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


class _Loaded:
    """A version, ready to answer."""

    def __init__(self, manifest: Manifest, model: Model) -> None:
        self.manifest = manifest
        self.columns = _columns(manifest)
        specs = (*manifest.signature.inputs, *manifest.signature.outputs)
        self.bfloat = frozenset(spec.name for spec in specs if spec.datatype == "BF16")
        self._pipeline, self._model = Pipeline.build(manifest), model

    def prepare(self, row: dict[str, Any]) -> Tensors | None:
        """What the bundle's steps make of the body today; None where it is not here, or came in by another door."""
        if not row["body"] or row["door"] != PREDICT:
            return None
        media, parameters = content_type(row["media"].encode("latin-1"))
        return self._pipeline.prepare(payload_of(row["body"], media, parameters, self.manifest)).inputs

    def predict(self, inputs: Tensors) -> Tensors:
        return self._model.predict(inputs, 1)


@contextmanager
def _loaded(repository: BlobStore, name: str, version: int) -> Iterator[_Loaded]:
    with tempfile.TemporaryDirectory(prefix="rung-skew-") as folder:
        manifest, _ = bundles.read_version(repository, name, version)
        if manifest.graph is not None:
            raise ConfigurationError("it is a graph of other models: replay those")
        fetched = bundles.fetch(repository, name, version, Path(folder))
        model: Model = resolve(RUNTIMES, manifest.runtime, "runtime")().load(fetched.artifact, LoadOptions(threads=1))
        try:
            yield _Loaded(manifest, model)
        finally:
            model.close()


class _Tally:
    def __init__(self, tolerance: Tolerance) -> None:
        self._tolerance = tolerance
        self.compared = self.mismatched = self.exact = self.prepared = 0
        self.outputs: Counter[str] = Counter()
        self.features: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.examples: list[Different] = []
        self.worst: tuple[bool, float, Different] | None = None

    def add(self, row: dict[str, Any], version: _Loaded) -> None:
        """Answer one request again."""
        logged = unpack(msgspec.msgpack.decode(row["outputs"])) if row["outputs"] else None
        summary = {one["name"]: (one["mean"], one["least"], one["greatest"]) for one in row["output_summary"] or ()}
        if logged is None and not summary:
            self.skipped['answers are not logged: set [models.NAME.serve.log] outputs = "tensors"'] += 1
            return
        sent = unpack(msgspec.msgpack.decode(row["inputs"])) if row["inputs"] else None
        try:
            made = version.prepare(row)
            inputs = sent if made is None else made
            if inputs is None:
                self.skipped[_UNREAD if row["body"] else _UNKNOWN] += 1
                return
            outputs = version.predict(inputs)
        except WorkerDied:
            raise
        except RungError as error:
            # It was answered once, so whatever refuses it now is a difference.
            self.compared += 1
            self.mismatched += 1
            self._differs(row, "output", f"refused: {error}", ANOTHER)
            return
        self.compared += 1
        self.exact += logged is not None
        if logged is not None:
            apart = self._tolerance.values(logged, outputs, bfloat=version.bfloat)
        else:
            apart = self._tolerance.summaries(summary, outputs, version.bfloat)
        moved: dict[str, Apart] = {}
        if sent is not None and made is not None:
            self.prepared += 1
            moved = self._tolerance.values(sent, made, version.columns, version.bfloat)
        self.mismatched += bool(apart or moved)
        for name, one in moved.items():
            self.features[name] += 1
            self._differs(row, "feature", name, one)
        for name, one in apart.items():
            self.outputs[name] += 1
            self._differs(row, "output", name, one)

    def _differs(self, row: dict[str, Any], kind: Literal["feature", "output"], name: str, apart: Apart) -> None:
        one = Different(row["id"], row["version"], kind, f"{name}{apart.where}", apart.logged, apart.replayed)
        if len(self.examples) < _SHOWN:
            self.examples.append(one)
        rank = (kind == "feature", apart.excess)
        if self.worst is None or rank > self.worst[:2]:
            self.worst = (*rank, one)


def _columns(manifest: Manifest) -> dict[str, tuple[str, ...]]:
    """Input -> the names of its last dimension, for those whose entries have some."""
    steps, inputs = manifest.transforms.input, manifest.signature.inputs
    if len(inputs) == 1 and steps and steps[0].name == "tabular.columns":
        columns = msgspec.convert(steps[0].params["columns"], tuple[Column, ...])
        return {inputs[0].name: tuple(one.name for one in columns for _ in range(one.width))}
    return {one.name: one.columns for one in inputs}

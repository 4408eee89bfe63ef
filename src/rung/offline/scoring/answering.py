"""A loaded version that answers rows of tables: prepared, computed and finished as a replica would.

What goes in and out row by row in a replica goes here by column, where that gives the same: numbers stay arrays.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from rung.catalog import bundles, releases
from rung.catalog.models import show
from rung.catalog.source import RepositorySource
from rung.domain.errors import ClientError, ConfigurationError, InvalidData, ModelError, WorkerDied
from rung.domain.models import AspiredVersion, Manifest
from rung.domain.predictions import Payload
from rung.domain.tensors import DATATYPES, Array, Tensors
from rung.offline.scoring.reading import ROW
from rung.offline.scoring.results import Answers, first_only, series, shape_of
from rung.offline.scoring.wanted import Wanted, wanted_of
from rung.ports import BlobStore, LoadOptions, Model
from rung.serving.loader import load
from rung.transforms.pipeline import Pipeline

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Answered", "Answerer", "opened", "version_of"]

_LARGEST, _PICTURES = 8192, 16
_UNKNOWN = 64
"""Rows of a call where the first rows of a source tell nothing."""
_AS_FAST, _PICTURES_AS_FAST = 0.9, 0.97
"""Share of the best rate that counts as about as fast: few calls matter where a row costs little."""
_PATIENCE, _SHARE = 1.0, 0.05
"""Seconds that looking for the best batch may take, and those of one size, twice."""

Predict = Callable[[Tensors], Tensors]


class Answered(msgspec.Struct):
    """What a batch gave."""

    rows: "pl.Series"
    """Numbers of the rows that were answered."""
    columns: "list[pl.Series]"
    """Their answers."""
    refused: list[tuple[int, str]]
    """Number of a row, and why."""


class Answerer:
    """A version, ready to answer.

    Attributes:
        manifest: of the version.
        digest: of the version.
        wanted: what it takes.
        answers: what it gives.
        lanes: calls at once.
        batch: rows of one call.
    """

    def __init__(
        self, manifest: Manifest, digest: str, model: Model, pipeline: Pipeline, *, lanes: int, largest: int
    ) -> None:
        self.manifest, self.digest = manifest, digest
        self.wanted: Wanted = wanted_of(manifest, pipeline)
        self.answers: Answers = shape_of(manifest)
        """May be replaced before the first answer."""
        self.lanes = min(lanes, model.lanes) if model.lanes else lanes
        self.batch = 1
        self._model, self._pipeline = model, pipeline
        pictures = self.wanted.kind == "image"
        self._largest = min(_PICTURES if pictures else _LARGEST, largest) if manifest.signature.batched else 1

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.manifest.name} version {self.manifest.version}"

    def measure(self, frame: "pl.DataFrame", columns: Sequence[str]) -> tuple[int, float]:
        """Rows of one call at which these go through fastest, and how many a second then do; takes about a second.

        Of sizes that are about as fast the largest: there is less to do around fewer calls.
        """
        inputs, rows = self._some(frame[: self._largest], columns)
        if not rows:
            return min(self._largest, _UNKNOWN), 0.0
        rates: dict[int, float] = {}
        until = time.monotonic() + _PATIENCE
        size = 1
        while size <= min(self._largest, rows) and time.monotonic() < until:
            try:
                rate = rates[size // 2] if size > 1 else self._rate(inputs, 1, 1)
                # Other rows in each call, as it will be: the same ones again would be in the processor's cache.
                count = max(size, min(rows, int(rate * _SHARE) // size * size))
                rates[size] = max(self._rate(inputs, size, count) for _ in range(2))
            except WorkerDied:
                raise
            except (ClientError, ModelError):
                break
            size *= 2
        best = max(rates.values(), default=0.0)
        share = _PICTURES_AS_FAST if self.wanted.kind == "image" else _AS_FAST
        return max((size for size, rate in rates.items() if rate >= share * best), default=1), best

    def _some(self, frame: "pl.DataFrame", columns: Sequence[str]) -> tuple[Tensors, int]:
        """As many of these rows as the model takes, without looking for those that it does not."""
        while frame.height:
            try:
                prepared = self._pipeline.prepare(self._payload(frame, columns))
            except (ClientError, ModelError):
                frame = frame[: frame.height // 2]
            else:
                return prepared.inputs, prepared.rows
        return {}, 0

    def _rate(self, inputs: Tensors, size: int, count: int) -> float:
        began = time.perf_counter()
        batched = self.manifest.signature.batched
        for start in range(0, count, size):
            self._model.predict(
                inputs if not batched else {name: array[start : start + size] for name, array in inputs.items()}
            )
        return count / max(time.perf_counter() - began, 1e-9)

    def answer(self, frame: "pl.DataFrame", columns: Sequence[str]) -> Answered:
        """Answer these rows, in calls of `batch` of them; if one is refused, halves are tried until it is found.

        Args:
            frame: with the column `row`.
            columns: those that the model is given.

        Raises:
            WorkerDied: the process that holds the model ended.
        """
        import polars as pl

        parts: list[Answered] = list(self._try(frame, columns))
        refused = [one for part in parts for one in part.refused]
        done = [part for part in parts if part.rows.len()]
        if len(parts) == 1:
            return parts[0]
        if not done:
            return Answered(pl.Series(ROW, [], pl.Int64), [], refused)
        together = [pl.concat(list(one)) for one in zip(*(part.columns for part in done), strict=True)]
        return Answered(pl.concat([part.rows for part in done]), together, refused)

    def _try(self, frame: "pl.DataFrame", columns: Sequence[str]) -> Iterator[Answered]:
        try:
            prepared = self._pipeline.prepare(self._payload(frame, columns))
            outputs = self._predict(prepared.inputs, prepared.rows)
            found = self._pipeline.columns(outputs)
            results = self._pipeline.finish(outputs, prepared) if found is None else []
        except WorkerDied:
            raise
        except (ClientError, ModelError) as error:
            if frame.height == 1:
                yield Answered(frame[ROW].clear(), [], [(frame[ROW][0], str(error))])
                return
            middle = frame.height // 2
            yield from self._try(frame[:middle], columns)
            yield from self._try(frame[middle:], columns)
            return
        made = self.answers.columns(results, frame.height) if found is None else series(found)
        for column in made:
            if column.len() != frame.height:
                raise InvalidData(f"{self.name} gave {column.len()} answers to {frame.height} rows")
        yield Answered(frame[ROW], made, [])

    def _predict(self, inputs: Tensors, rows: int) -> Tensors:
        if rows <= self.batch:
            return self._model.predict(inputs)
        parts = [
            self._model.predict({name: array[start : start + self.batch] for name, array in inputs.items()})
            for start in range(0, rows, self.batch)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _payload(self, frame: "pl.DataFrame", columns: Sequence[str]) -> Payload:
        """Some rows as a caller would send them, or as the tensors that these would become."""
        wanted = self.wanted
        if wanted.kind in ("image", "text"):
            return Payload(wanted.kind, frame[columns[0]].to_list())
        if wanted.kind == "matrix":
            matrix = self._matrix(frame, columns)
            if matrix is not None:
                return Payload("tensors", {self.manifest.signature.inputs[0].name: matrix})
            rows = [list(row) for row in frame.select(columns).iter_rows()]
            return Payload("rows", [row[0] for row in rows] if wanted.flat else rows)
        return Payload("rows", {name: self._values(frame[name], name) for name in columns})

    def _values(self, column: "pl.Series", name: str) -> Any:
        # An array has NaN where there is nothing, which the step takes for that.
        if name in self.wanted.arrays and column.dtype.is_numeric() and column.len() > 1:
            return column.to_numpy()
        return column.to_list()

    def _matrix(self, frame: "pl.DataFrame", columns: Sequence[str]) -> Array | None:
        """Plain finite numbers as the model's own tensor; None where somebody has to look at them one by one."""
        spec, signature = self.manifest.signature.inputs[0], self.manifest.signature
        dtype = DATATYPES[spec.datatype]
        if not signature.batched or dtype.kind != "f" or len(spec.shape) > 2:
            return None
        made = np.empty((frame.height, len(columns)), dtype)
        for place, name in enumerate(columns):
            column = frame[name]
            if not column.dtype.is_numeric() or column.null_count():
                return None
            with np.errstate(over="ignore"):
                made[:, place] = column.to_numpy()
        if not np.isfinite(made).all():
            return None
        return made if len(spec.shape) == 2 else made[:, 0]


def version_of(store: BlobStore, name: str, version: int | None) -> int:
    """The version to score with: the one that is named, else the one that answers most callers, else the latest.

    Raises:
        NotFound: there is no such model or version.
    """
    release = releases.current(store, name) if version is None else None
    return release.main.version if release is not None else show(store, name, version).version


@contextmanager
def opened(store: BlobStore, name: str, version: int, cache: Path, threads: int) -> Iterator[Answerer]:
    """Fetch a version, check every byte and its golden examples, and load it; closed at the end of the block.

    Raises:
        NotFound: there is no such version.
        BundleError: it may not be served, and why.
        ConfigurationError: it is a graph of models, which are not scored here.
    """
    manifest, digest = bundles.read_version(store, name, version)
    if manifest.graph is not None:
        raise ConfigurationError(
            f"{name} version {version} is a graph of other models, which is not scored: score with each of those"
        )
    source = RepositorySource(store, cache, [name])
    loaded = load(source, AspiredVersion(name, version, digest), LoadOptions(threads=1), 0.0)
    model = loaded.model
    assert model is not None
    try:
        settled = first_only(loaded.manifest)
        largest = 1 if loaded.cost.largest == 1 else _LARGEST
        yield Answerer(settled, digest, model, Pipeline.build(settled), lanes=threads, largest=largest)
    finally:
        model.close()

"""Rows of a table through a registered version: fetched, verified, loaded and run by the code that serves it.

Nothing here is a second way to prepare a row: what scores well here answers equally in a replica.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rung.catalog import bundles
from rung.domain.errors import ClientError, ConfigurationError, InvalidData, ModelError, WorkerDied
from rung.domain.metrics import task_of
from rung.domain.models import Manifest, Step, Transforms
from rung.domain.predictions import Payload
from rung.plugins import RUNTIMES, resolve
from rung.ports import BlobStore, LoadOptions, Model
from rung.settings.project import DataSection
from rung.transforms.pipeline import Pipeline
from rung.transforms.tasks import default_output

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Answerer", "Batch", "features_of", "opened"]

_ROWS, _PICTURES = 512, 8
"""In one batch: so many pictures with their masks stay small beside the model."""
_REASONS = 3
_ALL_REFUSED = 1_000
_HEADS = {
    "classification.top_k": "classification",
    "segmentation.mask": "segmentation",
    "regression.value": "regression",
}


class Batch(msgspec.Struct):
    """Rows that were answered, with their answers."""

    rows: list[int]
    """Places in the table."""
    results: list[Any]
    """As the output steps give them."""


class Answerer:
    """A loaded version that answers rows of tables.

    Attributes:
        manifest: of the version.
        digest: of the version.
        task: `classification`, `regression` or `segmentation`.
        size: bytes of its artifact.
        refused: rows that it would not answer.
        refusals: why, for the first few.
    """

    def __init__(
        self, manifest: Manifest, digest: str, model: Model, pipeline: Pipeline, *, task: str, threads: int, size: int
    ) -> None:
        self.manifest, self.digest, self.task, self.size = manifest, digest, task, size
        self.refused = 0
        self.refusals: list[str] = []
        self._model, self._pipeline, self._threads = model, pipeline, threads

    @property
    def pictures(self) -> bool:
        """Whether it takes pictures."""
        return "image" in self._pipeline.accepts

    @property
    def largest(self) -> int:
        """Rows in one call at most."""
        if not self.manifest.signature.batched:
            return 1
        return _PICTURES if self.pictures else _ROWS

    def answer(self, frame: "pl.DataFrame", section: DataSection) -> Iterator[Batch]:
        """Answer every row, in order, so many at a time that memory stays small.

        A batch that is refused is taken in halves, until the rows are found that are the reason.

        Raises:
            InvalidData: the table lacks a column that the version takes, or the first 1,000 rows were all refused.
            WorkerDied: the process that holds the model ended.
        """
        columns = self.columns(frame, section)
        for start in range(0, frame.height, self.largest):
            part = frame[start : start + self.largest]
            yield from self._try(part, columns, start)
            if self.refused == start + part.height >= _ALL_REFUSED:
                raise InvalidData(f"the first {self.refused} rows were all refused; {self.refusals[0]}")

    def columns(self, frame: "pl.DataFrame", section: DataSection) -> tuple[str, ...]:
        """Columns of the table that are given to the version.

        Raises:
            InvalidData: one is missing, or it is not clear which.
        """
        import polars as pl

        accepts, features = self._pipeline.accepts, features_of(frame, section)
        if "image" in accepts:
            pictures = [name for name in features if frame.schema.get(name) == pl.Binary]
            filled = [name for name in pictures if frame[name].null_count() < frame.height]
            return (_only(filled, "picture", "bytes"),)
        if "text" in accepts:
            return (_only([name for name in features if frame.schema.get(name) == pl.String], "text", "text"),)
        names = self._names() or features
        missing = [name for name in names if name not in frame.columns and name not in self._optional()]
        if missing:
            raise InvalidData(
                f"{self.manifest.name} version {self.manifest.version} takes the column {missing[0]!r}, and the data "
                f"has {', '.join(frame.columns)}"
            )
        return tuple(name for name in names if name in frame.columns)

    def payload(self, part: "pl.DataFrame", columns: Sequence[str]) -> Payload:
        """Some rows as a caller would send them."""
        if "image" in self._pipeline.accepts:
            return Payload("image", part[columns[0]].to_list())
        if "text" in self._pipeline.accepts:
            return Payload("text", part[columns[0]].to_list())
        steps, inputs = self.manifest.transforms.input, self.manifest.signature.inputs
        if not steps and len(inputs) == 1:
            rows = [list(row) for row in part.select(columns).iter_rows()]
            # A model of one value a row takes the values alone.
            return Payload("rows", [row[0] for row in rows] if len(inputs[0].shape) == 1 else rows)
        return Payload("rows", {name: part[name].to_list() for name in columns})

    def timed(self, payload: Payload) -> float | None:
        """Seconds for one answer to it: input steps, model, output steps; None where it is refused."""
        started = time.perf_counter()
        try:
            self._run(payload)
        except WorkerDied:
            raise
        except (ClientError, ModelError):
            return None
        return time.perf_counter() - started

    def _run(self, payload: Payload) -> list[Any]:
        prepared = self._pipeline.prepare(payload)
        return self._pipeline.finish(self._model.predict(prepared.inputs, self._threads), prepared)

    def _try(self, part: "pl.DataFrame", columns: Sequence[str], start: int) -> Iterator[Batch]:
        try:
            results = self._run(self.payload(part, columns))
        except WorkerDied:
            raise
        except (ClientError, ModelError) as error:
            if part.height > 1:
                middle = part.height // 2
                yield from self._try(part[:middle], columns, start)
                yield from self._try(part[middle:], columns, start + middle)
                return
            self.refused += 1
            if len(self.refusals) < _REASONS:
                self.refusals.append(f"row {start + 1}: {error}")
            return
        if len(results) != part.height:
            raise InvalidData(f"{self.manifest.name} gave {len(results)} answers to {part.height} rows")
        yield Batch(list(range(start, start + part.height)), results)

    def _names(self) -> tuple[str, ...]:
        """Columns by name, where the version knows them."""
        steps, inputs = self.manifest.transforms.input, self.manifest.signature.inputs
        if steps and steps[0].name == "tabular.columns":
            return tuple(column["name"] for column in steps[0].params["columns"])
        if len(inputs) > 1:
            return tuple(spec.name for spec in inputs)
        return inputs[0].columns

    def _optional(self) -> frozenset[str]:
        steps = self.manifest.transforms.input
        columns = steps[0].params["columns"] if steps and steps[0].name == "tabular.columns" else []
        return frozenset(column["name"] for column in columns if column.get("default") is not None)


@contextmanager
def opened(
    store: BlobStore, name: str, version: int, *, task: str = "", threads: int = 1, cache: Path | None = None
) -> Iterator[Answerer]:
    """Fetch a version, check every byte, and load it; closed at the end of the block.

    Args:
        store: the repository.
        name: of the model.
        version: its number.
        task: what it is scored as; empty: as its manifest says, or as its output step shows.
        threads: cores of one call.
        cache: folder for downloaded files; None: they are thrown away.

    Raises:
        NotFound: there is no such version.
        BundleError: it may not be served, and why.
        ConfigurationError: it cannot be scored as this task.
    """
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="rung-evaluate-") as folder:
            with opened(store, name, version, task=task, threads=threads, cache=Path(folder)) as answerer:
                yield answerer
            return
    manifest, digest = bundles.read_version(store, name, version)
    if manifest.graph is not None:
        raise ConfigurationError(
            f"{name} version {version} is a graph of other models: evaluate those, each on its own data"
        )
    manifest, task = _with_head(manifest, task_of(task or manifest.task))
    fetched = bundles.fetch(store, name, version, cache)
    model: Model = resolve(RUNTIMES, manifest.runtime, "runtime")().load(fetched.artifact, LoadOptions(threads=threads))
    try:
        size = sum(
            digest.size
            for file, digest in manifest.files.items()
            if file == manifest.artifact or file.startswith(f"{manifest.artifact}/") or file.endswith(".data")
        )
        pipeline = Pipeline.build(manifest)
        yield Answerer(manifest, digest, model, pipeline, task=task, threads=threads, size=size)
    finally:
        model.close()


def features_of(frame: "pl.DataFrame", section: DataSection) -> tuple[str, ...]:
    """Columns that a model may see: those that are named, else all that no other setting names."""
    return section.seen(frame.columns)


def _with_head(manifest: Manifest, task: str) -> tuple[Manifest, str]:
    """The manifest with an output step that names all classes, and the task that the step does."""
    outputs = manifest.transforms.output or default_output(task, manifest.signature, manifest.labels)
    done = _HEADS.get(outputs[-1].name) if outputs else None
    if done is None or (task and done != task):
        have = f"its output step is {outputs[-1].name}" if outputs else "it has no output step"
        raise ConfigurationError(
            f"{manifest.name} version {manifest.version} cannot be scored as {task or 'any task'}: {have}. Scored are "
            "classification, regression and segmentation, by the steps classification.top_k, regression.value and "
            "segmentation.mask"
        )
    if done == "classification":
        # Not only the likeliest few, which is all that a caller may want.
        every = {**outputs[-1].params, "k": 1 << 30, "threshold": None}
        outputs = (*outputs[:-1], Step(outputs[-1].name, every))
    return msgspec.structs.replace(manifest, transforms=Transforms(manifest.transforms.input, outputs)), done


def _only(names: list[str], what: str, kind: str) -> str:
    if len(names) == 1:
        return names[0]
    found = f"{', '.join(names)} hold {kind}" if names else f"no feature holds {kind}"
    raise InvalidData(f"the model takes one {what} a row, and {found}: name the column in data.features")

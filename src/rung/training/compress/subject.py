"""The version that is compressed: its graph, rows to work with, and how candidates are judged against it.

Candidates are registered in a repository of their own, which is thrown away: they are scored by the code that scores
any version, and the project's repository is not touched before the gate has opened.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from rung.catalog import bundles, models
from rung.catalog.golden import make_inputs, unpack_golden
from rung.domain.errors import ClientError, ConfigurationError, InvalidData
from rung.domain.metrics import METRICS, Direction, default_metric, measure
from rung.domain.models import Manifest
from rung.domain.scorecards import Figure
from rung.domain.tensors import Array, Tensors
from rung.ports import BlobStore, Fetched
from rung.settings.project import ModelSettings, ProjectSettings
from rung.stats.intervals import wilson
from rung.store.blobs import open_store
from rung.training.answering import Answerer, opened
from rung.training.compress.graph import outputs_of, read
from rung.training.compress.report import SliceDrop
from rung.training.evaluation import Holdout, holdout_of
from rung.training.grading import Graded, grade
from rung.training.scorecard import compare, compare_slices, figures, groups_of
from rung.transforms.pipeline import Pipeline

__all__ = ["Judged", "Subject", "open_subject"]

_CALIBRATION, _CALIBRATION_PICTURES = 256, 32
_MADE_UP, _MADE_UP_PICTURES = 1000, 64
_PICTURE = 10_000
"""Elements of a row from which on it counts as a picture."""


class Judged(msgspec.Struct):
    """What became of the metric."""

    metric: str
    direction: Direction
    before: Figure
    after: Figure
    difference: Figure
    agree: Figure | None = None
    slices: tuple[SliceDrop, ...] = ()
    metrics: dict[str, float] = {}
    """Of the candidate, by name; empty without labels."""


class Subject:
    """What is compressed.

    Attributes:
        manifest, digest: of the version.
        graph: its `ModelProto`.
        rows: batches of inputs, from the training split where there is one; else golden and made-up ones.
        real: whether they are rows of data.
        held_out: which rows candidates are judged on.
        notes: what a reader of the figures has to know.
    """

    def __init__(self, fetched: Fetched, digest: str, store: BlobStore, threads: int) -> None:
        self.manifest, self.digest = fetched.manifest, digest
        self.graph: Any = read(Path(fetched.artifact))
        self.rows: Sequence[Tensors] = ()
        self.real = False
        self.held_out = ""
        self.notes: list[str] = []
        self._store, self._folder, self._threads = store, fetched.folder, threads
        self._holdout: Holdout | None = None
        self._graded: Graded | None = None
        self._task = ""
        self._probes: list[Tensors] = []

    @property
    def size(self) -> int:
        """Bytes of the artifact, with the weights beside it."""
        return sum(
            file.size
            for name, file in self.manifest.files.items()
            if name.startswith(self.manifest.artifact) and not name.endswith(".signature.json")
        )

    @property
    def profile(self) -> Path | None:
        """The profile of the data that the version was trained on."""
        return self._folder / self.manifest.profile if self.manifest.profile and self._folder else None

    @property
    def examples(self) -> list[Tensors] | None:
        """Inputs of its golden examples; None where it has none."""
        golden = self.manifest.golden
        if golden is None or self._folder is None:
            return None
        return [inputs for inputs, _ in unpack_golden((self._folder / golden.file).read_bytes())]

    def with_data(self, holdout: Holdout, task: str) -> None:
        """Judge on these rows; what they are is read by the original now.

        Raises:
            InvalidData, ConfigurationError: it cannot be scored on them.
        """
        manifest = self.manifest
        frame, section = holdout.frame, holdout.section
        with opened(self._store, manifest.name, manifest.version, task=task, threads=self._threads) as answerer:
            self._graded = grade(answerer, frame, section.label, answerer.answer(frame, section))
            self._task = answerer.task
            learned = holdout.learned
            if learned is not None and learned.height:
                self.rows = _inputs_of(answerer, manifest, learned, holdout)
                self.real = bool(self.rows)
            if not self.real:
                self.rows = _inputs_of(answerer, manifest, frame, holdout)
                self.real = bool(self.rows)
                self.notes.append("ranges and moments are of the rows that it is judged on: no training rows are known")
        self._holdout = holdout
        where = f"the {holdout.split} split: " if holdout.split != "all" else ""
        self.held_out = f"{where}{holdout.held_out}"
        self.notes += list(holdout.notes)

    def without_data(self, why: str) -> None:
        """Judge by how far a candidate's answers are those of the original."""
        signature = self.manifest.signature
        golden = self.examples or []
        elements = sum(int(np.prod([max(size, 1) for size in spec.shape])) for spec in signature.inputs)
        count = _MADE_UP if elements < _PICTURE else _MADE_UP_PICTURES
        self._probes = [*golden, *make_inputs(signature, count)]
        self.rows = self._probes[:_CALIBRATION]
        self.held_out = f"{len(golden)} golden examples and {count} made-up ones, not on data"
        self.notes.append(
            f"{why}: what is shown is agreement with the original on made-up inputs, which says little of real ones"
        )

    def judge(self, candidate: Path, graph: Any, version: int) -> Judged:
        """Compare a candidate's answers with the original's.

        Args:
            candidate: its file.
            graph: the same in memory.
            version: number for it in the repository that is thrown away.

        Raises:
            BundleError: it cannot be served.
        """
        if self._holdout is None or self._graded is None:
            return self._agreement(graph)
        return self._scores(candidate, self._holdout, self._graded, version)

    def apart(self, graph: Any) -> tuple[float, str]:
        """Largest distance of any answer from the original's, over `atol + rtol * |answer|` of the golden examples."""
        golden = self.manifest.golden
        atol, rtol = (golden.atol, golden.rtol) if golden is not None else (1e-4, 1e-3)
        rows = self._probes or self.rows
        before, after = outputs_of(self.graph, rows), outputs_of(graph, rows)
        worst, where = 0.0, ""
        for name, arrays in before.items():
            for old, new in zip(arrays, after[name], strict=True):
                if old.dtype.kind != "f":
                    distance = float(np.any(old != new)) * 2
                else:
                    far = np.abs(new.astype(np.float64) - old) / (atol + rtol * np.abs(old.astype(np.float64)))
                    distance = float(far.max()) if far.size else 0.0
                if distance > worst:
                    worst, where = distance, name
        return worst, where

    def _scores(self, candidate: Path, holdout: Holdout, old: Graded, version: int) -> Judged:
        manifest, frame, section = self.manifest, holdout.frame, holdout.section
        models.register(
            self._store,
            candidate,
            name=manifest.name,
            runtime="onnx",
            examples=self.examples,
            version=version,
            task=manifest.task,
            labels=manifest.labels,
            transforms=manifest.transforms,
        )
        with opened(self._store, manifest.name, version, task=self._task, threads=self._threads) as answerer:
            new = grade(answerer, frame, section.label, answerer.answer(frame, section))
            digest = answerer.digest
        if len(new.rows) < len(old.rows):
            raise InvalidData(f"it refuses {len(old.rows) - len(new.rows)} rows that the original answers")
        measured = measure(holdout.metric or default_metric(self._task))
        groups, _ = groups_of(frame, new.rows, section)
        compared = compare(new, old, (version, digest), measured, groups)
        found, _ = figures(new, self._task, measured.name, groups)
        before, _ = figures(old, self._task, measured.name, groups_of(frame, old.rows, section)[0])
        drops = []
        for column, value, rows, one in compare_slices(new, old, frame, section.slices, measured, groups):
            name = f"{column} {value}" if value[:1] in ("<", ">") else f"{column} = {value}"
            drops.append(
                SliceDrop(name, rows)
                if one is None
                else SliceDrop(name, rows, one.other, one.value, one.figure, one.standing == "worse")
            )
        return Judged(
            metric=measured.name,
            direction=measured.direction,
            before=before[0],
            after=found[0],
            difference=compared.differences[0].figure,
            agree=compared.agree,
            slices=tuple(drops),
            metrics={one.name: one.value for one in found if not one.of and one.name in METRICS},
        )

    def _agreement(self, graph: Any) -> Judged:
        name = self.manifest.signature.outputs[0].name
        before = outputs_of(self.graph, self._probes)[name]
        after = outputs_of(graph, self._probes)[name]
        task = self.manifest.task.rpartition("-")[2]
        if task == "classification" and before[0].ndim == 2 and before[0].shape[1] > 1:
            return _alike(before, after)
        return _distance(before, after)


def _alike(before: list[Array], after: list[Array]) -> Judged:
    same = np.concatenate([old.argmax(1) == new.argmax(1) for old, new in zip(before, after, strict=True)])
    found, count = wilson(int(same.sum()), len(same)), len(same)
    agree = Figure("agreement", found.estimate, found.low, found.high, count, count, found.method)
    whole = Figure("agreement", 1.0, 1.0, 1.0, count, count, "by definition")
    lost = Figure("agreement", found.estimate - 1, found.low - 1, found.high - 1, count, count, found.method)
    return Judged("agreement", "maximize", whole, agree, lost, agree)


def _distance(before: list[Array], after: list[Array]) -> Judged:
    from scipy.stats import t

    def size(array: Array) -> float:
        return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))

    scale = float(np.mean([size(old) for old in before])) or 1.0
    errors = np.array([size(new.astype(np.float64) - old) for old, new in zip(before, after, strict=True)]) / scale
    count, middle = len(errors), float(errors.mean())
    radius = float(t.ppf(0.975, count - 1)) * float(errors.std(ddof=1)) / float(np.sqrt(count))
    name = "relative_error"
    far = Figure(name, middle, max(middle - radius, 0.0), middle + radius, count, count, "t")
    return Judged(name, "minimize", Figure(name, 0.0, 0.0, 0.0, count, count, "by definition"), far, far)


def _inputs_of(answerer: Answerer, manifest: Manifest, frame: Any, holdout: Holdout) -> list[Tensors]:
    """Rows as the graph takes them, one a batch, the same every time; those that are refused are passed over."""
    section, pipeline = holdout.section, Pipeline.build(manifest)
    columns = answerer.columns(frame, section)
    count = _CALIBRATION_PICTURES if answerer.pictures else _CALIBRATION
    chosen = frame.sample(min(count, frame.height), seed=0)
    found: list[Tensors] = []
    for row in range(chosen.height):
        try:
            found.append(pipeline.prepare(answerer.payload(chosen[row : row + 1], columns)).inputs)
        except ClientError:
            continue
    return found


def open_subject(
    store: BlobStore,
    name: str,
    version: int,
    *,
    settings: ProjectSettings,
    folder: Path,
    source: str,
    place: Path,
) -> Subject:
    """Fetch a version and the rows to judge by; `place` is a folder for what is thrown away.

    Raises:
        NotFound: there is no such version.
        BundleError: it may not be served.
        ConfigurationError: it is no ONNX model.
        InvalidData: `source` has no rows, or they cannot be scored.
    """
    manifest, digest = bundles.read_version(store, name, version)
    if manifest.runtime != "onnx" or manifest.graph is not None:
        what = "a graph of other models" if manifest.graph is not None else f"run by {manifest.runtime}"
        raise ConfigurationError(
            f"{name} version {version} is {what}: only ONNX models can be compressed: "
            "export it to ONNX and register that"
        )
    fetched = bundles.fetch(store, name, version, place / "cache")
    trial = open_store(str(place / "trial"))
    for file in (*manifest.files, bundles.MANIFEST):
        trial.put(f"{name}/{version}/{file}", store.get(f"{name}/{version}/{file}"))
    model = settings.models.get(name, ModelSettings())
    subject = Subject(fetched, digest, trial, max(model.run.threads, 1))
    try:
        holdout = holdout_of(settings, folder, manifest, split="validation", source=source)
    except InvalidData as error:
        if source:
            raise
        subject.without_data(str(error).partition(":")[0])
        return subject
    task = manifest.task or model.task
    if not holdout.section.label:
        if source:
            raise InvalidData(f"[models.{name}.data] label names no column: scores need the truth")
        subject.without_data("the project names no label column")
        return subject
    subject.with_data(holdout, task)
    return subject

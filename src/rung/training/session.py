"""One training process from its order to what it produced: read data, check it, run `train`, write the model down."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rung.domain.datasets import DatasetVersion, Split
from rung.domain.errors import InvalidData
from rung.domain.metrics import default_metric, direction
from rung.domain.profiles import Profile
from rung.domain.runs import RunSpec
from rung.settings.file import load_project
from rung.settings.project import DataSection, ModelSettings
from rung.store.blobs import open_store
from rung.training.checkpoints import Checkpoints
from rung.training.context import Context, Watch
from rung.training.events import Event, Produced, Ready, Said
from rung.training.feeding import Feed
from rung.training.trained import with_columns, wrap, write
from rung.transforms.pipeline import digest_of

if TYPE_CHECKING:
    import polars as pl

    from rung.training.orders import Order

__all__ = ["GOLDEN", "MODEL_FOLDER", "PROFILE", "Session", "prepare", "watch_of"]

MODEL_FOLDER = "model"
"""Folder within the run's for what `train` made."""
PROFILE = "profile.json"
GOLDEN = "golden.npz"
_LEAST_ROWS = 32
"""Rows of each split that a smoke run keeps, where there are so many."""


def watch_of(model: ModelSettings) -> Watch:
    """What to look at while a model trains."""
    metric = model.metric or default_metric(model.task)
    return Watch(
        metric=metric,
        minimize=(model.direction or direction(metric)) == "minimize",
        patience=model.run.patience,
        skips=model.run.skips,
        checkpoint_seconds=model.run.checkpoint_seconds,
    )


class Session:
    """What one process holds while it trains."""

    def __init__(self, order: "Order", model: ModelSettings, context: Context, profile: bytes) -> None:
        self.context = context
        self._order, self._model, self._profile = order, model, profile

    @contextmanager
    def together(self) -> Iterator[None]:
        """Be one of several processes while the block runs."""
        spec = self._order.spec
        if spec.workers == 1:
            yield
            return
        from rung.training.distributed import join, leave

        join(self._order.rank, spec.workers, self._order.rendezvous, self.context.device)
        try:
            yield
        finally:
            leave()

    def produce(self, returned: Any, seconds: float) -> Produced:
        """Write down what `train` returned."""
        context = self.context
        stopped = context.stopped
        folder = Path(self._order.run, MODEL_FOLDER)
        artifact, declared, digest = "", {}, ""
        metrics = dict(context.best_metrics)
        if not stopped:
            trained = wrap(returned)
            artifact = str(write(trained, folder))
            metrics |= trained.metrics
            transforms = with_columns(trained, context.data.columns)
            digest = digest_of(transforms)
            declared = msgspec.to_builtins(
                {
                    "task": self._model.task,
                    # Of numpy's kinds of text, too, as classes_ has them.
                    "labels": [str(one) for one in trained.labels or self._model.labels or context.data.labels],
                    "transforms": transforms,
                    "description": trained.description,
                }
            )
            Path(folder, PROFILE).write_bytes(self._profile)
            _keep_golden(folder, trained.golden or _first_of(trained.example))
        return Produced(
            artifact=artifact,
            declared=declared,
            metrics=metrics,
            best_step=context.plateau.best_step or context.steps,
            last_step=context.steps,
            planned=context.planned,
            stopped=stopped,
            transforms=digest,
            skipped=context.skipped,
            data_wait=context.data.waited / seconds if seconds > 0 else 0.0,
            seconds=seconds,
            peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
        )


def prepare(
    order: "Order",
    function: Callable[[Any], Any],
    threads: int,
    tell: Callable[[Event], None],
    asked: Callable[[], bool],
) -> Session:
    """Read the data and check it; returns when `function` may run.

    Raises:
        InvalidData: it is empty, or not what it was.
    """
    from rung.data import datasets, validation
    from rung.data.profile import make

    spec, project = order.spec, Path(order.project)
    model = load_project(project).models[spec.model]
    section = model.dataset
    version, whole = _read(order, section, tell)
    # A column that only divides this version is none of the data.
    shown = whole.drop(version.split) if version.split != section.split and version.split else whole
    section = datasets.divided(section, version)
    parts, of = _divide(whole, section, spec.smoke)
    baseline = msgspec.json.decode(order.baseline, type=Profile) if order.baseline else None
    made = b""
    if order.rank == 0:
        profile = make(shown, label=section.label, time=section.time, key=section.key)
        for finding in validation.gate(validation.check(shown, baseline, section, profile=profile)):
            tell(Said(finding))
        made = msgspec.json.encode(profile)
    feed = Feed(version, parts, section, labels=model.labels)
    context = Context(
        spec,
        feed,
        watch_of(model),
        Checkpoints(Path(order.run, "checkpoints")),
        folder=Path(order.run, "work"),
        device=_device(spec, order.rank),
        tell=tell,
        asked_to_stop=asked,
        rank=order.rank,
    )
    context.folder.mkdir(parents=True, exist_ok=True)
    resumed = context.begin() if order.resumed else 0
    if order.rank == 0:
        tell(Ready(version.digest, feed.rows, of, threads, context.device, resumed))
    return Session(order, model, context, made)


def _read(order: "Order", section: DataSection, tell: Callable[[Event], None]) -> tuple[DatasetVersion, "pl.DataFrame"]:
    from rung.data import datasets

    spec = order.spec
    store = open_store(order.data)
    if spec.dataset:
        version = datasets.load(store, spec.model, spec.dataset)
    elif section.source:
        version = datasets.ingest(store, spec.model, section, Path(order.project))
        if version.quarantined:
            tell(Said(f"{version.quarantined} rows were refused; see rung data show {spec.model}"))
    else:
        raise InvalidData(
            f'[models.{spec.model}] says no data: add data = "csv:FILE" or data = "module:function", '
            "or [models.NAME.data] with a source"
        )
    # Beside the runs of the project, also where the code lies elsewhere.
    whole = datasets.frame(store, version, cache=Path(order.run).parents[1] / "cache" / "data")
    if not whole.height:
        raise InvalidData(f"there is no row in {section.source}")
    if section.label and section.label not in whole.columns:
        raise InvalidData(f"there is no column {section.label!r} (label); there are {', '.join(whole.columns)}")
    missing = [name for name in section.features if name not in whole.columns]
    if missing:
        raise InvalidData(f"there is no column {missing[0]!r} (features); there are {', '.join(whole.columns)}")
    return version, whole


def _divide(
    whole: "pl.DataFrame", section: DataSection, smoke: float
) -> tuple[dict[Split, "pl.DataFrame"], dict[str, int]]:
    """The splits, cut down for a smoke run, and how many rows each has in whole."""
    from rung.data.splits import divide

    parts = divide(whole, section)
    if not parts["train"].height:
        raise InvalidData(f"no row of {section.source} falls into the training split")
    of: dict[str, int] = {name: part.height for name, part in parts.items()}
    if smoke:
        parts = {name: _some(part, smoke, ordered=bool(section.time)) for name, part in parts.items()}
    return parts, of


def _some(part: "pl.DataFrame", share: float, *, ordered: bool) -> "pl.DataFrame":
    count = max(min(part.height, _LEAST_ROWS), round(part.height * share))
    return part.head(count) if ordered else part.sample(count, seed=0)


def _device(spec: RunSpec, rank: int) -> str:
    import sys

    wanted = spec.device
    # A run without torch has no use for a device, and must not load torch to hear so.
    if "torch" not in sys.modules:
        return "cpu" if wanted == "auto" else wanted
    from rung.training.torch_steps import pick_device

    picked = pick_device(wanted)
    if spec.workers == 1:
        return picked
    from rung.training.distributed import device_of

    return device_of(picked, rank)


def _keep_golden(folder: Path, golden: Any) -> None:
    """Inputs of golden examples, for whoever registers."""
    if golden:
        from rung.catalog.golden import pack_golden

        (folder / GOLDEN).write_bytes(pack_golden([(dict(one), {}) for one in golden]))


def _first_of(example: Any) -> list[dict[str, Any]]:
    return [{name: array[:1] for name, array in example.items()}] if example else []

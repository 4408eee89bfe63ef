"""The sections of a project's `rung.toml`. The file beats the defaults, the environment the file, a flag all.

The reference page is made from these classes: the string below a field is its documentation.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

from rung.domain.studies import Choices, Pruner, Range, Sampler
from rung.settings.alerts import AlertsSection
from rung.settings.cache import parse_size
from rung.settings.front import FrontSection
from rung.settings.offline import OfflineSection
from rung.settings.queue import check_queue
from rung.settings.replica import ServeSettings
from rung.settings.scaling import ReplicaCount
from rung.settings.scoring import ScoreSection

__all__ = [
    "ControlSettings",
    "DataSection",
    "DriftSection",
    "LogSection",
    "ModelSettings",
    "ProjectSection",
    "ProjectSettings",
    "ReleaseSection",
    "RetrainSection",
    "RunSection",
    "ServeSection",
    "TuneSection",
    "WorkerSettings",
]

_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]
_Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]


class ProjectSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[project]`: what the project is called, and where its things lie. Paths are relative to its folder."""

    name: str = ""
    """What the project is called; empty means as its folder."""
    store: str = "sqlite:.rung/rung.db"
    """Database of jobs and schedules, by URL: `sqlite:PATH` or `postgresql://...`."""
    repository: str = ".rung/repository"
    """Where models and releases lie: a folder or `s3://bucket/prefix`."""
    log: str = ".rung/log"
    """Folder of this machine to which replicas write the prediction log."""
    data: str = ".rung/data"
    """Where the tables lie that the log is turned into: a folder or `s3://bucket/prefix`."""
    queue: str = "sql"
    """What carries the items of requests that are answered later: `sql` is the job table in `store`;
    `nats://HOST:PORT` or `redis://HOST:PORT/0` a server. Jobs are in `store` in any case."""
    cache: str = "memory"
    """Where answers are cached for models that ask for it: `memory`, or `redis://...` to share them."""
    engine: Literal["local"] = "local"
    """Where training and scoring run: `local` is this machine."""

    def __post_init__(self) -> None:
        check_queue(self.queue)


class LogSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME.serve.log]`: what the prediction log keeps of a model's requests and answers."""

    inputs: Literal["off", "digest", "body", "tensors", "both"] = "off"
    """What is kept of what was asked: nothing, a digest, the body as it came, the tensors made of it, or both."""
    outputs: Literal["off", "digest", "summary", "tensors"] = "summary"
    """What is kept of what was answered; `summary` is mean, minimum and maximum of each output."""
    sample: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    """Share of the units whose requests are logged."""
    tensor_bytes: _Count = 64 << 10
    """Tensors and bodies above this size are left out; digest or summary stand in for them."""
    days: _Count = 0
    """Days after which rows are deleted; 0: never."""


class ServeSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME.serve]`: how a model answers."""

    objective_ms: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Latency to hold, in milliseconds; 0 means that of `[serve]`."""
    model: str = ""
    """A class of your own that answers, as `module:Class` or `file.py:Class`, or a model's file, where no version in
    the repository is to; empty: the repository's."""
    replicas: ReplicaCount = ReplicaCount()
    cache: str = ""
    """Memory for cached answers, such as `64MiB`; empty: none are cached. Models share what they ask for together."""
    log: LogSection = LogSection()

    def __post_init__(self) -> None:
        if self.cache:
            parse_size(self.cache)


class ReleaseSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`[models.NAME.release]`: how a new version gets its users."""

    ladder: tuple[_Percent, ...] = (0.0, 1.0, 5.0, 25.0, 50.0, 100.0)
    """Percent of the units at each stage of a rollout; 0 answers copies only."""
    guard: tuple[str | dict[str, Any], ...] = ()
    """What a candidate must not make worse: names, or tables with `metric` and what differs; empty: `errors` and
    `latency`."""
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.01
    """Probability of taking back a candidate that does no harm, over all guards and looks together."""
    units: tuple[_Count, ...] = ()
    """Least units that the candidate has answered before each stage ends; empty: as simulations say."""
    seconds: tuple[Annotated[float, msgspec.Meta(ge=0)], ...] = (300.0,)
    """Least time at each stage; the last stands for all that follow."""
    longest: _Seconds = 7 * 86_400.0
    """Seconds after which a stage that has not decided ends as inconclusive."""
    maturity: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Age in seconds at which a prediction's label counts; 0: learned from how long labels take."""
    unit: str = "header:rung-unit"
    """What a unit is: `header:NAME`, `cookie:NAME`, `json:FIELD` or `address`."""
    wire_units: _AtLeastOne = 3
    """Units that have to be hit before a trip-wire takes a candidate back at once."""


class RetrainSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME.retrain]`: when a model is trained anew, on what, and what a new version has to show."""

    on: tuple[str, ...] = ()
    """What starts it: `drift`, `quality`, `labels:COUNT` (that many labels since the last), `cron:EXPRESSION`."""
    watch: _Seconds = 300.0
    """Seconds between two looks at drift, quality and labels."""
    cooldown: Annotated[float, msgspec.Meta(ge=0)] = 3600.0
    """Seconds from one request to the next, at least. A person need not wait."""
    budget: str = ""
    """Most retrainings in a time, such as `4/month` (or day, week); empty: no limit. A person is not counted."""
    cohort: _Seconds = 86_400.0
    """Seconds of predictions whose quality is judged together."""
    kind: Literal["label", "mask", "score", "correction"] = "label"
    """Kind of feedback that says what would have been right."""
    rows: str = ""
    """Function that makes a row of the data of a labelled request, as `module:function`; empty: the fields of the
    request and the label, by their names."""
    windows: tuple[str, ...] = ("all",)
    """What to learn from: `all`, `requests:COUNT` (the earlier data and so many of the latest labelled requests) or
    `rows:COUNT` (the latest rows, be they requests or earlier data). Of several each is tried, and the one that does
    best on later rows is taken."""
    longest: _Seconds = 86_400.0
    """Seconds that a step, such as the training, may take: one that hangs is ended then, and tried again."""
    least: _AtLeastOne = 40
    """Labelled requests that have to be there."""
    holdout: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.3
    """Share of the labelled requests, the latest, that old and new version are compared on and nobody learns from."""
    margin: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.02
    """How much worse than the old version a new one may be on them, as a share of the largest loss."""
    forget: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.05
    """The same on what was held out of the data before, and on slices; 1: nobody looks, since that world is gone."""
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    """Probability that a version that is worse by the margin passes."""
    slower: Annotated[float, msgspec.Meta(gt=0)] = 1.5
    """How many times as long an answer of the new version may take."""
    larger: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    """How many times the bytes it may have."""


class DriftSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME.drift]`: when what a model is asked counts as having moved."""

    window: _AtLeastOne = 500
    """Rows that are compared with the training data at a time."""
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds of requests that are a window, in place of so many rows; 0: by rows."""
    margin: Annotated[float, msgspec.Meta(gt=0)] = 0.25
    """Shift in standard deviations that does not matter; one of twice that does."""
    alpha: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.05
    """Probability that any column of a window drifts by chance, where nothing has changed."""
    persistence: tuple[_AtLeastOne, _AtLeastOne] = (2, 3)
    """In how many of how many windows a column has to drift until it is confirmed."""
    replay: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Requests that each look answers again, to tell whether they still come out as they did; 0: none."""

    def __post_init__(self) -> None:
        need, of = self.persistence
        if not need <= of <= 10:
            raise ValueError(f"persistence = [{need}, {of}] makes no sense: at most 10 windows, and no more than those")


class DataSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME.data]`: what a model learns from. `data = "URL"` is short for its `source` alone."""

    source: str = ""
    """URL of the rows, such as `csv:rides.csv`, or `module:function` that yields them; see the page on data."""
    label: str = ""
    """Column that holds what is to be predicted."""
    features: tuple[str, ...] = ()
    """Columns that the model sees; empty: all that no other setting but `slices` names."""
    ignore: tuple[str, ...] = ()
    """Columns that it must not see, such as those that are known only afterwards."""
    time: str = ""
    """Column by which rows are ordered: the latest ones are held out, so that no future is learned from."""
    group: str = ""
    """Column whose equal values stay together: all rows of a patient are held out, or none."""
    key: tuple[str, ...] = ()
    """Columns that tell rows apart; rows that agree in them are duplicates. Empty: all columns."""
    split: str = ""
    """Column that says `train`, `validation` or `test`; empty: rows are divided as the next two settings say."""
    validation: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.15
    """Share of the rows by which the best step is chosen."""
    test: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.15
    """Share of the rows that only `rung evaluate` looks at."""
    slices: tuple[str, ...] = ()
    """Columns by whose values scores are shown apart."""
    stale: str = ""
    """Age of the newest row above which data is too old to train on, such as `2d`; needs `time`."""

    def seen(self, columns: Iterable[str]) -> tuple[str, ...]:
        """Which of these columns the model sees."""
        return self.features or tuple(name for name in columns if name not in self.unseen)

    @property
    def unseen(self) -> tuple[str, ...]:
        """Columns that something else is said of."""
        return tuple(filter(None, (self.label, self.time, self.group, self.split, *self.key, *self.ignore)))


class RunSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME.run]`: how training runs."""

    seed: _Count = 0
    """Start of all random numbers."""
    device: str = "auto"
    """`auto` takes a GPU where there is one; else `cpu`, `cuda`, `cuda:1`."""
    workers: _AtLeastOne = 1
    """Processes that train one model together."""
    threads: _Count = 0
    """Threads of each process; 0: the cores there are, shared out."""
    memory: str = ""
    """Most memory of each process, such as `4GiB`; empty: no limit."""
    cpu_seconds: _Count = 0
    """Most processor time of each process; 0: no limit."""
    checkpoint_seconds: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """Least time between two checkpoints within an epoch."""
    patience: _Count = 0
    """Reports in a row without a better metric after which a run ends; 0: it runs to its end."""
    skips: _Count = 10
    """Steps in a row whose loss is not finite after which a run fails."""
    restarts: _Count = 3
    """Times that a run goes on from its checkpoint after one of its processes died."""
    tolerance: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Largest difference in a metric at which a rerun counts as the same; 0: the weights must be equal bit by bit."""
    smoke: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.01
    """Share of the rows that `--smoke` takes."""

    def __post_init__(self) -> None:
        if self.memory:
            parse_size(self.memory)


class TuneSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME.tune]`: how `rung tune` searches for better parameters."""

    space: dict[str, Range | Choices] = {}
    """What may be tried: `{ low = 1, high = 9 }`, with `log = true` for rates and sizes or a `step`, or a list of
    values. Whole numbers where both ends and the parameter are."""
    trials: _AtLeastOne = 20
    """Trials of a study, those that were pruned or failed included."""
    sampler: Sampler = "tpe"
    """Who proposes parameters: `tpe` learns from earlier trials, `cmaes` does so for numbers, `random` does not."""
    pruner: Pruner = "median"
    """Who ends trials early: `median` those below the median of the others, `hyperband` all but the best third again
    and again, `none` nobody."""
    workers: _AtLeastOne = 1
    """Trials at once, each in processes of its own."""
    retries: _Count = 2
    """Times that a trial is tried again whose process died."""
    storage: str = ""
    """Where studies are kept: `postgresql://...` shares them between machines; empty: `.rung/studies`."""


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME]`: one model of the project."""

    task: str = ""
    """`classification`, `segmentation` and so on: picks the output step."""
    train: str = ""
    """Function that trains it, as `module:function`."""
    data: str | DataSection = ""
    """What it learns from: a URL or `module:function`, or a table that says more."""
    params: dict[str, Any] = {}
    """What `train` finds in `ctx.params`; `rung train --set` changes them."""
    labels: tuple[str, ...] = ()
    """Names of the classes, in the order of the model's outputs."""
    metric: str = ""
    """Name of the figure that says how good it is; empty: the usual one of the task."""
    direction: Literal["", "maximize", "minimize"] = ""
    """Which way the metric gets better; empty: `minimize` for losses and errors, `maximize` for all others."""
    run: RunSection = RunSection()
    tune: TuneSection = TuneSection()
    serve: ServeSection = ServeSection()
    release: ReleaseSection = ReleaseSection()
    drift: DriftSection = DriftSection()
    retrain: RetrainSection = RetrainSection()
    score: dict[str, ScoreSection] = {}
    """Data sets that are scored by the clock, by a name of your own."""

    @property
    def dataset(self) -> DataSection:
        """`data` in its long form."""
        return DataSection(source=self.data) if isinstance(self.data, str) else self.data


class ControlSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[control]`: the control plane."""

    host: str = ""
    """Address of the control API; empty: as that of the data door."""
    port: _Port = 8080
    """Port of the control API; 0 lets the kernel choose."""
    keys: tuple[Annotated[str, msgspec.Meta(min_length=16)], ...] = ()
    """Keys of admins, each at least 16 characters; better given as RUNG_CONTROL_KEY, or made by `rung keys create`.
    Without any only this machine can reach the control API."""
    tls_certificate: str = ""
    """PEM file of the control API's certificate with its chain; empty: that of `[serve]`, if there is one."""
    tls_key: str = ""
    """PEM file of its private key; empty: it is in the file of the certificate."""
    threads: _AtLeastOne = 8
    """Calls of the control API worked on at once."""
    tick_seconds: _Seconds = 1.0
    """How often the control plane looks at what there is and acts."""


class WorkerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[workers]`: who does jobs."""

    count: _Count = 1
    """Worker processes."""
    jobs: _AtLeastOne = 2
    """Jobs at once in one worker."""
    poll_seconds: _Seconds = 0.25
    """Longest pause between two looks of an idle worker."""
    drain_seconds: Annotated[float, msgspec.Meta(ge=0)] = 10.0
    """Time that running jobs get to finish when the project stops; then they are handed back."""


class ProjectSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole `rung.toml`."""

    project: ProjectSection = ProjectSection()
    serve: ServeSettings = ServeSettings()
    control: ControlSettings = ControlSettings()
    workers: WorkerSettings = WorkerSettings()
    front: FrontSection = FrontSection()
    offline: OfflineSection = OfflineSection()
    alerts: AlertsSection = AlertsSection()
    models: dict[str, ModelSettings] = {}

    @property
    def replicas(self) -> int:
        """Replicas that run to begin with: at least one, which knows when it is not needed."""
        return self.least_replicas or 1

    @property
    def least_replicas(self) -> int:
        """Replicas that always run; 0 where the last one may go."""
        return max((model.serve.replicas.min for model in self.models.values()), default=1)

    @property
    def most_replicas(self) -> int:
        """Replicas that may run."""
        return max((model.serve.replicas.most for model in self.models.values()), default=1)

    @property
    def control_certificate(self) -> tuple[str, str]:
        """Files of certificate and key of the control API; empty where it is not encrypted."""
        own, serve = self.control, self.serve
        if own.tls_certificate or own.tls_key:
            return own.tls_certificate, own.tls_key
        return serve.tls_certificate, serve.tls_key

    @property
    def serving(self) -> ServeSettings:
        """The settings of each replica: those of `[serve]`, with what models ask for."""
        sizes = {name: model.serve.cache for name, model in self.models.items() if model.serve.cache}
        if not sizes:
            return self.serve
        size = str(sum(parse_size(text) for text in sizes.values()))
        shared = self.project.cache
        return msgspec.structs.replace(
            self.serve,
            cache=size if shared == "memory" else f"{size},{shared}",
            cache_models=tuple({*self.serve.cache_models, *sizes}),
        )

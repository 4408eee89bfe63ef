"""What a project's figures say: what is wrong, and which rung is the next cheapest. Pure: figures in, findings out.

A rung is worth climbing when a figure says that the one below is used up. They are asked in the order of what they
cost: a cache and threads cost a line of settings, replicas memory, PostgreSQL a server to keep, a GPU or more machines
(by Ray, or replicas there) money.
"""

from collections.abc import Iterator
from typing import Literal

import msgspec

__all__ = ["Disk", "Figures", "Finding", "Model", "Port", "findings", "worst"]

Level = Literal["ok", "advice", "problem"]

_BUSY = 0.8
"""Share of the processor, or of a replica, from which on waiting grows faster than load."""
_WAITING = 0.2
"""Share of the time that work waits for the disk, from which on it is the disk that is slow."""
_SLOW_SYNC = 0.05
"""Seconds of one synced write above which acknowledgements feel it: a spinning disk takes 0.01 to 0.02."""
_OLD_QUEUE = 60.0
"""Seconds that a job may wait for a worker before somebody should know."""
_FULL_DATABASE = 0.5
"""Share of SQLite's own limit at which to move: bursts are a few times the mean."""
_LITTLE_SPACE = 0.10
_NO_SPACE = 1 << 30
_SLOW_START = 10.0
"""Seconds that a replica may take to answer before spikes outrun it."""
_REPEATS = 0.2
_LITTLE_MEMORY = 0.10


class Model(msgspec.Struct, frozen=True):
    """What one model was asked while it was looked at, over all replicas."""

    name: str
    rate: float = 0.0
    """Requests a second, the refused among them."""
    refused: float = 0.0
    """Of these."""
    utilisation: float = 0.0
    """Share of its lanes' time that calls took."""
    wait: float = 0.0
    """Seconds until a request that comes now would start, in the slowest replica."""
    lanes: int = 1
    """Of one replica."""
    repeats: float = 0.0
    """Share of requests that repeat an earlier one; 0 where that is not known or would not pay."""
    cache: int = 0
    """Bytes of a cache that would catch nine of ten of them."""
    cached: bool = False
    """Whether it has one."""


class Disk(msgspec.Struct, frozen=True):
    """Where the project's folder lies."""

    free: int
    """Bytes."""
    size: int
    sync: float = 0.0
    """Median seconds of one small synced write."""
    rate: float = 0.0
    """Bytes a second of one large synced write."""
    inodes_free: float = 1.0
    """Share."""


class Port(msgspec.Struct, frozen=True):
    """A door, and who gets in."""

    name: str
    host: str
    public: bool
    """Whether other machines can reach it."""
    asks: bool
    """Whether it asks for a key."""
    encrypted: bool


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured. None where it could not be, or does not apply; then nothing is said of it."""

    seconds: float
    """For how long it was looked at."""
    up: bool = False
    """Whether the project runs here."""
    cores: float = 1.0
    cpu: float | None = None
    """Share of the processors of this machine that was busy."""
    io_wait: float | None = None
    """Share of the time in which some process waited for the disk."""
    memory_free: float | None = None
    """Share."""
    disk: Disk | None = None
    models: tuple[Model, ...] = ()
    loop: float | None = None
    """Share of the time that the busiest replica's event loop worked: it reads and writes every request, and computes
    the smallest models."""
    replicas: int = 0
    most_replicas: int = 1
    start: float | None = None
    """Seconds from the start of a replica to its first answer."""
    database: str = ""
    """`sqlite` or `postgresql`."""
    database_problem: str = ""
    writes: float | None = None
    """Transactions a second that jobs need now."""
    writes_limit: float | None = None
    """Transactions a second that this disk takes, measured on a database of its own."""
    lazy: tuple[str, ...] = ()
    """Settings of engines by which what was acknowledged may be lost."""
    queue_age: float | None = None
    """Seconds that the oldest job waits that could run."""
    queued: int = 0
    workers: int = 0
    """Jobs that run at once."""
    dead: int = 0
    ports: tuple[Port, ...] = ()
    shared_apart: str = ""
    """A store that other machines do not see although the repository is shared."""
    certificate_problem: str = ""
    certificate_days: float | None = None
    """Until the certificate of a door expires."""
    gpu: str = ""
    """Name of a GPU of this machine."""
    on_gpu: bool = False
    """Whether the runtime here can use one."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that figures say."""

    level: Level
    what: str
    figure: str
    """What was measured, in words, with its unit."""
    next: str = ""
    """What to do; empty where nothing is to be done."""


def findings(figures: Figures) -> list[Finding]:
    """All that the figures say, problems first, with the next cheapest rung at the end."""
    found = [*_machine(figures), *_disk(figures), *_database(figures), *_queue(figures), *_doors(figures)]
    found += _start(figures)
    order = {"problem": 0, "advice": 1, "ok": 2}
    return [*sorted(found, key=lambda one: order[one.level]), _rung(figures)]


def worst(found: list[Finding]) -> Level:
    """The highest level among them."""
    levels = {one.level for one in found}
    return "problem" if "problem" in levels else "advice" if "advice" in levels else "ok"


def _machine(seen: Figures) -> Iterator[Finding]:
    if seen.cpu is not None:
        busy = seen.cpu >= _BUSY
        figure = f"{seen.cpu:.0%} of {seen.cores:g} cores busy over {seen.seconds:g} s"
        step = "see rung" if seen.up else "the project is not up: other work keeps it busy"
        yield Finding("advice" if busy else "ok", "processor", figure, step if busy else "")
    if seen.io_wait is not None:
        figure = f"{seen.io_wait:.0%} of the time something waits for the disk"
        slow = seen.io_wait >= _WAITING
        step = "put .rung on a faster disk, or log less (inputs, sample in [models.NAME.serve.log])" if slow else ""
        yield Finding("advice" if slow else "ok", "I/O wait", figure, step)
    if seen.memory_free is not None:
        little = seen.memory_free < _LITTLE_MEMORY
        step = "fewer replicas, a smaller cache, or memory limits (worker_memory, [models.NAME.run] memory)"
        yield Finding("problem" if little else "ok", "memory", f"{seen.memory_free:.0%} free", step if little else "")


def _disk(seen: Figures) -> Iterator[Finding]:
    disk = seen.disk
    if disk is None:
        return
    share = disk.free / disk.size if disk.size else 0.0
    figure = f"{disk.free / 1e9:.1f} GB free, {share:.0%} of the disk"
    if disk.free < _NO_SPACE or share < _LITTLE_SPACE / 2:
        yield Finding("problem", "disk space", figure, "free some: the prediction log and new versions need it")
    elif share < _LITTLE_SPACE or disk.inodes_free < _LITTLE_SPACE:
        yield Finding("advice", "disk space", figure, "set days in [models.NAME.serve.log], or delete old versions")
    else:
        yield Finding("ok", "disk space", figure)
    figure = f"a synced write takes {disk.sync * 1e3:.1f} ms, large ones go at {disk.rate / 1e6:.0f} MB/s"
    slow = disk.sync > _SLOW_SYNC
    step = "feedback and jobs are acknowledged by such writes: use a local SSD for .rung" if slow else ""
    yield Finding("advice" if slow else "ok", "disk speed", figure, step)


def _database(seen: Figures) -> Iterator[Finding]:
    if seen.database_problem:
        yield Finding("problem", "database", seen.database_problem, "see `store` in [project]")
    for text in seen.lazy:
        yield Finding("problem", "durability", text, "jobs that were acknowledged may be lost at a crash: set it back")
    if seen.database and not seen.lazy and not seen.database_problem:
        yield Finding("ok", "durability", f"{seen.database} syncs each commit")
    if seen.database == "sqlite" and seen.writes is not None and seen.writes_limit:
        share = seen.writes / seen.writes_limit
        figure = (
            f"{seen.writes:.1f} of {seen.writes_limit:.0f} transactions a second that this disk takes ({share:.0%})"
        )
        yield Finding(
            "ok" if share < _FULL_DATABASE else "advice", "SQLite", figure, "" if share < _FULL_DATABASE else "see rung"
        )


def _queue(seen: Figures) -> Iterator[Finding]:
    if seen.queue_age is not None:
        figure = f"{seen.queued} jobs wait, the oldest for {seen.queue_age:.0f} s; {seen.workers} can run at once"
        if seen.queue_age <= _OLD_QUEUE:
            yield Finding("ok", "queue", figure)
        elif not seen.up:
            yield Finding("problem", "queue", figure, "start the workers: rung up")
        else:
            yield Finding("problem", "queue", figure, "raise count or jobs in [workers]; see rung")
    if seen.dead:
        yield Finding(
            "problem", "jobs", f"{seen.dead} jobs are dead: they failed too often", "rung jobs list --state dead"
        )


def _doors(seen: Figures) -> Iterator[Finding]:
    for port in seen.ports:
        where = f"{port.name} ({port.host or 'every address'})"
        if not port.public:
            yield Finding("ok", "access", f"{where} is for this machine only")
        elif not port.asks:
            role = "--role admin" if port.name == "control API" else "NAME"
            yield Finding(
                "problem", "access", f"{where} lets other machines in and asks for no key", f"rung keys create {role}"
            )
        elif not port.encrypted:
            yield Finding(
                "advice",
                "access",
                f"{where} asks for keys, and they go over the network as plain text",
                "name tls_certificate in [serve], or put a proxy with TLS in front",
            )
        else:
            yield Finding("ok", "access", f"{where} asks for keys, encrypted")
    if seen.certificate_problem:
        yield Finding("problem", "certificate", seen.certificate_problem, "nothing starts with it")
    if seen.certificate_days is not None and seen.certificate_days < 21:
        level: Level = "problem" if seen.certificate_days < 7 else "advice"
        yield Finding(
            level, "certificate", f"expires in {seen.certificate_days:.0f} days", "renew it; it is taken up by itself"
        )
    if seen.shared_apart:
        yield Finding(
            "problem",
            "keys",
            f"the repository is shared, but {seen.shared_apart}",
            'set key_store = "s3://..." in [serve]',
        )


def _start(seen: Figures) -> Iterator[Finding]:
    if seen.start is not None:
        slow = seen.start > _SLOW_START
        step = "raise min in replicas, or its schedule: a spike is over before one more answers" if slow else ""
        yield Finding("advice" if slow else "ok", "cold start", f"a replica answers after {seen.start:.1f} s", step)


def _rung(seen: Figures) -> Finding:
    """The next cheapest step, and the figure that asks for it."""
    pressed = [model for model in seen.models if model.utilisation >= _BUSY or model.refused > 0]
    for step in (_cache, _threads, _loop, _replicas, _postgresql, _gpu, _machines):
        if (found := step(seen, pressed)) is not None:
            return found
    if not seen.up:
        return Finding("ok", "rung", "the project is not up, so nobody asks anything of it", "")
    busiest = max((model.utilisation for model in seen.models), default=0.0)
    return Finding("ok", "rung", f"the busiest model uses {busiest:.0%} of its lanes: what there is, is enough", "")


def _cache(seen: Figures, pressed: list[Model]) -> Finding | None:
    for model in sorted(seen.models, key=lambda one: -one.repeats):
        if model.repeats >= _REPEATS and not model.cached:
            figure = f"{model.repeats:.0%} of the requests to {model.name} repeat an earlier one"
            size = max(model.cache >> 20, 1)
            return Finding("advice", "rung", figure, f'cache = "{size}MiB" in [models.{model.name}.serve]')
    return None


def _threads(seen: Figures, pressed: list[Model]) -> Finding | None:
    for model in pressed:
        used = model.lanes * max(seen.replicas, 1)
        if used < int(seen.cores) and (seen.cpu or 0.0) < _BUSY:
            figure = f"{_load(model)}, on {used} of {seen.cores:g} cores"
            return Finding("advice", "rung", figure, "threads: remove lanes from [serve], so that every core is used")
    return None


def _loop(seen: Figures, pressed: list[Model]) -> Finding | None:
    if seen.loop is None or seen.loop < _BUSY:
        return None
    figure = f"the event loop of a replica works {seen.loop:.0%} of the time"
    if (seen.cpu or 0.0) < _BUSY:
        most = max(seen.replicas, seen.most_replicas) + 1
        return Finding(
            "advice", "rung", figure, f"replicas = {{ max = {most} }} in [models.NAME.serve]: each has its own"
        )
    return Finding(
        "advice", "rung", f"{figure}, and {seen.cpu:.0%} of the cores are busy", "another machine with replicas"
    )


def _replicas(seen: Figures, pressed: list[Model]) -> Finding | None:
    if pressed and (seen.cpu or 0.0) < _BUSY:
        model = max(pressed, key=lambda one: (one.refused, one.utilisation))
        figure = f"{_load(model)}, while {1 - (seen.cpu or 0.0):.0%} of the processors are free"
        most = max(seen.replicas, seen.most_replicas) + 1
        return Finding("advice", "rung", figure, f"replicas = {{ max = {most} }} in [models.{model.name}.serve]")
    return None


def _postgresql(seen: Figures, pressed: list[Model]) -> Finding | None:
    if seen.database == "sqlite" and seen.writes is not None and seen.writes_limit:
        share = seen.writes / seen.writes_limit
        if share >= _FULL_DATABASE:
            figure = f"jobs write {seen.writes:.0f} times a second, {share:.0%} of what SQLite takes on this disk"
            return Finding("advice", "rung", figure, 'PostgreSQL: store = "postgresql://..." in [project]')
    return None


def _gpu(seen: Figures, pressed: list[Model]) -> Finding | None:
    if pressed and seen.gpu and not seen.on_gpu:
        model = max(pressed, key=lambda one: one.utilisation)
        figure = f"{_load(model)}, and the runtime here does not use the {seen.gpu}"
        return Finding("advice", "rung", figure, "GPU: install a runtime that uses it, such as onnxruntime-gpu")
    return None


def _machines(seen: Figures, pressed: list[Model]) -> Finding | None:
    busy = seen.cpu is not None and seen.cpu >= _BUSY
    waits = seen.queue_age is not None and seen.queue_age > _OLD_QUEUE
    if busy and pressed:
        model = max(pressed, key=lambda one: (one.refused, one.utilisation))
        figure = f"{_load(model)}, and {seen.cpu:.0%} of the {seen.cores:g} cores are busy"
        return Finding("advice", "rung", figure, "another machine with replicas (`rung plan` says how many), or a GPU")
    if busy and waits:
        figure = f"jobs wait for {seen.queue_age:.0f} s, and {seen.cpu:.0%} of the {seen.cores:g} cores are busy"
        return Finding(
            "advice",
            "rung",
            figure,
            "another machine with workers on the same store; one training over several machines takes Ray",
        )
    return None


def _load(model: Model) -> str:
    if model.refused > 0:
        return f"{model.refused / max(model.rate, 1e-9):.0%} of the requests to {model.name} are refused"
    return f"{model.name} uses {model.utilisation:.0%} of its lanes"

"""Measures a project and the machine under it, for `doctor` to judge."""

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from rung.domain.errors import ConfigurationError, MissingDependency, RungError
from rung.domain.scaling import ReplicaLoad
from rung.fleet.doctor import Disk, Figures, Model, Port
from rung.fleet.pages import fetch
from rung.fleet.ports import is_loopback
from rung.fleet.state import UpState, is_alive, read_state
from rung.fleet.status import duplicates
from rung.protocols.tls import Certificate
from rung.serving.lanes import cores
from rung.settings import ProjectSettings
from rung.store.access import KeyStore
from rung.store.blobs import open_store

__all__ = ["examine"]

_SYNCS = 15
_LARGE = 16 << 20
"""Bytes of the large write: past the disk's own cache on most, and nothing to wait for on any."""
_PROBE_SECONDS = 0.5
_WINDOW = 300.0
"""Seconds over which the writes of jobs are counted."""
_START_SECONDS = 120.0
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def examine(folder: Path, settings: ProjectSettings, seconds: float, *, start: bool) -> Figures:
    """Measure for about this many seconds; with `start` one more replica is started for a moment.

    Raises nothing: what cannot be measured is None.
    """
    state = read_state(folder)
    up = state is not None and is_alive(state.pid, state.started)
    disk = _disk(folder)
    limit = _sqlite_limit(folder) if settings.project.store.startswith("sqlite") else None
    before, busy, waited, began = _loads(state if up else None), _processor(), _pressure(), time.monotonic()
    time.sleep(seconds)
    lasted = time.monotonic() - began
    after, busier, waited_more = _loads(state if up else None), _processor(), _pressure()
    gpu = _gpu()
    known: dict[str, Any] = {**_database(settings), **_doors(settings)}
    return Figures(
        seconds=seconds,
        up=up,
        cores=float(cores()),
        cpu=_share(busy, busier),
        io_wait=None if waited is None or waited_more is None else min((waited_more - waited) / lasted, 1.0),
        memory_free=_memory(),
        disk=disk,
        models=_models(settings, before, after, _metrics(state if up else None)),
        loop=_loop(before, after),
        replicas=len(after),
        most_replicas=max((model.serve.replicas.most for model in settings.models.values()), default=1),
        start=_start(folder) if start else None,
        writes_limit=limit,
        workers=settings.workers.count * settings.workers.jobs,
        gpu=gpu,
        on_gpu=bool(gpu) and _uses_gpu(),
        **known,
    )


# --- the machine ----------------------------------------------------------------------------------


def _processor() -> tuple[float, float]:
    """Seconds of the processors that are ours together, and the busy ones among them."""
    with suppress(OSError, ValueError, IndexError):
        group = Path("/sys/fs/cgroup")
        if not (group / "cpu.max").read_text().startswith("max"):
            # Ours is a share of them, and what others of this machine use is not.
            used = int((group / "cpu.stat").read_text().split("usage_usec ")[1].split()[0])
            return time.monotonic() * cores(), used / 1e6
    import psutil

    ours = os.sched_getaffinity(0)
    total = busy = 0.0
    for number, times in enumerate(psutil.cpu_times(percpu=True)):
        if number in ours:
            # A guest's time is part of the user's.
            every = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
            total, busy = total + every, busy + every - times.idle - getattr(times, "iowait", 0.0)
    return total, busy


def _share(before: tuple[float, float], after: tuple[float, float]) -> float | None:
    total = after[0] - before[0]
    return None if total <= 0 else min(max((after[1] - before[1]) / total, 0.0), 1.0)


def _pressure() -> float | None:
    """Seconds since the start in which some process waited for the disk, by the kernel's count of stalls."""
    with suppress(OSError, ValueError, IndexError):
        line = Path("/proc/pressure/io").read_text().splitlines()[0]
        return int(line.rpartition("total=")[2]) / 1e6
    return None


def _memory() -> float | None:
    """Share of the memory that is free, by the smaller of machine and cgroup."""
    import psutil

    whole = psutil.virtual_memory()
    free = float(whole.available / whole.total)
    with suppress(OSError, ValueError):
        group = Path("/sys/fs/cgroup")
        most = int((group / "memory.max").read_text())
        free = min(free, 1.0 - int((group / "memory.current").read_text()) / most)
    return max(free, 0.0)


def _disk(folder: Path) -> Disk | None:
    try:
        usage, inodes = shutil.disk_usage(folder), os.statvfs(folder)
        with tempfile.TemporaryDirectory(prefix=".rung-doctor-", dir=folder) as scratch:
            small = [_written(Path(scratch) / "small", b"x" * 4096) for _ in range(_SYNCS)]
            took = _written(Path(scratch) / "large", os.urandom(_LARGE))
    except OSError:
        return None
    share = inodes.f_favail / inodes.f_files if inodes.f_files else 1.0
    return Disk(usage.free, usage.total, statistics.median(small), _LARGE / took, share)


def _written(path: Path, data: bytes) -> float:
    """Seconds of a synced write."""
    began = time.perf_counter()
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began


def _gpu() -> str:
    with suppress(OSError):
        for card in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
            for line in card.read_text().splitlines():
                if line.startswith("Model:"):
                    return line.partition(":")[2].strip()
    return ""


def _uses_gpu() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


# --- the replicas ---------------------------------------------------------------------------------


def _urls(state: UpState | None) -> dict[str, str]:
    roles = state.roles if state is not None else []
    return {role.name: role.url for role in roles if role.role == "replica" and role.state == "ready" and role.url}


def _loads(state: UpState | None) -> dict[str, ReplicaLoad]:
    found = {}
    for name, url in _urls(state).items():
        with suppress(OSError, msgspec.MsgspecError):
            found[name] = msgspec.json.decode(fetch(url, "/loadz"), type=ReplicaLoad)
    return found


def _metrics(state: UpState | None) -> list[str]:
    found = []
    for url in _urls(state).values():
        with suppress(OSError, UnicodeDecodeError):
            found.append(fetch(url, "/metrics").decode())
    return found


def _models(
    settings: ProjectSettings, before: Mapping[str, ReplicaLoad], after: Mapping[str, ReplicaLoad], metrics: list[str]
) -> tuple[Model, ...]:
    repeats: dict[str, tuple[float, int]] = {}
    for page in metrics:
        for (name, _), one in duplicates(page).items():
            seen = (one.get("ratio", 0.0), int(one.get("cache_bytes", 0)))
            repeats[name] = max(repeats.get(name, (0.0, 0)), seen)
    found = []
    for name in sorted({name for load in after.values() for name in load.models}):
        rate = refused = busy = time_there = wait = 0.0
        lanes = 1
        for replica, load in after.items():
            now, then = load.models.get(name), before[replica].models.get(name) if replica in before else None
            seconds = load.at - before[replica].at if replica in before else 0.0
            if now is None or then is None or seconds <= 0 or now.answered < then.answered:
                continue  # it has just come, or was started again
            lanes = now.lanes
            rate += (now.answered + now.failed + now.refused - then.answered - then.failed - then.refused) / seconds
            refused += (now.refused - then.refused) / seconds
            busy, time_there = busy + now.busy - then.busy, time_there + seconds * now.lanes
            wait = max(wait, now.wait)
        own = settings.models.get(name)
        cached = bool(settings.serve.cache or (own is not None and own.serve.cache))
        share, size = repeats.get(name, (0.0, 0))
        used = min(busy / time_there, 1.0) if time_there else 0.0
        found.append(Model(name, rate, refused, used, wait, lanes, share, size, cached))
    return tuple(found)


def _loop(before: Mapping[str, ReplicaLoad], after: Mapping[str, ReplicaLoad]) -> float | None:
    shares = [
        (load.loop - before[name].loop) / (load.at - before[name].at)
        for name, load in after.items()
        if name in before and load.at > before[name].at and load.loop >= before[name].loop
    ]
    return max(shares, default=None)


def _start(folder: Path) -> float | None:
    """Seconds until one more replica of the project answers; it is ended then, and logs nowhere."""
    with tempfile.TemporaryDirectory() as scratch:
        apart = {"RUNG_PROJECT_LOG": scratch, "RUNG_LOG": "", "RUNG_LOG_KEY": f"{scratch}/prediction.key"}
        environment = {**os.environ, **apart, "RUNG_HOST": "127.0.0.1"}
        command = [sys.executable, "-P", "-m", "rung", "up", "--role", "replica", "--port", "0", "--json"]
        began = time.monotonic()
        with subprocess.Popen(  # noqa: S603
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            assert process.stdout is not None
            timer = _ended_after(process, _START_SECONDS)
            line = process.stdout.readline()
            took = time.monotonic() - began
            timer.cancel()
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(10.0)
            if process.poll() is None:
                process.kill()
    return took if line.startswith(b"{") else None


def _ended_after(process: "subprocess.Popen[bytes]", seconds: float) -> Any:
    from threading import Timer

    timer = Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    return timer


# --- the database ---------------------------------------------------------------------------------


def _sqlite_limit(folder: Path) -> float | None:
    """Transactions a second that SQLite commits here, set up as the job table is."""
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        return None
    try:
        with tempfile.TemporaryDirectory(prefix=".rung-doctor-", dir=folder) as scratch:
            connection = dbapi2.connect(str(Path(scratch) / "probe.db"), isolation_level=None)
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("CREATE TABLE probe (id INTEGER PRIMARY KEY, state TEXT)")
                count, began = 0, time.perf_counter()
                while time.perf_counter() - began < _PROBE_SECONDS:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute("INSERT INTO probe (state) VALUES (?)", ("x" * 200,))
                    connection.execute("COMMIT")
                    count += 1
                return count / (time.perf_counter() - began)
            finally:
                connection.close()
    except (OSError, dbapi2.Error):
        return None


def _database(settings: ProjectSettings) -> dict[str, Any]:
    store = settings.project.store
    kind = "sqlite" if store.startswith("sqlite") else "postgresql"
    path = Path(store.partition(":")[2].removeprefix("///"))
    if kind == "sqlite" and not path.exists():
        return {}  # nothing has been submitted yet
    try:
        from rung.store.database import open_database

        with open_database(store, create=False, busy_seconds=2.0) as database:
            lazy = _lazy_postgres(database) if kind == "postgresql" else _lazy_file(path)
            return {"database": kind, "lazy": lazy, **_jobs(database)}
    except (RungError, MissingDependency) as error:
        return {"database": kind, "database_problem": str(error)}


def _jobs(database: Any) -> dict[str, Any]:
    from sqlalchemy import func, select

    from rung.jobs.tables import JOBS

    now = time.time()
    since = now - _WINDOW

    def work(connection: Any) -> dict[str, Any]:
        ready = (JOBS.c.state == "ready") & (JOBS.c.run_at <= now)
        count, oldest, late = connection.execute(
            select(func.count(), func.min(JOBS.c.created), func.min(JOBS.c.run_at)).where(ready)
        ).one()
        moves = sum(
            connection.execute(select(func.count()).where(column >= since)).scalar_one()
            for column in (JOBS.c.created, JOBS.c.started, JOBS.c.finished)
        )
        dead = connection.execute(select(func.count()).where(JOBS.c.state == "dead")).scalar_one()
        age = max(now - max(oldest, late), 0.0) if count else 0.0
        return {"queue_age": age, "queued": count, "writes": moves / _WINDOW, "dead": dead}

    found: dict[str, Any] = database.read(work)
    return found


def _lazy_postgres(database: Any) -> tuple[str, ...]:
    def work(connection: Any) -> dict[str, str]:
        names = ("fsync", "synchronous_commit", "full_page_writes")
        return {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in names}

    found: dict[str, str] = database.read(work)
    return tuple(f"PostgreSQL has {name} = off" for name, value in found.items() if value == "off")


def _lazy_file(path: Path) -> tuple[str, ...]:
    """SQLite, as rung opens it, syncs each commit; what lies in memory is lost all the same."""
    real = path.resolve()
    best, kind = "", ""
    with suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, mount, system, *_ = line.split()
            mount = mount.encode().decode("unicode_escape")
            if real.is_relative_to(mount) and len(mount) >= len(best):
                best, kind = mount, system
    return (f"the database lies in memory ({kind} at {best})",) if kind in _IN_MEMORY else ()


# --- the doors ------------------------------------------------------------------------------------


def _doors(settings: ProjectSettings) -> dict[str, Any]:
    serve, control = settings.serve, settings.control
    found: dict[str, Any] = {}
    guards_data = guards_control = False
    with suppress(RungError, OSError):
        ring = KeyStore(open_store(serve.key_store), control.keys).ring()
        tokens = bool(serve.oidc.issuer)
        guards_data, guards_control = ring.guards_data or tokens, ring.guards_control or tokens
    host = control.host or serve.host
    certificate = settings.control_certificate
    found["ports"] = (
        Port(
            "data port",
            serve.host,
            not is_loopback(serve.host),
            guards_data or serve.require_key,
            bool(serve.tls_certificate),
        ),
        Port("control API", host, not is_loopback(host), guards_control, bool(certificate[0])),
    )
    if "://" in settings.project.repository and "://" not in serve.key_store:
        found["shared_apart"] = f"keys lie in {serve.key_store} of this machine alone"
    ends = []
    for pair in {certificate, (serve.tls_certificate, serve.tls_key)}:
        if pair[0]:
            one = Certificate(*pair)
            try:
                one.open(time.time())
            except ConfigurationError as error:
                found["certificate_problem"] = str(error)
            else:
                ends.append((one.expires - time.time()) / 86_400.0)
    if ends:
        found["certificate_days"] = min(ends)
    return found

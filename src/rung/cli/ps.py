"""`rung ps`: how the project in this folder is, whether or not its control plane runs."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.cli.printing import print_json, print_table
from rung.fleet.loop import PartHealth
from rung.fleet.status import ModelStatus, ProjectStatus, RoleStatus, ask_parts, observe
from rung.settings import ProjectSettings
from rung.settings.file import load_project
from rung.store.blobs import open_store

__all__ = ["ps"]


def ps(*, as_json: bool) -> None:
    """Print what there is.

    Raises:
        ConfigurationError: there is no project here, or its file is wrong.
    """
    settings = load_project(Path())
    repository = open_store(settings.project.repository)
    status = observe(Path(), settings.project.name, repository, lambda: _counts(settings), ask_parts)
    if as_json:
        print_json(status)
    else:
        _print(status)


def _counts(settings: ProjectSettings) -> Mapping[str, Mapping[Any, int]]:
    store = settings.project.store
    scheme, _, path = store.partition(":")
    if scheme == "sqlite" and not Path(path.removeprefix("///")).exists():
        return {}
    from rung.jobs.queue import JobStore
    from rung.store.database import open_database

    with open_database(store, create=False, busy_seconds=2.0) as database:
        return JobStore(database).counts()


def _print(status: ProjectStatus) -> None:
    if status.up:
        print(f"{status.project} is up for {_span(status.seconds)}: data {status.url}, control {status.control}\n")
        head = ("PROCESS", "STATE", "PID", "UP", "RESTARTS", "RSS", "PSS")
        front = any(role.role == "front" for role in status.roles)
        more = ("FRONT", "ASKED", "RETRIED") if front else ()
        print_table((*head, *more), [(*_role(role), *(_share(role) if front else ())) for role in status.roles])
        if status.hosts:
            print()
            print_table(
                ("HOST", "STATE", "ASKED"), [(one.host, one.state.lower(), f"{one.asked:,}") for one in status.hosts]
            )
        if status.why:
            by = "; by hand, `rung scale auto` undoes it" if status.by_hand else ""
            print(f"\nreplicas wanted: {status.replicas} ({status.why}{by})")
        if status.restarted:
            print("\nreplicas are being replaced, one after another")
    else:
        print(f"{status.project} is not up")
    if status.parts:
        print()
        print_table(("PART", "STATE", "TURNS", "FAILED"), [_part(part) for part in status.parts])
    if status.scaling:
        print()
        now = time.time()
        print_table(("AGE", "REPLICAS"), [(_span(now - one.at), one.why) for one in status.scaling])
    if status.models:
        print()
        columns = ("MODEL", "VERSION", "ARM", "ROLE", "SHARE", "LOADED", "REQUESTS", "FAILED")
        count = sum(role.role == "replica" for role in status.roles)
        print_table(columns, [_model(model, count) for model in status.models])
    if status.jobs:
        print()
        states = sorted({state for counts in status.jobs.values() for state in counts})
        rows = [
            (kind, *(str(counts.get(state, 0)) for state in states)) for kind, counts in sorted(status.jobs.items())
        ]
        print_table(("JOBS", *(state.upper() for state in states)), rows)
    if status.advice or status.problems:
        print()
    for line in status.advice:
        print(f"advice: {line}")
    for line in status.problems:
        print(f"problem: {line}")


def _part(part: PartHealth) -> tuple[str, ...]:
    return (part.name, "fails" if part.error else "ready", str(part.turns), str(part.failures))


def _role(role: RoleStatus) -> tuple[str, ...]:
    seconds = _span(role.seconds) if role.pid else ""
    return (role.name, role.state, str(role.pid or ""), seconds, str(role.restarts), _size(role.rss), _size(role.pss))


def _share(role: RoleStatus) -> tuple[str, ...]:
    if role.role != "replica":
        return ("", "", "")
    return (role.front.partition(":")[0].lower() or "out", f"{role.asked:,}", f"{role.retried:,}")


def _model(model: ModelStatus, replicas: int) -> tuple[str, ...]:
    loaded = f"{len(model.loaded)} of {replicas}" if replicas else ""
    share = f"{model.share:g} %" if model.share else ""
    counts = (f"{model.requests:,}", f"{model.failures:,}") if model.loaded else ("", "")
    return (model.model, str(model.version), model.arm, model.role, share, loaded, *counts)


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = int(seconds) // 60
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 1440 else f"{minutes // 1440} d"


def _size(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size else ""

"""What each process of a project runs: the settings in, one role out."""

import gc
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import orjson

from rung.fleet.roles import Ready, Setup, adopt, tell
from rung.fleet.state import RoleName
from rung.settings.file import load_project
from rung.telemetry import configure_logs, say

__all__ = ["run_role"]

_CACHE = Path(".rung/cache")


def run_role(role: RoleName, flags: Mapping[str, Mapping[str, Any]], *, as_json: bool = False) -> None:
    """Run one role of the project in this folder until SIGTERM or SIGINT, below a supervisor or alone.

    Raises:
        ConfigurationError: the project file or a setting is wrong.
        OperatorError: the role cannot do its work here.
    """
    # What the imports make stays: looking through it for garbage, again and again, is a tenth of a start.
    gc.disable()
    setup = adopt()
    if setup is None:
        setup = Setup(name=role, role=role, settings=load_project(Path(), flags))
        configure_logs(setup.settings.serve.log_format)

        def tell_people(ready: Ready) -> None:
            shown = orjson.dumps({"role": role, "url": ready.url}).decode()
            say(sys.stdout, shown if as_json else f"{role} works{f' at {ready.url}' if ready.url else ''}")

        announce: Callable[[Ready], None] = tell_people
    else:
        configure_logs("json", setup.level)
        announce = tell

    def opened(ready: Ready) -> None:
        gc.freeze()
        gc.enable()
        announce(ready)

    _ROLES[role](setup, opened)
    if announce is tell:
        # All is closed and nobody waits for the interpreter's own tidying, which takes as long as a start.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(0)


def _replica(setup: Setup, announce: Callable[[Ready], None]) -> None:
    from rung.app.replica import Replica, run
    from rung.catalog.source import RepositorySource, open_source
    from rung.serving.lanes import cores
    from rung.store.blobs import open_store

    named = {name: model.serve.model for name, model in setup.settings.models.items() if model.serve.model}
    sources = [
        RepositorySource(open_store(setup.settings.project.repository), _CACHE),
        *(open_source(target, name, _CACHE) for name, target in named.items()),
    ]
    settings = setup.settings.serving
    # Replicas of one machine share its cores.
    ours = max(cores() // setup.replicas, 1)
    settings = msgspec.structs.replace(
        settings,
        lanes=settings.lanes or ours,
        threads=settings.threads or ours,
        log=settings.log or setup.settings.project.log,
    )

    def opened(replica: Replica) -> None:
        announce(Ready(url=f"http://127.0.0.1:{replica.own_port}"))

    run(sources, settings, opened, setup)


def _control(setup: Setup, announce: Callable[[Ready], None]) -> None:
    from rung.app.control import run

    run(setup, announce)


def _front(setup: Setup, announce: Callable[[Ready], None]) -> None:
    from rung.app.front import run

    run(setup, announce)


def _worker(setup: Setup, announce: Callable[[Ready], None]) -> None:
    from rung.app.worker import run

    run(setup, announce)


_ROLES: dict[RoleName, Callable[[Setup, Callable[[Ready], None]], None]] = {
    "control": _control,
    "front": _front,
    "replica": _replica,
    "worker": _worker,
}

"""A whole project on this machine: what `rung up` runs."""

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from rung.domain.errors import ConfigurationError, MissingDependency
from rung.fleet.front.haproxy import FOLDER, find_program, named_hosts, socket_of
from rung.fleet.lines import Lines
from rung.fleet.orphans import clear_orphans
from rung.fleet.ports import check_exposure, reserve, url
from rung.fleet.roles import Setup
from rung.fleet.state import RoleName, UpState, hold, started_at
from rung.fleet.supervisor import Supervisor
from rung.settings import ProjectSettings

__all__ = ["up"]

_NEEDED = ("fastapi", "uvicorn", "sqlalchemy", "psutil")


def up(folder: Path, settings: ProjectSettings, replicas: int, announce: Callable[[UpState], None]) -> None:
    """Run the project in `folder`, which is the working directory, until SIGTERM or SIGINT.

    `announce` is called once, when every process has started or failed.

    Raises:
        ConfigurationError: a setting or a port will not do.
        Conflict: the project is up already.
        MissingDependency: the extra `platform` is not installed.
    """
    if missing := [name for name in _NEEDED if find_spec(name) is None]:
        raise MissingDependency(f"`rung up` needs {', '.join(missing)}: pip install 'rung[platform]'")
    check_exposure(settings)
    serve, control = settings.serve, settings.control
    control_host = control.host or serve.host
    with ExitStack() as stack:
        stack.enter_context(hold(folder))
        clear_orphans(folder)
        door = stack.enter_context(reserve(serve.host, serve.port, "--port"))
        api = stack.enter_context(reserve(control_host, control.port, "--control-port"))
        serve = msgspec.structs.replace(serve, port=door.getsockname()[1])
        control = msgspec.structs.replace(control, port=api.getsockname()[1])
        settings = msgspec.structs.replace(settings, serve=serve, control=control)
        pretty = serve.log_format == "console" or (serve.log_format == "auto" and sys.stderr.isatty())
        lines = Lines(pretty=pretty)
        lines.open()
        stack.callback(lines.close)
        roles = _Roles(settings, "warning" if pretty and not serve.access_log else "info")
        if _wants_front(settings, replicas, lines):
            door.listen(socket.SOMAXCONN)
            roles.door = door.fileno()
        state = UpState(
            project=settings.project.name,
            pid=os.getpid(),
            started=started_at(os.getpid()),
            since=time.time(),
            url=url(serve.host, serve.port, tls=bool(serve.tls_certificate)),
            control=url(control_host, control.port, tls=bool(control.tls_certificate or serve.tls_certificate)),
        )
        state.hosts = named_hosts(settings) if roles.door >= 0 else {}
        Supervisor(folder, roles.first(replicas), state, lines, roles.replica).run(announce)


def _wants_front(settings: ProjectSettings, replicas: int, lines: Lines) -> bool:
    """Whether HAProxy is to stand before the replicas."""
    # Where the last one may go as well, somebody has to take the next request.
    none = any(model.serve.replicas.min == 0 for model in settings.models.values())
    wanted = max(replicas, settings.most_replicas) > 1 or none or bool(settings.front.hosts)
    if settings.front.use == "off" or (settings.front.use == "auto" and not wanted):
        return False
    if find_program(settings) is not None:
        FOLDER.mkdir(parents=True, exist_ok=True)
        FOLDER.chmod(0o700)
        return True
    if settings.front.use == "on" or settings.front.program:
        raise ConfigurationError("there is no HAProxy: pip install 'rung[fleet]', or set `program` in [front]")
    missing = (
        "without HAProxy replicas share the port: what is in work in one that ends is lost; pip install 'rung[fleet]'"
    )
    lines.event("warning", missing, action="no_front")
    return False


class _Roles:
    """What each process of a project is told."""

    def __init__(self, settings: ProjectSettings, level: str) -> None:
        self._settings = settings
        self._level = level
        self._key = secrets.token_urlsafe(32)
        self.door = -1
        """Descriptor of the public port, where a front stands there."""

    def first(self, replicas: int) -> list[Setup]:
        """The processes to begin with."""
        workers = range(1, self._settings.workers.count + 1)
        return [
            self._setup("control", "control"),
            *([self._setup("front", "front", door=self.door)] if self.door >= 0 else []),
            *(self.replica(number, replicas) for number in range(1, replicas + 1)),
            *(self._setup("worker", f"worker-{number}", key=self._key) for number in workers),
        ]

    def replica(self, number: int, replicas: int) -> Setup:
        """One of so many replicas."""
        name = f"replica-{number}"
        socket = socket_of(name) if self.door >= 0 else ""
        return self._setup("replica", name, replicas=max(replicas, 1), socket=socket, key=self._key)

    def _setup(self, role: RoleName, name: str, **more: Any) -> Setup:
        return Setup(name=name, role=role, settings=self._settings, shared=True, level=self._level, **more)

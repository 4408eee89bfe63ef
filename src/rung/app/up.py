"""A whole project on this machine: what `rung up` runs."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import msgspec

from rung.domain.errors import MissingDependency
from rung.fleet.lines import Lines
from rung.fleet.ports import check_exposure, reserve, url
from rung.fleet.roles import Setup
from rung.fleet.state import RoleName, UpState, hold, started_at
from rung.fleet.supervisor import Supervisor, clear_orphans
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
        setups = _setups(settings, replicas, "warning" if pretty and not serve.access_log else "info")
        state = UpState(
            project=settings.project.name,
            pid=os.getpid(),
            started=started_at(os.getpid()),
            since=time.time(),
            url=url(serve.host, serve.port),
            control=url(control_host, control.port),
        )
        Supervisor(folder, setups, state, lines).run(announce)


def _setups(settings: ProjectSettings, replicas: int, level: str) -> list[Setup]:
    """The processes of a project."""

    def setup(role: RoleName, number: int) -> Setup:
        return Setup(
            name=role if role == "control" else f"{role}-{number}",
            role=role,
            settings=settings,
            replicas=replicas,
            shared=True,
            level=level,
        )

    return [
        setup("control", 1),
        *(setup("replica", number) for number in range(1, replicas + 1)),
        *(setup("worker", number) for number in range(1, settings.workers.count + 1)),
    ]

"""`rung up` and `rung down`: the processes of the project in this folder."""

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import typer

from rung.app.up import up as run_up
from rung.domain.errors import OperatorError
from rung.fleet.orphans import clear_orphans
from rung.fleet.state import RoleName, UpState, is_alive, read_state
from rung.settings.file import load_project

__all__ = ["down", "up"]


def up(role: str, flags: Mapping[str, Mapping[str, Any]], replicas: int | None, *, as_json: bool) -> None:
    """Run the project in this folder, or one role of it, until SIGTERM or SIGINT.

    Raises:
        ConfigurationError: the project file, a flag or a port will not do.
        Conflict: the project is up already.
        MissingDependency: the extra `platform` is not installed.
    """
    if role != "all":
        _run_role(role, flags, as_json=as_json)
        return
    settings = load_project(Path(), flags)
    run_up(Path(), settings, replicas or settings.replicas, lambda state: _announce(state, as_json=as_json))


def _run_role(role: str, flags: Mapping[str, Mapping[str, Any]], *, as_json: bool) -> None:
    from rung.app.roles import run_role

    known: dict[str, RoleName] = {"control": "control", "front": "front", "replica": "replica", "worker": "worker"}
    if role not in known:
        raise typer.BadParameter(f"{role!r} is no role; there are all, {', '.join(known)}")
    run_role(known[role], flags, as_json=as_json)


def _announce(state: UpState, *, as_json: bool) -> None:
    if as_json:
        text = msgspec.json.encode({"url": state.url, "control": state.control, "pid": state.pid}).decode()
    else:
        text = f"{state.project} is up\n  data     {state.url}\n  control  {state.control}"
        ill = [role for role in state.roles if role.state != "ready"]
        text += "".join(f"\n  not up: {role.name}: {role.reason}" for role in ill)
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def down(grace: float) -> None:
    """Stop the project in this folder.

    Raises:
        OperatorError: it had to be killed.
    """
    state = read_state(Path())
    if state is None or not is_alive(state.pid, state.started):
        if state is not None:
            clear_orphans(Path())
        print("nothing is up in this folder")
        return
    began = time.monotonic()
    os.kill(state.pid, signal.SIGTERM)
    ended = _wait_for(lambda: not is_alive(state.pid, state.started), grace)
    names = ", ".join(role.name for role in state.roles)
    if not ended:
        os.kill(state.pid, signal.SIGKILL)
        clear_orphans(Path())
        raise OperatorError(f"{state.project} did not stop within {grace:g} seconds and was killed ({names})")
    print(f"stopped {state.project} in {time.monotonic() - began:.1f} s: {names}")


def _wait_for(done: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)  # it is no child of ours, so there is nothing to wait on
    return True

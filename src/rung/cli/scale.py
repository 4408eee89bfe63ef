"""`rung scale` and `rung restart`: how many replicas answer, and new processes for them."""

import getpass
import time
from collections.abc import Callable
from pathlib import Path

from rung.domain.errors import OperatorError
from rung.fleet.orders import Order, send_order
from rung.fleet.state import UpState, read_state

__all__ = ["restart", "scale"]


def scale(replicas: int | None, by: str, wait: float) -> None:
    """Have as many replicas, or as many as the rules say (None), and wait until they answer.

    Raises:
        Conflict: the supervisor refuses.
        NotReady: nothing is up here.
        OperatorError: they did not come or go within `wait` seconds.
    """
    began = time.monotonic()
    by = by or getpass.getuser()
    if replicas is None:
        send_order(Path(), Order(auto=True, by=by))
        print("the rules say how many replicas there are")
        return
    before = _ready(read_state(Path()))
    send_order(Path(), Order(replicas=replicas, by=by))
    _wait(_complete, wait, "the replicas did not come or go")
    print(f"{_count(replicas)}, before {before}, after {time.monotonic() - began:.1f} s; `rung scale auto` undoes it")


def restart(by: str, wait: float) -> None:
    """Replace all replicas, one after another, and wait until that is done.

    Raises:
        Conflict: the supervisor refuses.
        NotReady: nothing is up here.
        OperatorError: it is not done within `wait` seconds.
    """
    began = time.monotonic()
    send_order(Path(), Order(restart=True, by=by or getpass.getuser()))
    _wait(lambda state: not state.restarted and _complete(state), wait, "the restart is not done")
    print(f"replaced: {_count(_ready(read_state(Path())))}, after {time.monotonic() - began:.1f} s")


def _wait(done: Callable[[UpState], bool], seconds: float, failed: str) -> None:
    deadline = time.monotonic() + seconds
    while True:
        state = read_state(Path())
        if state is None:
            raise OperatorError("the project was stopped meanwhile")
        if done(state):
            return
        if time.monotonic() > deadline:
            ill = "; ".join(
                f"{role.name} is {role.state}{f': {role.reason}' if role.reason else ''}"
                for role in state.roles
                if role.role == "replica" and role.state != "ready"
            )
            raise OperatorError(f"{failed} within {seconds:g} seconds ({ill}); it goes on, and `rung ps` shows how far")
        time.sleep(0.02)  # the supervisor is no child of ours, and says it by its file


def _complete(state: UpState) -> bool:
    """Whether there are as many as wanted, each answers, and none is on its way out."""
    replicas = [role for role in state.roles if role.role == "replica"]
    return len(replicas) == state.replicas and all(role.state == "ready" for role in replicas)


def _ready(state: UpState | None) -> int:
    return sum(role.role == "replica" and role.state == "ready" for role in state.roles) if state is not None else 0


def _count(replicas: int) -> str:
    return f"{replicas} replica{'' if replicas == 1 else 's'}"

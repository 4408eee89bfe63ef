"""Starts the roles of a project as processes, keeps them running, and stops them in order.

It does no work of its own and imports little, so that nothing but the machine's end brings it down. When it ends,
however that happens, the kernel ends the roles.
"""

import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from rung.domain.errors import ConfigurationError, NotReady, OperatorError
from rung.fleet.lines import Lines
from rung.fleet.restarts import Restart, after_end
from rung.fleet.roles import Ready, RoleProcess, Setup
from rung.fleet.state import RoleState, UpState, is_alive, read_state, started_at, write_state

__all__ = ["Supervisor", "clear_orphans"]

_WRONG_SETTING = 2
"""Exit code of a role that a restart cannot help."""
_ORPHANS = 5.0
"""Seconds that processes of a killed supervisor get to be gone."""


class _Role:
    """One place for a process, filled again when it falls empty."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.state = RoleState(name=setup.name, role=setup.role, state="waiting")
        self.process: RoleProcess | None = None
        self.began = 0.0
        self.restart = Restart()
        self.due = 0.0
        """When it is to be started; `inf` while it runs or is not to run."""
        self.settled = False
        """Whether its first start has ended, well or not."""


class Supervisor:
    """The processes of one project.

    Guarantees:
        1. A role that ends is started again: at once the first time, then ever later, once a minute from the fifth
           short life in a row.
        2. After a signal, control plane and workers end first; replicas answer until then, and drain.
        3. No process outlives it.
    """

    def __init__(self, folder: Path, roles: Sequence[Setup], state: UpState, lines: Lines) -> None:
        self._folder = folder
        self._roles = [_Role(setup) for setup in roles]
        self._state = state
        self._lines = lines
        self._selector = selectors.DefaultSelector()
        self._signals = 0
        self._failure: OperatorError | None = None

    def run(self, announce: Callable[[UpState], None]) -> None:
        """Run until SIGTERM, SIGINT or SIGHUP. `announce` is called once, when every role has started or failed.

        Raises:
            ConfigurationError: a setting with which a role cannot start.
        """
        announced = False
        with self._listen():
            try:
                while not self._signals and self._failure is None:
                    self._start_due()
                    if not announced and all(role.settled for role in self._roles):
                        announced = True
                        announce(self._state)
                    self._wait(min((role.due for role in self._roles), default=inf))
                self._stop()
            finally:
                for role in self._roles:
                    self._reap(role, insist=True)
                write_state(self._folder, None)
        if self._failure is not None:
            raise self._failure

    # --- starting -----------------------------------------------------------------------------

    def _start_due(self) -> None:
        for role in self._roles:
            if role.process is None and role.due <= time.monotonic():
                self._start(role)

    def _start(self, role: _Role) -> None:
        process = RoleProcess(role.setup)
        role.began, role.due = time.monotonic(), inf
        try:
            process.spawn()
        except NotReady as error:
            self._ended(role, 1, str(error))
            return
        role.process = process
        role.state = msgspec.structs.replace(
            role.state, state="starting", pid=process.pid, started=started_at(process.pid), since=time.time(), url=""
        )
        said, log = process.streams
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda _: self._reap(role, insist=False))
        self._selector.register(said.fileno(), selectors.EVENT_READ, lambda fd: self._hear(role, fd))
        self._selector.register(log.fileno(), selectors.EVENT_READ, lambda fd: self._forward(role, fd))
        self._write()

    def _hear(self, role: _Role, descriptor: int) -> None:
        for line in self._read(role, descriptor):
            try:
                ready = msgspec.json.decode(line, type=Ready)
            except msgspec.MsgspecError:
                self._lines.forward(role.state.name, line)  # a library's print
                continue
            role.settled = True
            # From now on it can be missed, so that the others answer until it is back with all its models.
            role.setup = msgspec.structs.replace(role.setup, late=role.setup.replicas > 1)
            if role.state.state == "starting":
                role.state = msgspec.structs.replace(role.state, state="ready", url=ready.url)
            self._write()

    def _forward(self, role: _Role, descriptor: int) -> None:
        for line in self._read(role, descriptor):
            self._lines.forward(role.state.name, line)

    def _read(self, role: _Role, descriptor: int) -> list[bytes]:
        assert role.process is not None
        lines, ended = role.process.read(descriptor)
        if ended:
            with suppress(KeyError):
                self._selector.unregister(descriptor)
        return lines

    # --- ending -------------------------------------------------------------------------------

    def _reap(self, role: _Role, *, insist: bool) -> None:
        process = role.process
        if process is None:
            return
        code = process.end(insist=insist)
        said, log = process.streams
        # What it wrote last says why it ended.
        self._hear(role, said.fileno())
        self._forward(role, log.fileno())
        for watched in (process.pidfd, said.fileno(), log.fileno()):
            with suppress(KeyError):
                self._selector.unregister(watched)
        process.close()
        role.process = None
        self._ended(role, code, process.why)

    def _ended(self, role: _Role, code: int, why: str) -> None:
        lived = time.monotonic() - role.began
        stopping = role.state.state == "stopping" or bool(self._signals) or self._failure is not None
        changes: dict[str, Any] = {"pid": 0, "started": 0, "url": "", "since": time.time()}
        if stopping:
            role.state = msgspec.structs.replace(role.state, state="stopped", reason="", **changes)
            self._write()
            return
        if code == _WRONG_SETTING and not role.settled:
            self._failure = ConfigurationError(why)
        role.restart = after_end(role.restart, lived)
        role.due = time.monotonic() + role.restart.wait
        role.settled = True
        state = "broken" if role.restart.broken else "waiting"
        changes |= {"state": state, "reason": why, "restarts": role.state.restarts + 1}
        role.state = msgspec.structs.replace(role.state, **changes)
        self._lines.event(
            "error" if role.restart.broken else "warning",
            "a role ended and is started again",
            action="role_ended",
            role=role.state.name,
            reason=why,
            lived=round(lived, 1),
            wait=role.restart.wait,
        )
        self._write()

    def _stop(self) -> None:
        """Control plane and workers first: whoever still asks them asks again; then the replicas drain."""
        for names in (("control", "worker"), ("replica",)):
            group = [role for role in self._roles if role.state.role in names and role.process is not None]
            for role in group:
                assert role.process is not None
                role.state = msgspec.structs.replace(role.state, state="stopping")
                role.process.ask_to_end()
            self._write()
            grace = max((_grace(role.setup) for role in group), default=0.0)
            deadline = time.monotonic() + grace
            # A second signal ends it at once.
            while any(role.process for role in group) and time.monotonic() < deadline and self._signals < 2:
                self._wait(deadline)
            for role in group:
                if role.process is not None:
                    self._lines.event("warning", "a role was killed", action="role_killed", role=role.state.name)
                    self._reap(role, insist=True)

    # --- the loop's own -----------------------------------------------------------------------

    def _wait(self, until: float) -> None:
        timeout = None if until == inf else max(until - time.monotonic(), 0.0)
        for key, _ in self._selector.select(timeout):
            if key.fileobj in self._selector.get_map():  # not unregistered by one before it
                key.data(key.fd)

    @contextmanager
    def _listen(self) -> Iterator[None]:
        """Count signals, and wake up for them."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end in (ours, theirs):
                end.setblocking(False)
            numbers = [signal.SIGTERM, signal.SIGINT]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
                numbers.append(signal.SIGHUP)
            before = {number: signal.signal(number, self._signalled) for number in numbers}
            woken = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
            self._selector.register(ours, selectors.EVENT_READ, lambda _: ours.recv(64))
            try:
                yield
            finally:
                self._selector.close()
                signal.set_wakeup_fd(woken)
                for number, handler in before.items():
                    signal.signal(number, handler)

    def _signalled(self, number: int, frame: Any) -> None:
        self._signals += 1

    def _write(self) -> None:
        self._state.roles = [role.state for role in self._roles]
        write_state(self._folder, self._state)


def _grace(setup: Setup) -> float:
    """Seconds that a role gets to end by itself: what it is allowed for its work, and some for the rest."""
    allowed = {
        "control": 5.0,
        "worker": setup.settings.workers.drain_seconds,
        "replica": setup.settings.serve.door.drain_seconds,
    }
    return allowed[setup.role] + 5.0


def clear_orphans(folder: Path) -> None:
    """Wait for the roles of a supervisor that was killed to be gone, and end those that are not."""
    state = read_state(folder)
    left = [role for role in state.roles if is_alive(role.pid, role.started)] if state else []
    deadline = time.monotonic() + _ORPHANS
    while left and time.monotonic() < deadline:
        time.sleep(0.02)  # they are no children of ours, so there is nothing to wait on
        left = [role for role in left if is_alive(role.pid, role.started)]
    for role in left:
        with suppress(ProcessLookupError):
            os.killpg(role.pid, signal.SIGKILL)
    write_state(folder, None)

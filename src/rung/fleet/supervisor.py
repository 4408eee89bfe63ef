"""Starts the roles of a project as processes, keeps them running, and stops them in order.

It does no work of its own and imports little, so that nothing but the machine's end brings it down. When it ends,
however that happens, the kernel ends the roles.
"""

import selectors
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from pathlib import Path
from typing import Any

import msgspec

from rung.domain.errors import ConfigurationError, NotReady, OperatorError
from rung.fleet.lines import Lines
from rung.fleet.orders import MOST, Order, OrderDesk
from rung.fleet.posts import Post, grace
from rung.fleet.replicas import Start, plan
from rung.fleet.restarts import after_end
from rung.fleet.roles import Message, Ready, RoleProcess, Rotation, Scale, Setup
from rung.fleet.state import UpState, started_at, write_state
from rung.fleet.wakeup import signals_heard

__all__ = ["Supervisor"]

_WRONG_SETTING = 2
"""Exit code of a role that a restart cannot help."""
_ASIDE = 2.0
"""Seconds that the front gets to send a replica nothing more, before that is told to end."""


class Supervisor:
    """The processes of one project.

    Guarantees:
        1. A role that ends is started again: at once the first time, then ever later, once a minute from the fifth
           short life in a row.
        2. There are as many replicas as the control plane says, or a person. One that is to go gets no new requests
           from the front before it is told.
        3. After a signal, control plane and workers end first, then the front; replicas answer until then, and drain.
        4. No process outlives it.
    """

    def __init__(
        self,
        folder: Path,
        roles: Sequence[Setup],
        state: UpState,
        lines: Lines,
        replica: Callable[[int, int], Setup] | None = None,
    ) -> None:
        self._folder = folder
        self._roles = [Post(setup) for setup in roles]
        self._state = state
        state.replicas = sum(role.state.role == "replica" for role in self._roles)
        self._lines = lines
        self._replica = replica
        """What a replica is told: its number, and how many there are. None: their number never changes."""
        self._desk = OrderDesk(folder)
        self._selector = selectors.DefaultSelector()
        self._signals = 0
        self._failure: OperatorError | None = None
        self._rules = state.replicas
        """How many replicas the control plane wants."""
        self._restarted = 0.0
        """When a restart of all replicas was asked for."""
        self._rotation: set[str] = set()
        """Replicas that the front sends requests to."""

    def run(self, announce: Callable[[UpState], None]) -> None:
        """Run until SIGTERM, SIGINT or SIGHUP. `announce` is called once, when every role has started or failed.

        Raises:
            ConfigurationError: a setting with which a role cannot start.
        """
        announced = False
        numbers = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            numbers.append(signal.SIGHUP)
        with self._selector, signals_heard(self._selector, numbers, self._signalled):
            try:
                self._take_orders()
                while not self._signals and self._failure is None:
                    self._do_due()
                    if not announced and self._settled():
                        announced = True
                        announce(self._state)
                    self._wait(min((role.due for role in self._roles), default=inf))
                self._stop()
            finally:
                self._desk.close()
                for role in list(self._roles):
                    self._reap(role, insist=True)
                write_state(self._folder, None)
        if self._failure is not None:
            raise self._failure

    def _settled(self) -> bool:
        """Whether every role has started or failed, and the front knows the replicas that answer."""
        front = self._front()
        ready = {
            role.state.name for role in self._roles if role.state.role == "replica" and role.state.state == "ready"
        }
        known = front is None or front.state.state != "ready" or ready <= self._rotation
        return known and all(role.settled for role in self._roles)

    # --- starting -----------------------------------------------------------------------------

    def _do_due(self) -> None:
        for role in list(self._roles):
            if role.due > time.monotonic():
                continue
            if role.process is None:
                self._start(role)
            elif not role.told:
                self._tell(role)
            else:
                self._kill(role)

    def _start(self, role: Post) -> None:
        process = RoleProcess(role.setup)
        role.began, role.due = time.monotonic(), inf
        try:
            process.spawn()
        except NotReady as error:
            self._ended(role, 1, str(error))
            return
        role.process, role.told = process, False
        role.state = msgspec.structs.replace(
            role.state, state="starting", pid=process.pid, started=started_at(process.pid), since=time.time(), url=""
        )
        said, log = process.streams
        self._selector.register(process.pidfd, selectors.EVENT_READ, lambda _: self._reap(role, insist=False))
        self._selector.register(said.fileno(), selectors.EVENT_READ, lambda fd: self._hear(role, fd))
        self._selector.register(log.fileno(), selectors.EVENT_READ, lambda fd: self._forward(role, fd))
        self._write()

    def _hear(self, role: Post, descriptor: int) -> None:
        for line in self._read(role, descriptor):
            try:
                said = msgspec.json.decode(line, type=Message)
            except msgspec.MsgspecError:
                self._lines.forward(role.state.name, line)  # a library's print
                continue
            if isinstance(said, Ready):
                self._is_ready(role, said)
            elif isinstance(said, Scale) and role.state.role == "control":
                self._rules = said.replicas
                if not self._state.by_hand:
                    self._scale(said.replicas, said.why)
            elif isinstance(said, Rotation) and role.state.role == "front":
                self._rotates(said)

    def _is_ready(self, role: Post, ready: Ready) -> None:
        role.settled = True
        # From now on it can be missed, so that the others answer until it is back with all its models.
        role.setup = msgspec.structs.replace(role.setup, late=role.setup.replicas > 1)
        if role.state.state == "starting":
            role.state = msgspec.structs.replace(role.state, state="ready", url=ready.url)
        self._act()

    def _forward(self, role: Post, descriptor: int) -> None:
        for line in self._read(role, descriptor):
            self._lines.forward(role.state.name, line)

    def _read(self, role: Post, descriptor: int) -> list[bytes]:
        assert role.process is not None
        lines, ended = role.process.read(descriptor)
        if ended:
            with suppress(KeyError):
                self._selector.unregister(descriptor)
        return lines

    # --- ending -------------------------------------------------------------------------------

    def _reap(self, role: Post, *, insist: bool) -> None:
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
        if role.state.role == "front":
            self._rotation = set()
        self._ended(role, code, process.why)

    def _ended(self, role: Post, code: int, why: str) -> None:
        lived = time.monotonic() - role.began
        stopping = role.state.state == "stopping" or bool(self._signals) or self._failure is not None
        changes: dict[str, Any] = {"pid": 0, "started": 0, "url": "", "since": time.time()}
        if stopping:
            role.due = inf
            role.state = msgspec.structs.replace(role.state, state="stopped", reason="", **changes)
            if role.leaving and not self._signals:
                self._roles.remove(role)
            self._act()
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
        self._act()

    def _leave(self, role: Post) -> None:
        """Do without a replica. While there is a front it may go on sending for a moment, so that comes first."""
        role.leaving = True
        if role.process is None:
            self._roles.remove(role)
            return
        role.state = msgspec.structs.replace(role.state, state="stopping")
        if role.state.name in self._rotation:
            role.due = time.monotonic() + _ASIDE
        else:
            self._tell(role)

    def _tell(self, role: Post) -> None:
        assert role.process is not None
        role.told = True
        role.due = time.monotonic() + grace(role.setup)
        role.process.ask_to_end()

    def _kill(self, role: Post) -> None:
        self._lines.event("warning", "a role was killed", action="role_killed", role=role.state.name)
        self._reap(role, insist=True)

    def _stop(self) -> None:
        """Control plane and workers first: whoever still asks them asks again; then the front, then the replicas."""
        for names in (("control", "worker"), ("front",), ("replica",)):
            group = [role for role in self._roles if role.state.role in names and role.process is not None]
            for role in group:
                assert role.process is not None
                role.state = msgspec.structs.replace(role.state, state="stopping")
                role.process.ask_to_end()
            self._write()
            deadline = time.monotonic() + max((grace(role.setup) for role in group), default=0.0)
            # A second signal ends it at once.
            while any(role.process for role in group) and time.monotonic() < deadline and self._signals < 2:
                self._wait(deadline)
            for role in group:
                if role.process is not None:
                    self._kill(role)

    # --- how many -----------------------------------------------------------------------------

    def _scale(self, replicas: int, why: str) -> None:
        """Have as many replicas from now on."""
        state, replicas = self._state, min(replicas, MOST)
        if self._replica is None or (replicas, why) == (state.replicas, state.why):
            return
        if replicas != state.replicas:
            facts = {"before": state.replicas, "replicas": replicas, "why": why}
            self._lines.event("info", "the number of replicas changes", action="scaled", **facts)
        state.replicas, state.why = replicas, why
        self._act()

    def _act(self) -> None:
        """Bring what runs nearer to what is wanted, and say how things stand."""
        # A replica that has no process is gone at once, and then there may be more to do.
        while self._replica is not None and not self._signals and self._failure is None:
            replicas = {role.number: role for role in self._roles if role.state.role == "replica"}
            actions = plan([role.place(self._restarted) for role in replicas.values()], self._state.replicas)
            starts = [action.number for action in actions if isinstance(action, Start)]
            self._roles += [Post(self._replica(number, self._state.replicas)) for number in starts]
            leaving = [replicas[action.number] for action in actions if not isinstance(action, Start)]
            for role in leaving:
                self._leave(role)
            if all(role.process is not None for role in leaving):
                if not any(role.place(self._restarted).old for role in replicas.values()):
                    self._state.restarted = 0.0
                break
        self._write()

    def _take_orders(self) -> None:
        try:
            self._desk.open()
        except ConfigurationError as error:
            self._lines.event("warning", f"`rung scale` and `rung restart` will not work: {error}", action="no_orders")
        else:
            self._selector.register(self._desk.fileno(), selectors.EVENT_READ, lambda _: self._obey())

    def _obey(self) -> None:
        if (came := self._desk.take()) is None:
            return
        order, caller = came
        if self._replica is None:
            self._desk.answer(caller, "here the number of replicas does not change")
            return
        self._carry_out(order)
        # Last, so that who asked finds in the file what it asked for.
        self._desk.answer(caller)

    def _carry_out(self, order: Order) -> None:
        by = order.by or "somebody"
        if order.restart:
            self._restarted, self._state.restarted = time.monotonic(), time.time()
            self._lines.event("info", "all replicas are replaced", action="restarted", by=by)
            self._act()
        elif order.auto:
            self._state.by_hand = False
            self._scale(self._rules, f"{by} left it to the rules")
        else:
            self._state.by_hand = True
            self._scale(order.replicas, f"{by} said so")

    def _rotates(self, said: Rotation) -> None:
        """The front sends requests to these, and no longer to others; some wait for it."""
        self._rotation = set(said.replicas)
        for role in [one for one in self._roles if one.leaving and not one.told]:
            if role.state.name not in self._rotation:
                self._tell(role)
        for role in [one for one in self._roles if one.state.name in said.hung and one.state.state == "ready"]:
            self._lines.event("error", "a replica hangs and is killed", action="role_hangs", role=role.state.name)
            self._reap(role, insist=True)
        self._state.waiting = said.waiting
        if said.waiting and not self._state.replicas and not self._state.by_hand:
            self._scale(1, "a request came while no replica ran")
        self._write()

    def _front(self) -> Post | None:
        return next((role for role in self._roles if role.state.role == "front"), None)

    # --- the loop's own -----------------------------------------------------------------------

    def _wait(self, until: float) -> None:
        timeout = None if until == inf else max(until - time.monotonic(), 0.0)
        for key, _ in self._selector.select(timeout):
            if key.fileobj in self._selector.get_map():  # not unregistered by one before it
                key.data(key.fd)

    def _signalled(self, number: int) -> None:
        self._signals += 1

    def _write(self) -> None:
        self._state.roles = [role.state for role in self._roles]
        write_state(self._folder, self._state)

"""The front of a project: an HAProxy before its replicas, told which of them to send requests to."""

import os
import re
import resource
import selectors
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec
import structlog

from rung.domain.errors import ConfigurationError, NotReady, OperatorError
from rung.fleet.front.haproxy import ADMIN, CERTIFICATE, FOLDER, HOLD, Runtime, configuration, find_program
from rung.fleet.front.hold import Hold
from rung.fleet.front.rotation import Looks, look, rotation
from rung.fleet.ports import reserve, url
from rung.fleet.roles import Ready, Rotation, Setup, tell
from rung.fleet.state import RoleState, read_state
from rung.fleet.wakeup import signals_heard
from rung.settings import ServeSettings

if TYPE_CHECKING:
    from rung.protocols.tls import Certificate

__all__ = ["run"]

_STATE = Path(".rung/up.json")
_FILE = FOLDER / "haproxy.cfg"
_EVERY = 0.05
"""Seconds between two looks at what the supervisor says."""
_SAID = re.compile(r"^\[(WARNING|ALERT)\] +\(\d+\) : (.+)$", re.MULTILINE)
_LOOK_EVERY = 1.0
"""Seconds between two looks at each replica."""
_SHORT = 1.0
"""Seconds of life below which HAProxy's end is our own: the supervisor then knows when to try again."""
_START = 10.0
"""Seconds that HAProxy gets to answer."""
_Edition = tuple[int, int]


def run(setup: Setup, announce: Callable[[Ready], None]) -> None:
    """Work until SIGTERM or SIGINT, below a supervisor. `announce` is called once, when HAProxy takes requests.

    Raises:
        ConfigurationError: there is no HAProxy, or it does not take its configuration.
        OperatorError: HAProxy ends as soon as it starts.
    """
    serve, alone = setup.settings.serve, setup.door < 0
    if alone:
        if not setup.settings.front.hosts:
            raise ConfigurationError("a front alone needs `hosts` in [front]: the machines that it stands before")
        door = reserve(serve.host, serve.port, "--port")
        door.listen(socket.SOMAXCONN)
        setup = msgspec.structs.replace(setup, door=door.detach())
    program = find_program(setup.settings)
    if program is None:
        raise ConfigurationError("there is no HAProxy: pip install 'rung[fleet]', or set `program` in [front]")
    FOLDER.mkdir(parents=True, exist_ok=True)
    FOLDER.chmod(0o700)
    _FILE.write_text(configuration(setup.settings, setup.door, _files()), encoding="utf-8")
    certificate = _certificate(serve)
    _check(program, setup.door)
    front = _Front(setup, program, certificate, (lambda _: None) if alone else tell)
    front.run(lambda: announce(Ready(url=_url(setup) if alone else "")))


def _url(setup: Setup) -> str:
    serve = setup.settings.serve
    with socket.socket(fileno=os.dup(setup.door)) as door:
        return url(serve.host, door.getsockname()[1], tls=bool(serve.tls_certificate))


def _files() -> int:
    """Files that HAProxy may have open; 0: no limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 0 if hard == resource.RLIM_INFINITY else hard


def _check(program: str, door: int) -> None:
    command = [program, "-c", "-q", "-f", str(_FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, pass_fds=(door,))  # noqa: S603
    if done.returncode:
        said = " ".join(line.partition(" : ")[2] for line in done.stderr.splitlines() if line.startswith("[ALERT]"))
        raise ConfigurationError(f"HAProxy does not take the configuration that [front] makes: {said or done.stderr}")


def _certificate(serve: ServeSettings) -> "Certificate | None":
    """The certificate of the data door, checked; None where there is to be none."""
    if not serve.tls_certificate:
        return None
    from rung.app.certificates import open_certificate

    found = open_certificate(serve.tls_certificate, serve.tls_key)
    _join(serve)
    return found


def _join(serve: ServeSettings) -> str:
    """Put certificate and key into the one file that HAProxy reads; its text."""
    files = [file for file in (serve.tls_certificate, serve.tls_key) if file]
    text = "\n".join(Path(file).read_text(encoding="utf-8").strip() for file in files) + "\n"
    path = Path(CERTIFICATE)
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    return text


class _Front:
    """HAProxy, started again whenever it ends, and what it is told."""

    def __init__(
        self, setup: Setup, program: str, certificate: "Certificate | None", tell: Callable[[Rotation], None]
    ) -> None:
        self._setup = setup
        self._program = program
        self._tell = tell
        self._certificate = certificate
        self._renewal = 0.0
        """When to look next whether it has changed."""
        self._haproxy: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._complaint = ""
        """The last thing that it could not do."""
        self._runtime = Runtime()
        self._selector = selectors.DefaultSelector()
        self._hold = Hold(self._selector, setup.settings.front.hold_seconds, time.monotonic)
        self._log = structlog.get_logger("rung.front")
        self._stopping = False
        self._seen: _Edition = (0, 0)
        """Which edition of the supervisor's file was read last."""
        self._replicas: list[RoleState] = []
        self._states: dict[str, str] = {}
        """What HAProxy was told of each replica."""
        self._told = Rotation(replicas=[])
        self._looks = Looks()
        self._looked: dict[str, int] = {}
        """Name -> which process was looked at."""

    def run(self, announce: Callable[[], None]) -> None:
        """As the function `run`."""
        with signals_heard(self._selector, (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD), self._signalled):
            self._hold.open(HOLD)
            threading.Thread(target=self._look, name="rung-looks", daemon=True).start()
            try:
                self._start()
                self._follow()
                announce()
                while not self._stopping:
                    self._turn()
                self._drain()
            finally:
                if self._haproxy is not None:
                    self._haproxy.kill()
                    self._haproxy.wait()

    def _turn(self) -> None:
        self._wait(_EVERY)
        assert self._haproxy is not None
        if self._haproxy.poll() is not None and not self._stopping:
            self._log.warning(
                "HAProxy ended and is started again", action="haproxy_ended", code=self._haproxy.returncode
            )
            if time.monotonic() - self._began < _SHORT:
                raise self._failure()
            self._start()
        self._renew()
        try:
            self._follow()
        except OSError as error:
            self._log.warning("HAProxy does not do as it is told", action="haproxy_refused", reason=str(error))
            self._states = {}

    # --- HAProxy ------------------------------------------------------------------------------

    def _start(self) -> None:
        self._states = {}
        Path(ADMIN).unlink(missing_ok=True)
        self._began = time.monotonic()
        self._haproxy = subprocess.Popen(  # noqa: S603
            [self._program, "-db", "-f", str(_FILE)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(self._setup.door,),
        )
        said = self._haproxy.stderr
        assert said is not None
        os.set_blocking(said.fileno(), False)
        self._selector.register(said, selectors.EVENT_READ, lambda: self._hear(said))
        while time.monotonic() - self._began < _START:
            with suppress(OSError):
                self._runtime.ask("show info")
                return
            if self._haproxy.poll() is not None:
                raise self._failure()
            time.sleep(0.005)  # it says nowhere that it has opened its socket
        raise NotReady(f"HAProxy did not answer within {_START:g} seconds")

    def _hear(self, said: IO[bytes]) -> None:
        """Pass on what HAProxy says: whom it has put out and why, and its complaints."""
        with suppress(BlockingIOError):
            while piece := os.read(said.fileno(), 64 << 10):
                for level, text in _SAID.findall(piece.decode(errors="replace")):
                    self._complaint = text if level == "ALERT" else self._complaint
                    severity = "error" if level == "ALERT" else "warning" if "DOWN, reason" in text else "info"
                    getattr(self._log, severity)(text, action="haproxy")
            self._selector.unregister(said)
            said.close()

    def _failure(self) -> OperatorError:
        assert self._haproxy is not None
        self._wait(_EVERY)  # its last words
        why = self._complaint or f"exit code {self._haproxy.returncode}"
        return OperatorError(f"HAProxy ended as soon as it had started: {why}")

    def _drain(self) -> None:
        """No new callers; those that are here get their answers."""
        assert self._haproxy is not None
        self._hold.release()
        self._haproxy.send_signal(signal.SIGUSR1)
        # The supervisor has the port as well: whoever comes now is refused and does not wait for nobody.
        with socket.socket(fileno=self._setup.door) as door, suppress(OSError):
            door.shutdown(socket.SHUT_RDWR)
        while self._haproxy.poll() is None:
            self._wait(_EVERY)
        self._hold.close()

    # --- what it is told ----------------------------------------------------------------------

    def _follow(self) -> None:
        """Bring HAProxy to what the supervisor says, and say what has become of it. Raises OSError."""
        self._read()
        states = rotation(self._replicas, self._looks.unready)
        changed = [(name, state) for name, state in states.items() if self._states.get(name, "maint") != state]
        changed += [(name, "maint") for name, state in self._states.items() if name not in states and state != "maint"]
        if changed:
            self._runtime.set_states(changed)
            self._states = states
        waiting = self._hold.waiting
        if waiting and any(one.state.startswith("UP") for one in self._runtime.shares()):
            self._hold.release()
        self._hold.expire()
        self._say([name for name, state in states.items() if state == "ready"], waiting)

    def _renew(self) -> None:
        """Greet callers with the certificate's new edition; one that cannot be used leaves the old one in use."""
        if self._certificate is None or time.monotonic() < self._renewal:
            return
        from rung.app.certificates import reread

        self._renewal = time.monotonic() + _LOOK_EVERY
        reread(self._certificate, lambda: self._runtime.set_certificate(_join(self._setup.settings.serve)))

    def _read(self) -> None:
        try:
            found = _STATE.stat()
        except OSError:
            return
        edition = (found.st_ino, found.st_mtime_ns)
        if edition == self._seen:
            return
        state = read_state(Path())
        if state is not None:
            self._seen = edition
            self._replicas = [role for role in state.roles if role.role == "replica"]

    def _say(self, names: list[str], waiting: int) -> None:
        # Of this very process: another may have taken its place since.
        hung = [
            one.name for one in self._replicas if one.name in self._looks.hung and self._looked[one.name] == one.pid
        ]
        told = Rotation(replicas=names, waiting=waiting, hung=hung)
        if told != self._told:
            self._told = told
            self._tell(told)

    def _look(self) -> None:
        """In a thread of its own: one that hangs keeps who asks."""
        while True:
            answers: dict[str, bool | None] = {}
            for role in self._replicas:
                if role.state == "ready":
                    if self._looked.get(role.name) != role.pid:
                        self._looks.forget(role.name)
                    self._looked[role.name] = role.pid
                    try:
                        answers[role.name] = look(role.name)
                    except OSError:
                        answers[role.name] = None
            self._looks.take(answers, time.monotonic())
            time.sleep(_LOOK_EVERY)

    # --- the loop's own -----------------------------------------------------------------------

    def _wait(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.fileobj in self._selector.get_map():
                key.data()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            return  # HAProxy ended: to wake up is all
        if self._stopping and self._haproxy is not None:
            self._haproxy.kill()  # who is asked twice hurries
        self._stopping = True

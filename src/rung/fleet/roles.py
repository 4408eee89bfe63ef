"""One process of a project: what starts it, what it is told, what it says, and what it prints.

spawn  -- stdin: a `Setup`, one line -->  adopt
<- stdout: a `Ready`, a `Scale`, a `Rotation`, one line each -- tell
<- stderr: its log --------------
-- a life line that only closes -> the kernel kills it
"""

import contextlib
import os
import signal
import subprocess
import sys
from typing import IO

import msgspec

from rung.domain.errors import NotReady
from rung.fleet.state import RoleName
from rung.lifeline import end_with_parent
from rung.settings import ProjectSettings

__all__ = ["Message", "Ready", "RoleProcess", "Rotation", "Scale", "Setup", "adopt", "tell"]

_LIFE = "RUNG_LIFE"
"""Environment variable with the descriptor of the life line: there is a supervisor."""
_LAST_WORDS = 400


class Setup(msgspec.Struct, kw_only=True):
    """What a role is told when it starts. The settings are complete: it reads no file and no variable."""

    name: str
    role: RoleName
    settings: ProjectSettings
    replicas: int = 1
    """Replicas that share this machine's cores."""
    late: bool = False
    """Whether a replica joins the shared port only when its models are loaded, since others answer meanwhile."""
    shared: bool = False
    """Whether the ports are held by a supervisor, to be shared with it."""
    socket: str = ""
    """Where a replica listens for the front, a path in the folder; empty: there is no front, and it listens on the
    public port."""
    door: int = -1
    """The front's descriptor of the public port, on which the supervisor listens, so that callers wait and are not
    refused while nobody stands there."""
    level: str = "info"
    """Least severe log lines that are written."""
    key: str = ""
    """What the workers show the replicas; made anew whenever the project is started. Empty: none."""


class Ready(msgspec.Struct, kw_only=True, tag="ready"):
    """What a role says when it does its work."""

    url: str = ""
    """Where it alone answers."""


class Scale(msgspec.Struct, kw_only=True, tag="scale"):
    """What the control plane says when there are to be more replicas, or fewer."""

    replicas: int
    why: str
    """A sentence for a person."""


class Rotation(msgspec.Struct, kw_only=True, tag="rotation"):
    """What the front says when it begins or ceases to send requests to a replica, or requests wait for one."""

    replicas: list[str]
    """Names of those that get requests."""
    waiting: int = 0
    """Requests that no replica can take now."""
    hung: list[str] = []
    """Names of those that have not answered for so long that they never will."""


Message = Ready | Scale | Rotation
"""What a role says to its supervisor."""


class RoleProcess:
    """A running role. `pid` leads a session of its own; all of it ends with us."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._process: subprocess.Popen[bytes] | None = None
        self._life = -1
        self.pidfd = -1
        """Becomes readable when the process has ended."""
        self._rest: dict[int, bytes] = {}
        self._last_words = ""

    def spawn(self) -> None:
        """Start it without waiting.

        Raises:
            NotReady: the system refused to start a process.
        """
        life, self._life = os.pipe()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", _LIFE: str(life)}
        try:
            self._process = subprocess.Popen(  # noqa: S603
                _command(self._setup.role),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                pass_fds=(life, self._setup.door) if self._setup.door >= 0 else (life,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(self._life)
            raise NotReady(f"no process could be started: {error.strerror}") from error
        finally:
            os.close(life)
        self.pidfd = os.pidfd_open(self._process.pid)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(self._setup) + b"\n")
            self._process.stdin.close()
        for stream in self.streams:
            os.set_blocking(stream.fileno(), False)
            self._rest[stream.fileno()] = b""

    @property
    def pid(self) -> int:
        """Process id, also the id of its group."""
        return self._process.pid if self._process else 0

    @property
    def streams(self) -> tuple[IO[bytes], IO[bytes]]:
        """What it says, and its log."""
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        return self._process.stdout, self._process.stderr

    def read(self, descriptor: int) -> tuple[list[bytes], bool]:
        """Whole lines that have come in on one of the streams, and whether it has ended."""
        found: list[bytes] = []
        while True:
            try:
                chunk = os.read(descriptor, 64 << 10)
            except BlockingIOError:
                ended = False
                break
            *whole, self._rest[descriptor] = (self._rest[descriptor] + chunk).split(b"\n")
            found += whole
            if not chunk:
                found += [rest] if (rest := self._rest[descriptor]) else []
                self._rest[descriptor] = b""
                ended = True
                break
        for line in found:
            self._remember(line)
        return found, ended

    def _remember(self, line: bytes) -> None:
        if line.strip() and not line.startswith(b"{"):
            self._last_words = line.decode(errors="replace").removeprefix("rung: ")[:_LAST_WORDS]

    def ask_to_end(self) -> None:
        """SIGTERM."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def end(self, *, insist: bool) -> int:
        """Reap it with all that it started; kill it first to `insist`. Return its exit code."""
        assert self._process is not None
        if not insist:
            # Unreaped, so its id cannot have passed to a stranger yet.
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    @property
    def why(self) -> str:
        """Why it ended, in words."""
        assert self._process is not None
        code = self._process.returncode
        if code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return self._last_words if code and self._last_words else f"ended with exit code {code}"

    def close(self) -> None:
        """Close what led to it, after its end."""
        os.close(self._life)
        os.close(self.pidfd)
        for stream in self.streams:
            stream.close()


def _command(role: RoleName) -> list[str]:
    # -P: a file in the project's folder must not stand in for a module of ours.
    return [sys.executable, "-P", "-m", "rung", "up", "--role", role]


def adopt() -> Setup | None:
    """In the role: what the supervisor says, after having tied our life to its; None where there is no supervisor."""
    life = os.environ.pop(_LIFE, "")
    if not life:
        return None
    end_with_parent(int(life))
    return msgspec.json.decode(sys.stdin.buffer.readline(), type=Setup)


def tell(message: Message) -> None:
    """In the role: say that it works, or what is to be done. From one thread at a time."""
    with contextlib.suppress(OSError):
        sys.stdout.write(msgspec.json.encode(message).decode() + "\n")
        sys.stdout.flush()

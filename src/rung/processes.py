"""Child processes: limits, a ready signal, tensors over a socket, and death with the parent.

A child is a fresh interpreter that runs a module (`python -m`), never a fork: threads and libraries
of the parent do not leak into it. The parent holds a `Child`; the child's module calls `attach` first.
Both then exchange `Message`s, one at a time in each direction. Nothing is pickled.

All functions block; whoever is asynchronous calls them from a thread.
"""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import msgspec

from rung.channel import Channel, Message
from rung.domain.errors import WorkerDied
from rung.domain.tensors import Tensors
from rung.lifeline import end_with_parent

__all__ = ["Child", "Limits", "attach"]

_SETUP = "RUNG_CHILD"
"""Environment variable with descriptor of the channel, descriptor of the life line, and limits."""
_TAIL = 8 << 10
_EXIT_SECONDS = 1.0
"""Between the end of a child's socket and its exit status."""


class Limits(msgspec.Struct, frozen=True):
    """What a child may use; 0 means no limit."""

    memory: int = 0
    """Bytes of private writable memory (RLIMIT_DATA): an allocation beyond it fails inside the child.
    Libraries mapped from files and memory shared with others do not count."""
    cpu_seconds: int = 0
    """Processor time (RLIMIT_CPU): the child ends by SIGXCPU when it is used up."""


def attach() -> Channel:
    """In the child, before anything heavy is imported: arm the limits and return the way to the parent.

    From here on the child ends with its parent, however that ends, and so does all that it starts.
    """
    channel, life, limits = msgspec.json.decode(os.environ.pop(_SETUP), type=tuple[int, int, Limits])
    os.set_inheritable(channel, False)
    end_with_parent(life)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits.memory:
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory, limits.memory))
    if limits.cpu_seconds:
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_seconds, limits.cpu_seconds + 1))
    return Channel(socket.socket(fileno=channel))


class Child:
    """A process that runs `python -m module arguments...` and answers over a `Channel`.

    In order: `spawn`, `receive` (the child's first message says that it is ready), any number of `call`s,
    `terminate`. When WorkerDied is raised, the process has been killed and reaped. Without `inherit`, `environment`
    is its whole environment. What it prints goes to `output`, by default our stderr, from a thread; errors before it
    is ready quote the end of that.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        limits: Limits | None = None,
        environment: Mapping[str, str] | None = None,
        inherit: bool = True,
        output: Callable[[bytes], object] | None = None,
    ) -> None:
        self._module = module
        self._output = output or _to_stderr
        self._arguments = tuple(arguments)
        self._limits = limits or Limits()
        self._environment = {**(os.environ if inherit else {}), **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._life = -1
        self._tail = b""
        self._ready = False
        self._relay: threading.Thread | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """Process id, also the id of its process group; 0 before `spawn`."""
        return self._process.pid if self._process else 0

    @property
    def exited_well(self) -> bool:
        """Whether it has ended by itself with exit code 0."""
        return self._process is not None and self._process.returncode == 0

    @property
    def tail(self) -> str:
        """The last 8 KiB that it printed."""
        return self._tail.decode(errors="replace")

    def spawn(self) -> None:
        """Start the process without waiting for it.

        Raises:
            WorkerDied: the system refused to start one.
        """
        ours, theirs = socket.socketpair()
        life, self._life = os.pipe()
        setup = msgspec.json.encode((theirs.fileno(), life, self._limits)).decode()
        environment = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", _SETUP: setup}
        try:
            self._process = subprocess.Popen(  # noqa: S603
                # -P: a file in the working directory must not stand in for a module of ours.
                [sys.executable, "-P", "-m", self._module, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**self._environment, **environment},
                pass_fds=(theirs.fileno(), life),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(self._life)
            raise WorkerDied(f"no process could be started for {self._module}: {error}") from error
        finally:
            theirs.close()
            os.close(life)
        self._channel = Channel(ours)
        self._relay = threading.Thread(target=self._read_output, args=(self._process.stdout,), daemon=True)
        self._relay.start()
        threading.Thread(target=self._clear_up, args=(self._process.pid,), daemon=True).start()

    def call(self, kind: str, detail: Any = None, tensors: Tensors | None = None, *, timeout: float = 0) -> Message:
        """Send a message and wait up to `timeout` seconds (0: for ever) for the next one.

        Raises:
            WorkerDied: it ended, hung or spoke nonsense.
            TypeError: a tensor cannot be sent; the child lives on.
        """
        self.send(kind, detail, tensors, timeout=timeout)
        return self.receive(timeout)

    def send(self, kind: str, detail: Any = None, tensors: Tensors | None = None, *, timeout: float = 0) -> None:
        """Send a message, which the child has to take within `timeout` seconds. Raises as `call` does."""
        assert self._channel is not None, "spawn first"
        try:
            self._channel.set_timeout(timeout)
            self._channel.send(kind, detail, tensors)
        except TimeoutError:
            raise self._hung("took no input") from None
        except OSError:
            raise self._died() from None

    def receive(self, timeout: float = 0) -> Message:
        """Wait up to `timeout` seconds (0: for ever) for a message. Raises as `call` does."""
        assert self._channel is not None, "spawn first"
        try:
            self._channel.set_timeout(timeout)
            message = self._channel.receive()
        except TimeoutError:
            raise self._hung(f"gave no answer within {timeout:g} seconds") from None
        except (EOFError, OSError):
            raise self._died() from None
        except (ValueError, msgspec.MsgspecError) as error:
            self.kill()
            raise WorkerDied(f"process {self.pid} was ended because it spoke nonsense: {error}") from None
        self._ready = True
        return message

    def terminate(self, grace: float = 2.0) -> None:
        """Ask the process to end (SIGTERM), insist after `grace` seconds (SIGKILL), and reap it. Twice is no error."""
        if self._process is not None and self._process.returncode is None:
            _signal(self._process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(grace)
        self.kill()

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        with self._lock:
            life, self._life = self._life, -1
            if life < 0 or self._process is None:
                return
            _signal(self._process.pid, signal.SIGKILL)
            self._process.wait()
            os.close(life)
            if self._channel is not None:
                self._channel.close()
        if self._relay is not None:
            # Whoever still holds the pipe is not in our process group any more: do not wait for it long.
            self._relay.join(_EXIT_SECONDS)

    def _hung(self, why: str) -> WorkerDied:
        self.kill()
        return WorkerDied(f"process {self.pid} was ended because it {why}{self._last_words()}", hung=True)

    def _died(self) -> WorkerDied:
        assert self._process is not None
        # The socket closes a moment before the process ends: wait, lest our own signal becomes the reason.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_EXIT_SECONDS)
        self.kill()
        code = self._process.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return WorkerDied(f"process {self.pid} {how}{self._last_words()}")

    def _last_words(self) -> str:
        # Once it answers, an error may reach a caller, who must not read what was printed about another's input.
        if self._ready:
            return ""
        lines = [line for line in self.tail.splitlines() if line.strip()]
        return "; its last output: " + " | ".join(lines[-4:])[-400:] if lines else ""

    def _read_output(self, pipe: IO[bytes]) -> None:
        with pipe:
            while chunk := os.read(pipe.fileno(), 64 << 10):
                self._tail = (self._tail + chunk)[-_TAIL:]
                self._output(chunk)

    @staticmethod
    def _clear_up(pid: int) -> None:
        # What the child forked holds its socket open, so its end would not be seen: end them with it.
        # The child stays unreaped meanwhile, so its id cannot have passed to a stranger.
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            _signal(pid, signal.SIGKILL)


def _to_stderr(chunk: bytes) -> None:
    with contextlib.suppress(OSError):
        os.write(2, chunk)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)

"""A model in processes of its own: started, asked, restarted when they crash or hang, left alone when they keep on.

What runs there is up to the module of the child (see `isolated_child`): a class of the user's own, PyTorch,
TensorFlow. A crash, a leak or a lock in it never touches the server.
"""

import os
import threading
from collections import deque
from collections.abc import Mapping
from queue import SimpleQueue
from time import monotonic

import msgspec

from rung.domain.errors import BundleError, InvalidInput, ModelError, NotReady, WorkerDied
from rung.domain.tensors import Signature, Tensors
from rung.processes import Child, Limits
from rung.runtimes.isolated_child import Declared

__all__ = ["IsolatedModel", "Program", "delay_after", "open_isolated", "scrubbed"]

_START_SECONDS = 600.0
"""Loading may read gigabytes or compile."""

_WINDOW = 60.0
_DELAYS = (0.0, 0.2, 0.5, 1.0)
_BROKEN = len(_DELAYS) + 1
"""Deaths within the window from which on calls are refused rather than kept waiting."""
_REFUSED = 10.0
_LONGEST = 40.0

_PASSED_ON = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
_PASSED_ON_STARTS = ("LC_", "PYTHON", "LD_LIBRARY")


def delay_after(deaths: int) -> float:
    """Seconds before the process may start again, after so many deaths within a minute."""
    if deaths < _BROKEN:
        return _DELAYS[deaths - 1]
    return min(_LONGEST, _REFUSED * 2.0 ** (deaths - _BROKEN))


def scrubbed(extra: Mapping[str, str]) -> dict[str, str]:
    """An environment for a process that runs what strangers made: `extra` and what Python needs, no credentials."""
    kept = {key: value for key, value in os.environ.items() if key in _PASSED_ON or key.startswith(_PASSED_ON_STARTS)}
    return kept | dict(extra)


class Program(msgspec.Struct, frozen=True):
    """What a process runs."""

    title: str
    """How messages name the model."""
    module: str
    """Run as `python -m module arguments...`; its `main` calls `isolated_child.answer`."""
    arguments: tuple[str, ...] = ()
    memory: int = 0
    """Limit in bytes; 0 means none."""
    hang_after: float = 30.0
    """Seconds after which a call counts as hung."""
    environment: dict[str, str] | None = None
    """The whole environment of the process; None passes on this process's own."""


class IsolatedModel:
    """As many processes as the program declares lanes; a call takes the next free one."""

    inline = False

    def __init__(self, platform: str, signature: Signature, lanes: "list[_Lane]") -> None:
        self.platform = platform
        self.signature = signature
        self.lanes = len(lanes)
        self._all = lanes
        self._free: SimpleQueue[_Lane] = SimpleQueue()
        for lane in lanes:
            self._free.put(lane)

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        """Compute in a process, which is told how many cores the call may use.

        Raises:
            InvalidInput: the program blames the input.
            ModelError: the program failed, or its answer is not as declared.
            WorkerDied: the process crashed or hung; it is being replaced, and the next call waits for that.
            NotReady: it died so often that it is left alone for a while; the message says how long.
        """
        lane = self._free.get()
        try:
            return lane.call(inputs, threads)
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """End the processes; calls in progress raise WorkerDied."""
        for lane in self._all:
            lane.close()


def open_isolated(platform: str, program: Program) -> IsolatedModel:
    """Start the processes and wait until each has loaded its model.

    Raises:
        BundleError: the program refuses the model, or died while loading it; the message says why.
    """
    lanes = [_Lane(program, None)]
    try:
        declared = lanes[0].start()
        lanes += [_Lane(program, declared) for _ in range(declared.lanes - 1)]
        for lane in lanes[1:]:
            lane.spawn()
        for lane in lanes[1:]:
            lane.start()
    except WorkerDied as error:
        for lane in lanes:
            lane.close()
        raise BundleError(f"{program.title} cannot be loaded: {error}", final=error.hung) from None
    return IsolatedModel(platform, declared.signature, lanes)


class _Lane:
    """One process and its successors. Used by one thread at a time, but for `close`."""

    def __init__(self, program: Program, declared: Declared | None) -> None:
        self._program = program
        self._title = program.title
        self._declared = declared
        self._child: Child | None = None
        self._ready = False
        self._deaths: deque[float] = deque()
        self._reason = ""
        self._closed = threading.Event()
        self._lock = threading.Lock()

    def call(self, inputs: Tensors, threads: int) -> Tensors:
        try:
            child = self._revive()
            answer = child.call("predict", threads, inputs, timeout=self._program.hang_after)
        except WorkerDied as error:
            self._bury(error)
            raise WorkerDied(f"{self._title}: {error}", hung=error.hung) from None
        if answer.kind == "answer":
            return answer.tensors
        if answer.kind == "invalid":
            message, field = answer.detail
            raise InvalidInput(message, field=field)
        raise ModelError(f"{self._title}: {answer.detail}")

    def spawn(self) -> Child:
        """Start a process without waiting for it."""
        program = self._program
        child = Child(
            program.module,
            program.arguments,
            limits=Limits(memory=program.memory),
            environment=program.environment,
            inherit=program.environment is None,
        )
        with self._lock:
            if self._closed.is_set():
                raise ModelError(f"{self._title} was closed")
            child.spawn()
            self._child, self._ready = child, False
        return child

    def start(self) -> Declared:
        """Wait until the process has loaded its model. WorkerDied when it has not, or declares something new."""
        child = self._child or self.spawn()
        message = child.receive(_START_SECONDS)
        if message.kind != "ready":
            child.kill()
            raise WorkerDied(str(message.detail))
        declared = msgspec.convert(message.detail, Declared)
        if self._declared is not None and declared != self._declared:
            child.kill()
            raise WorkerDied("it has changed on disk and declares something else; load it again")
        self._declared, self._ready = declared, True
        return declared

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            child = self._child
        if child is not None:
            child.terminate()

    def _revive(self) -> Child:
        if self._child is None:
            wait = self._deaths[-1] + delay_after(len(self._deaths)) - monotonic()
            if wait > 0 and len(self._deaths) >= _BROKEN:
                raise NotReady(
                    f"{self._title} died {len(self._deaths)} times within a minute and is left alone "
                    f"for another {wait:.0f} seconds; the last time, {self._reason}"
                )
            self._closed.wait(max(wait, 0.0))
        child = self._child or self.spawn()
        if not self._ready:
            self.start()
        return child

    def _bury(self, error: WorkerDied) -> None:
        self._child, self._reason = None, str(error)
        now = monotonic()
        self._deaths.append(now)
        while self._deaths[0] < now - _WINDOW:
            self._deaths.popleft()
        # A first death is made good at once, so that the next call finds the model loaded.
        if not delay_after(len(self._deaths)) and not self._closed.is_set():
            self.spawn()

"""A Python class of the user's own, in processes of its own: what it does there never touches the server.

    class Doubler:
        inputs = {"x": ("FP32", [-1, 4])}
        outputs = {"y": ("FP32", [-1, 4])}

        def predict(self, x):
            return {"y": x * 2}

Optional: `load()`, called once in the process; `batched = False` where rows depend on each other;
`lanes = N` for N processes.
"""

import re
import threading
from collections import deque
from pathlib import Path
from queue import SimpleQueue
from time import monotonic

import msgspec

from rung.domain.errors import BundleError, InvalidInput, ModelError, NotReady, WorkerDied
from rung.domain.tensors import Signature, Tensors
from rung.ports import LoadOptions
from rung.processes import Child, Limits
from rung.runtimes.python_child import Declared

__all__ = ["PythonModel", "PythonRuntime", "delay_after"]

_REFERENCE = re.compile(r"([\w.]+|.+\.py):[A-Za-z_]\w*")
_CHILD = "rung.runtimes.python_child"
_START_SECONDS = 600.0
"""Loading may read gigabytes or compile."""

_WINDOW = 60.0
_DELAYS = (0.0, 0.2, 0.5, 1.0)
_BROKEN = len(_DELAYS) + 1
"""Deaths within the window from which on calls are refused rather than kept waiting."""
_REFUSED = 10.0
_LONGEST = 40.0


def delay_after(deaths: int) -> float:
    """Seconds before the process may start again, after so many deaths within a minute."""
    if deaths < _BROKEN:
        return _DELAYS[deaths - 1]
    return min(_LONGEST, _REFUSED * 2.0 ** (deaths - _BROKEN))


class PythonModel:
    """As many processes as the class asks for; a call takes the next free one."""

    platform = "python"
    inline = False

    def __init__(self, signature: Signature, lanes: "list[_Lane]") -> None:
        self.signature = signature
        self.lanes = len(lanes)
        self._all = lanes
        self._free: SimpleQueue[_Lane] = SimpleQueue()
        for lane in lanes:
            self._free.put(lane)

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        """Compute in a process; `threads` is the class's own business.

        Raises:
            InvalidInput: the class raised it.
            ModelError: the class raised something else, or its answer is not as declared.
            WorkerDied: the process crashed or hung; it is being replaced, and the next call waits for that.
            NotReady: it died so often that it is left alone for a while; the message says how long.
        """
        lane = self._free.get()
        try:
            return lane.call(inputs)
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """End the processes; calls in progress raise WorkerDied."""
        for lane in self._all:
            lane.close()


class PythonRuntime:
    """Loads `module:Class` and `path/to/file.py:Class`, for users who gave it themselves."""

    name = "python"

    def recognises(self, path: Path) -> bool:
        """By the form; no file is a Python model, so that no uploaded one can be."""
        return not path.exists() and _REFERENCE.fullmatch(str(path)) is not None

    def load(self, artifact: Path | str, options: LoadOptions) -> PythonModel:
        """Start the processes and wait until each has imported and loaded the class.

        Raises:
            BundleError: it is not trusted, cannot be imported, or does not declare itself properly.
        """
        reference = str(artifact)
        if not options.trusted:
            raise BundleError(
                f"{reference} is code: it runs only where it is named on the command line or in rung.toml"
            )
        if not _REFERENCE.fullmatch(reference):
            raise BundleError(f"{reference!r} names no class; write it as module:Class or path/to/file.py:Class")
        lanes = [_Lane(reference, options, None)]
        try:
            declared = lanes[0].start()
            lanes += [_Lane(reference, options, declared) for _ in range(declared.lanes - 1)]
            for lane in lanes[1:]:
                lane.spawn()
            for lane in lanes[1:]:
                lane.start()
        except WorkerDied as error:
            for lane in lanes:
                lane.close()
            raise BundleError(f"{reference} cannot be loaded: {error}") from None
        return PythonModel(declared.signature, lanes)


class _Lane:
    """One process and its successors. Used by one thread at a time, but for `close`."""

    def __init__(self, reference: str, options: LoadOptions, declared: Declared | None) -> None:
        self._reference = reference
        self._options = options
        self._declared = declared
        self._child: Child | None = None
        self._ready = False
        self._deaths: deque[float] = deque()
        self._reason = ""
        self._closed = threading.Event()
        self._lock = threading.Lock()

    def call(self, inputs: Tensors) -> Tensors:
        try:
            child = self._revive()
            answer = child.call("predict", None, inputs, timeout=self._options.hang_after)
        except WorkerDied as error:
            self._bury(error)
            raise WorkerDied(f"{self._reference}: {error}") from None
        if answer.kind == "answer":
            return answer.tensors
        if answer.kind == "invalid":
            message, field = answer.detail
            raise InvalidInput(message, field=field)
        raise ModelError(f"{self._reference}: {answer.detail}")

    def spawn(self) -> Child:
        """Start a process without waiting for it."""
        child = Child(
            _CHILD,
            [self._reference, self._options.search_path],
            limits=Limits(memory=self._options.memory),
        )
        with self._lock:
            if self._closed.is_set():
                raise ModelError(f"{self._reference} was closed")
            child.spawn()
            self._child, self._ready = child, False
        return child

    def start(self) -> Declared:
        """Wait until the process has loaded the class. WorkerDied when it has not, or declares something new."""
        child = self._child or self.spawn()
        message = child.receive(_START_SECONDS)
        if message.kind != "ready":
            child.kill()
            raise WorkerDied(str(message.detail))
        declared = msgspec.convert(message.detail, Declared)
        if self._declared is not None and declared != self._declared:
            child.kill()
            raise WorkerDied("the class has changed on disk and declares something else; load it again")
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
                    f"{self._reference} died {len(self._deaths)} times within a minute and is left alone "
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
        # A first death is made good at once, so that the next call finds the class loaded.
        if not delay_after(len(self._deaths)) and not self._closed.is_set():
            self.spawn()

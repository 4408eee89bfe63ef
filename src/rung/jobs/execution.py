"""One try at one job: its handler called in this thread, or in a child process that this thread waits for."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import import_module
from threading import Event, Lock
from typing import Any, Literal

import msgspec
import structlog
from sqlalchemy import Connection

from rung.channel import Message
from rung.domain.errors import Cancelled, WorkerDied
from rung.domain.jobs import Handler, Job
from rung.jobs.child import reason_of
from rung.jobs.context import JobContext
from rung.jobs.endings import Effect
from rung.processes import Child, Limits

__all__ = ["Outcome", "Try"]

_log = structlog.get_logger("rung.jobs")


class Outcome(msgspec.Struct, frozen=True):
    """How a try ended."""

    kind: Literal["done", "failed", "handed back"]
    result: Any = None
    reason: str = ""
    """Of a failure, in one line."""


class Try:
    """A job that this worker holds. `run` is called once, by a thread of its own; all else by the worker's loop."""

    def __init__(self, job: Job, handler: Handler, parents: Callable[[Job], Mapping[int, Any]]) -> None:
        self.job = job
        self.outcome: Outcome | None = None
        self.began = 0.0
        """Monotonic seconds; 0 while it waits for a thread."""
        self.renewed = time.monotonic()
        """When the lease was last known to be held."""
        self.abandoned = False
        """Given up while it ran: its thread ends with it."""
        self.said: tuple[float, str] | None = None
        """Progress that has not been written yet."""
        self._handler = handler
        self._parents = parents
        self._stop = Event()
        self._child: Child | None = None
        self._effects: list[Effect] = []
        self._first = Lock()
        """Taken for good by who is first: the thread that begins, or the loop that hands the job back."""

    @property
    def effect(self) -> Effect | None:
        """All that the handler asked to be written with its result."""
        effects = tuple(self._effects)
        if not effects:
            return None

        def write(connection: Connection) -> None:
            for one in effects:
                one(connection)

        return write

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop."""
        return self._stop.is_set()

    def begin(self) -> bool:
        """Called by the thread that is going to `run` it; False if it was withdrawn."""
        if not self._first.acquire(blocking=False):
            return False
        self.began = time.monotonic()
        return True

    def withdraw(self) -> bool:
        """Keep it from beginning; False if it has begun."""
        return self._first.acquire(blocking=False)

    def stop(self) -> None:
        """Ask the handler to end."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._child is not None:
            with suppress(WorkerDied):
                self._child.send("stop")

    def kill(self) -> None:
        """End the child process, if there is one; a thread cannot be ended."""
        self._stop.set()
        if self._child is not None:
            self._child.kill()

    def run(self) -> None:
        """Call the handler and keep how it ended in `outcome`."""
        try:
            self.outcome = self._in_child() if self._handler.process else self._here()
        except Cancelled:
            self.outcome = Outcome("handed back")
        except BaseException as error:  # noqa: BLE001 - a boundary: the handler is the user's code
            _log.warning("a job failed", action="job_failed", job=self.job.id, kind=self.job.kind, exc_info=error)
            self.outcome = Outcome("failed", reason=reason_of(error))

    def _here(self) -> Outcome:
        module, _, attribute = self._handler.target.partition(":")
        context = JobContext(
            self.job,
            report=self._report,
            stopped=self._stop.is_set,
            parents=lambda: self._parents(self.job),
            effect=self._effects.append,
        )
        return Outcome("done", getattr(import_module(module), attribute)(context))

    def _in_child(self) -> Outcome:
        limits = Limits(memory=self._handler.memory, cpu_seconds=self._handler.cpu_seconds)
        child = Child("rung.jobs.child", [self._handler.target, self._handler.search_path], limits=limits)
        parents = list(self._parents(self.job).items()) if self.job.after else []
        child.spawn()
        self._child = child
        try:
            if self._stop.is_set():
                return Outcome("handed back")
            child.receive()  # it is ready
            child.send("run", {"job": msgspec.to_builtins(self.job), "parents": parents})
            while (message := child.receive()).kind == "progress":
                self._report(*message.detail)
            return _outcome(message)
        except WorkerDied as error:
            if self.stopping:
                return Outcome("handed back")
            _log.warning("the process of a job died", action="job_failed", job=self.job.id, reason=str(error))
            return Outcome("failed", reason=str(error))
        finally:
            child.terminate()

    def _report(self, fraction: float, note: str = "") -> None:
        self.said = (fraction, note)


def _outcome(message: Message) -> Outcome:
    match message.kind:
        case "done":
            return Outcome("done", msgspec.json.decode(message.detail))
        case "handed back":
            return Outcome("handed back")
        case _:
            return Outcome("failed", reason=str(message.detail))

"""A worker: claims jobs, calls their handlers, renews leases, writes results; until it is told to end, or idle.

One loop decides and speaks with the database through a thread of its own; handlers run in other threads, or in
child processes that those wait for. Results are written together: one transaction for all that have come in since
the last, so that a thousand small jobs do not cost a thousand flushes of the disk.
"""

import asyncio
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import msgspec
import structlog

from rung.domain.errors import Conflict, NotReady, OperatorError
from rung.domain.jobs import Handler, Job
from rung.jobs.child import reason_of
from rung.jobs.endings import Completion
from rung.jobs.execution import Try
from rung.jobs.queue import JobStore

__all__ = ["Worker", "WorkerOptions"]

_T = TypeVar("_T")
_AHEAD_SECONDS = 0.2
"""Work that is claimed ahead of the threads: enough that they do not run dry, little enough to leave to others."""
_FIRST_POLL = 0.02
_PATIENCE = 1.0
"""Seconds that a claimed job waits for a thread before others may have it."""
_log = structlog.get_logger("rung.jobs")


class WorkerOptions(msgspec.Struct, frozen=True):
    """How a worker works."""

    concurrency: int = 2
    """Jobs at once."""
    batch: int = 500
    """Most jobs held at once; how many of them are claimed ahead follows from how long jobs take."""
    lease_seconds: float = 30.0
    """After this without a sign of life its jobs go to others. It gives one every third of that."""
    poll_seconds: float = 0.25
    """Longest pause between two looks at an empty table."""
    idle_seconds: float = 0.0
    """End after so long without a job; 0: never."""
    drain_seconds: float = 30.0
    """Time that running jobs get to finish when the worker ends; then they are handed back."""


class Worker:
    """Does jobs of the kinds in its table.

    Guarantees:
        1. A job that it has claimed is ended, handed back, or left to its lease; nothing that a handler does stops it.
        2. When the database cannot be reached, results are kept and written once it can.
        3. After `stop` it claims nothing more, and `run` returns within `drain_seconds` and what a handler in a
           thread takes to notice.
    """

    def __init__(
        self, store: JobStore, handlers: Mapping[str, Handler], options: WorkerOptions | None = None, name: str = ""
    ) -> None:
        self.name = name or f"{socket.gethostname()}-{os.getpid()}"
        self._store = store
        self._handlers = dict(handlers)
        self._options = options or WorkerOptions()
        self._kinds = {kind: handler.limit for kind, handler in self._handlers.items()}
        self._tries: dict[int, Try] = {}
        self._todo: SimpleQueue[Try | None] = SimpleQueue()
        self._finished: deque[Try] = deque()
        self._mean_seconds = 1.0
        self._wake: Callable[[], None] = lambda: None
        self._woken = False
        self._stopping = False
        self._renewed = self._reported = 0.0
        self._database: ThreadPoolExecutor | None = None

    def stop(self) -> None:
        """End soon. Called in the thread of the loop, such as by a signal handler of asyncio."""
        self._stopping = True
        self._wake()

    async def run(self) -> None:
        """Work until `stop`, or until idle for as long as the options say."""
        changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def wake() -> None:
            # Threads that finish while the loop has yet to look need not call it again.
            if not self._woken:
                self._woken = True
                with suppress(RuntimeError):  # a handler that outlived the loop has nobody to tell
                    loop.call_soon_threadsafe(changed.set)

        self._wake = wake
        if self._stopping:
            return
        for _ in range(self._options.concurrency):
            self._start_thread()
        _log.info("the worker is ready", action="worker_ready", worker=self.name, kinds=sorted(self._kinds))
        with ThreadPoolExecutor(1, "rung-jobs-database") as self._database:
            try:
                await self._work(changed)
                await self._drain(changed)
            finally:
                for _ in range(self._options.concurrency):
                    self._todo.put(None)
        _log.info("the worker ended", action="worker_ended", worker=self.name)

    async def _work(self, changed: asyncio.Event) -> None:
        pause = _FIRST_POLL
        busy = time.monotonic()
        while not self._stopping:
            self._woken = False
            changed.clear()
            took = 0
            try:
                await self._settle()
                await self._watch()
                took = await self._claim()
            except (NotReady, OperatorError) as error:
                # What is finished stays in hand; the pause grows to the longest meanwhile.
                _log.warning("the job table cannot be used", action="jobs_unreachable", reason=str(error))
            if took or self._tries:
                busy = time.monotonic()
            elif self._options.idle_seconds and time.monotonic() - busy >= self._options.idle_seconds:
                return
            pause = _FIRST_POLL if took else min(2 * pause, self._options.poll_seconds)
            await _wait(changed, pause)

    async def _drain(self, changed: asyncio.Event) -> None:
        await self._release([one for one in self._tries.values() if one.withdraw()])
        until = time.monotonic() + self._options.drain_seconds
        for one in self._tries.values():
            one.stop()
        while self._tries and time.monotonic() < until:
            self._woken = False
            changed.clear()
            try:
                await self._settle()
                await self._watch()
            except (NotReady, OperatorError) as error:
                _log.warning("the job table cannot be used", action="jobs_unreachable", reason=str(error))
            if self._tries:
                await _wait(changed, self._options.poll_seconds)
        for one in self._tries.values():
            one.kill()
        await self._release(list(self._tries.values()))

    async def _claim(self) -> int:
        """Claim as much as threads will do in a moment; returns the number."""
        want = min(self._options.batch, max(1, round(self._options.concurrency * _AHEAD_SECONDS / self._pace())))
        want = max(want, self._options.concurrency)
        room = want - len(self._tries)
        if not self._kinds or 2 * room < want:
            return 0
        seconds = self._options.lease_seconds
        jobs = await self._hop(lambda: self._store.claim(self.name, self._kinds, batch=room, seconds=seconds))
        for job in jobs:
            one = self._tries[job.id] = Try(job, self._handlers[job.kind], self._parents)
            self._todo.put(one)
        return len(jobs)

    def _pace(self) -> float:
        """Seconds that a job takes: the mean, or what those that run have taken so far, if that is more."""
        began = [one.began for one in self._tries.values() if one.began and one.outcome is None]
        so_far = time.monotonic() - max(began) if len(began) >= self._options.concurrency else 0.0
        return max(self._mean_seconds, so_far, 1e-6)

    async def _settle(self) -> None:
        """Write how tries ended, those that ended well in one transaction."""
        # One by one from the left: threads add on the right meanwhile.
        finished = [self._finished.popleft() for _ in range(len(self._finished))]
        mine = [one for one in finished if self._tries.get(one.job.id) is one and one.outcome is not None]
        try:
            await self._write([one for one in mine if one.outcome and one.outcome.kind == "done"])
            for one in mine:
                if one.outcome and one.outcome.kind == "failed":
                    await self._fail(one, one.outcome.reason)
            await self._release([one for one in mine if one.outcome and one.outcome.kind == "handed back"])
        except (NotReady, OperatorError):
            self._finished.extend(one for one in mine if one.job.id in self._tries)
            raise

    async def _write(self, done: list[Try]) -> None:
        if not done:
            return
        completions = [Completion(one.job, one.outcome.result if one.outcome else None, one.effect) for one in done]
        problems = await self._hop(lambda: self._store.complete_many(completions))
        for one, problem in zip(done, problems, strict=True):
            if problem is None:
                del self._tries[one.job.id]
            elif isinstance(problem, Conflict):
                self._forget(one, str(problem))
            else:
                await self._fail(one, reason_of(problem))

    async def _fail(self, one: Try, reason: str) -> None:
        try:
            await self._hop(lambda: self._store.fail(one.job, reason))
        except Conflict as error:
            self._forget(one, str(error))
        self._tries.pop(one.job.id, None)

    async def _release(self, tries: list[Try]) -> None:
        if tries:
            await self._hop(lambda: self._store.release([one.job for one in tries]))
            for one in tries:
                self._tries.pop(one.job.id, None)

    def _forget(self, one: Try, reason: str) -> None:
        _log.warning("a job was lost to this worker", action="job_lost", job=one.job.id, reason=reason)
        self._tries.pop(one.job.id, None)
        one.kill()

    async def _watch(self) -> None:
        """End what takes too long, hand back what waits for a thread in vain, renew leases, write progress."""
        now = time.monotonic()
        for one in list(self._tries.values()):
            limit = one.job.timeout
            if limit and one.began and one.outcome is None and now - one.began > limit:
                one.abandoned = True
                self._start_thread()
                one.kill()
                await self._fail(one, f"it took longer than {limit:g} seconds")
        if self._pace() > _PATIENCE:
            waiting = [one for one in self._tries.values() if now - one.renewed > _PATIENCE]
            await self._release([one for one in waiting if one.withdraw()])
        if now - self._reported >= 1.0:
            self._reported = now
            for one in self._tries.values():
                said, one.said = one.said, None
                if said is not None and one.outcome is None:
                    await self._hop(partial(self._store.report, one.job, *said))
        if now - self._renewed >= self._options.lease_seconds / 3:
            await self._renew()

    async def _renew(self) -> None:
        tries = list(self._tries.values())
        began = time.monotonic()
        try:
            seconds = self._options.lease_seconds
            held = await self._hop(lambda: self._store.heartbeat([one.job for one in tries], seconds=seconds))
        except (NotReady, OperatorError):
            for one in tries:
                if began - one.renewed > self._options.lease_seconds:
                    one.stop()  # somebody else may have it by now
            raise
        self._renewed = began
        for one in tries:
            if one.job.id in held:
                one.renewed = began
            elif self._tries.get(one.job.id) is one:
                self._forget(one, "it was cancelled, or its lease ran out")

    def _parents(self, job: Job) -> Mapping[int, Any]:
        return {parent: self._store.get(parent).result for parent in job.after}

    async def _hop(self, call: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._database, call)

    def _start_thread(self) -> None:
        # Daemons, unlike those of a pool: a handler that never returns must not keep the process from ending.
        Thread(target=self._handle, name="rung-job", daemon=True).start()

    def _handle(self) -> None:
        while (one := self._todo.get()) is not None:
            if not one.begin():
                continue
            one.run()
            took = time.monotonic() - one.began
            self._mean_seconds += 0.1 * (took - self._mean_seconds)
            self._finished.append(one)
            self._wake()
            if one.abandoned:
                return  # another thread has taken its place


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    # Not wait_for, which in Python 3.11 loses a cancellation that comes with what it waits for.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()

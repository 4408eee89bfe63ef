"""The processes of one run: started together, heard as one, ended together."""

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from rung.domain import errors
from rung.domain.errors import TrainingFailed, WorkerDied
from rung.processes import Child, Limits
from rung.training.events import Event, Produced, Ready, decode
from rung.training.orders import Order
from rung.training.resources import Sampler, Use

__all__ = ["Crew", "log_to"]

_TICK = 0.25
"""Seconds between two looks at the memory of the processes, and at whether to stop."""


class Crew:
    """One process, or several that train one model together. The first reads the data, then the others start."""

    def __init__(
        self, order: Order, output: Callable[[bytes], None], used: Callable[[Use], None] = lambda _use: None
    ) -> None:
        self._order, self._output, self._used = order, output, used
        self._sampler = Sampler()
        self._children: list[Child] = []
        self._heard: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self.peak_memory = 0
        """Bytes of the largest process, as seen."""

    @property
    def pids(self) -> list[int]:
        """Of the processes that run."""
        return [child.pid for child in self._children]

    def run(self, hear: Callable[[Event], None], stop: Callable[[], bool]) -> None:
        """Start them and pass on what the first one says; returns when it has produced something.

        Raises:
            WorkerDied: one of them ended before; all others have been ended.
            RungError: what one of them failed with.
        """
        asked, looked = False, 0.0
        try:
            self._start(self._order)
            while True:
                if time.monotonic() - looked > _TICK:
                    looked = time.monotonic()
                    self._watch_memory()
                    if use := self._sampler.look(self.pids):
                        self._used(use)
                    if not asked and stop():
                        asked = True
                        for child in self._children:
                            child.send("stop")
                try:
                    rank, heard = self._heard.get(timeout=_TICK)
                except queue.Empty:
                    continue
                if isinstance(heard, Exception):
                    raise heard
                if rank:
                    continue
                event = decode(heard)
                if isinstance(event, Ready):
                    self._start_others(event.dataset)
                hear(event)
                if isinstance(event, Produced):
                    return
        finally:
            self.end()

    def end(self) -> None:
        """End them all. Twice is no error."""
        for child in self._children:
            child.kill()

    def _start_others(self, dataset: str) -> None:
        spec = msgspec.structs.replace(self._order.spec, dataset=dataset)
        for rank in range(1, spec.workers):
            self._start(msgspec.structs.replace(self._order, rank=rank, spec=spec))

    def _start(self, order: Order) -> None:
        limits = Limits(memory=order.spec.memory, cpu_seconds=order.spec.cpu_seconds)
        child = Child("rung.training.child", limits=limits, output=self._output)
        child.spawn()
        self._children.append(child)
        child.send("order", msgspec.to_builtins(order))
        threading.Thread(target=self._listen, args=(order.rank, child), daemon=True).start()

    def _listen(self, rank: int, child: Child) -> None:
        try:
            while True:
                message = child.receive()
                if message.kind == "failed":
                    self._heard.put((rank, _failure(message.detail)))
                    return
                self._heard.put((rank, message.detail))
                if message.detail.get("type") == "Produced":
                    return
        except WorkerDied as error:
            if rank and child.exited_well:
                return
            self._heard.put((rank, error))

    def _watch_memory(self) -> None:
        limit = self._order.spec.memory
        for child in self._children:
            try:
                size = psutil.Process(child.pid).memory_info().rss
            except psutil.NoSuchProcess:
                continue
            self.peak_memory = max(self.peak_memory, size)
            if limit and size > limit:
                raise TrainingFailed(
                    f"training was ended because it held {size >> 20} MiB, and its limit is {limit >> 20} MiB: use "
                    "smaller batches, ctx.recompute, or raise memory in [models.NAME.run]"
                )


def _failure(detail: dict[str, str]) -> Exception:
    kind = getattr(errors, detail["kind"], TrainingFailed)
    error: Exception = kind(detail["text"])
    if detail["trace"]:
        error.add_note(detail["trace"])
    return error


def log_to(path: Path) -> Callable[[bytes], None]:
    """Append what the processes print to a file."""

    def write(chunk: bytes) -> None:
        with path.open("ab") as file:
            file.write(chunk)

    return write

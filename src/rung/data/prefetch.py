"""Extract, transform and load at the same time: each stage works on one item while the next works on the one before.

Three stages of 10 ms each take 10 ms an item instead of 30, where they wait for disk, net or a library that lets go of
the interpreter. Queues between them are short, so memory is bounded by the slowest stage.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from rung.domain.errors import RungError

__all__ = ["StageFailed", "overlap"]

_END = object()


class StageFailed(RungError):
    """A stage failed on an item; the cause is the exception's `__cause__`."""

    def __init__(self, stage: str, item: int, error: BaseException) -> None:
        super().__init__(f"{stage} failed on item {item}: {type(error).__name__}: {error}")
        self.stage, self.item = stage, item


def overlap(
    items: Iterable[Any], *stages: Callable[[Any], Any], ahead: int = 2, workers: int | Sequence[int] = 1
) -> Iterator[Any]:
    """Yield every item, run through all stages, in order.

    At most `ahead` items wait between two stages. `workers` is how many threads each stage has, one number for all or
    one for each; the order stays.

    Raises:
        StageFailed: naming the stage and the item, counted from 1; reading `items` is the stage `extract`. What came
            before that item has been yielded.
    """
    if ahead < 1:
        raise ValueError(f"ahead = {ahead}: at least one item has to wait between two stages")
    counts = [workers] * len(stages) if isinstance(workers, int) else list(workers)
    stop = threading.Event()
    queues = [_Line(ahead, stop) for _ in range(len(stages) + 1)]
    threads = [threading.Thread(target=_extract, args=(items, queues[0]), daemon=True)]
    for stage, count, source, sink in zip(stages, counts, queues[:-1], queues[1:], strict=True):
        turns = _Turns(sink, count)
        threads += [
            threading.Thread(target=_work, args=(stage, source, turns), daemon=True) for _ in range(max(1, count))
        ]
    for thread in threads:
        thread.start()
    try:
        while True:
            _, value, error = queues[-1].get()
            if error is not None:
                raise error from error.__cause__
            if value is _END:
                return
            yield value
    finally:
        stop.set()
        for thread in threads:
            thread.join()


class _Stopped(Exception):
    """Whoever asked for the items has gone."""


class _Line:
    """A short queue whose waiting ends when everything does."""

    def __init__(self, size: int, stop: threading.Event) -> None:
        self._queue: queue.Queue[tuple[int, Any, StageFailed | None]] = queue.Queue(size)
        self._stop = stop

    def put(self, entry: tuple[int, Any, StageFailed | None]) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(entry, timeout=0.05)
            except queue.Full:
                continue
            return
        raise _Stopped

    def get(self) -> tuple[int, Any, StageFailed | None]:
        while not self._stop.is_set():
            try:
                return self._queue.get(timeout=0.05)
            except queue.Empty:
                continue
        raise _Stopped


class _Turns:
    """Lets the threads of a stage hand on their items in order."""

    def __init__(self, sink: _Line, workers: int) -> None:
        self._sink, self.workers = sink, max(1, workers)
        self._next = 1
        self._changed = threading.Condition()
        self.ended = 0

    def put(self, entry: tuple[int, Any, StageFailed | None], stopped: Callable[[], bool]) -> None:
        with self._changed:
            while self._next != entry[0]:
                if stopped():
                    raise _Stopped
                self._changed.wait(0.05)
            self._sink.put(entry)
            self._next += 1
            self._changed.notify_all()


def _extract(items: Iterable[Any], sink: _Line) -> None:
    number = 0
    try:
        try:
            for number, item in enumerate(items, 1):
                sink.put((number, item, None))
        except _Stopped:
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised where the items are asked for
            failed = StageFailed("extract", number + 1, error)
            failed.__cause__ = error
            sink.put((number + 1, None, failed))
        else:
            sink.put((number + 1, _END, None))
    except _Stopped:
        return


def _work(stage: Callable[[Any], Any], source: _Line, turns: _Turns) -> None:
    name = getattr(stage, "__name__", type(stage).__name__)
    stopped = source._stop.is_set
    try:
        while True:
            number, value, error = source.get()
            if value is _END or error is not None:
                turns.put((number, value, error), stopped)
                return
            try:
                made = stage(value)
            except BaseException as problem:  # noqa: BLE001 - it is raised where the items are asked for
                failed = StageFailed(name, number, problem)
                failed.__cause__ = problem
                turns.put((number, None, failed), stopped)
                return
            turns.put((number, made, None), stopped)
    except _Stopped:
        return

"""Batches of a table: shuffled by a seed, prepared ahead in a thread, and able to go on in the middle of an epoch."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.domain.tensors import Array

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Batches"]

_STOP = object()


class Batches:
    """Passes over the rows of a table.

    An epoch's order is a function of seed and epoch alone. With several processes each batch of `size` rows is shared
    out: process `rank` gets its rows `rank::world`, so that all of them together see what one would have seen.
    A process for which the last batch has no row gets its first one, with `share` 0.

    Attributes:
        waited: seconds for which whoever iterates stood still.
    """

    def __init__(
        self,
        frame: "pl.DataFrame",
        size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        transform: Callable[..., Any] | None = None,
        ahead: int = 2,
    ) -> None:
        if size < 1:
            raise ValueError(f"a batch has at least one row, not {size}")
        self._frame, self._size, self._seed, self._shuffle = frame, size, seed, shuffle
        self._drop_last, self._rank, self._world = drop_last, rank, world
        self._transform, self._ahead = transform, max(1, ahead)
        self.waited = 0.0

    def __len__(self) -> int:
        whole, rest = divmod(self._frame.height, self._size)
        return whole + (rest > 0 and not self._drop_last)

    def share(self, place: int) -> float:
        """What the mean over this process's rows of batch `place` counts, such that the mean over all processes is the
        mean over all rows: 1 where each has as many.
        """
        rows = min(self._size, self._frame.height - place * self._size)
        return len(range(self._rank, rows, self._world)) * self._world / rows

    def order(self, epoch: int) -> Array:
        """Row numbers in the order of an epoch, INT64."""
        rows = self._frame.height
        if not self._shuffle:
            return np.arange(rows)
        return np.random.default_rng((self._seed, epoch)).permutation(rows)

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """Batch `start` and all that follow in an epoch: a dict of columns, or what `transform` makes of it.

        `transform(batch, epoch=number, indices=rows)` runs in a thread. What it raises is raised here.
        """
        order = self.order(number)
        waiting: queue.Queue[Any] = queue.Queue(self._ahead)
        ended = threading.Event()

        def fill() -> None:
            try:
                for place in range(start, len(self)):
                    batch = order[place * self._size : (place + 1) * self._size]
                    rows = batch[self._rank :: self._world]
                    if not len(rows):
                        # All processes have to take each step together.
                        rows = batch[:1]
                    if not _put(waiting, (self._made(rows, number), None), ended):
                        return
                _put(waiting, (_STOP, None), ended)
            except BaseException as error:  # noqa: BLE001 - it is raised where the batch was waited for
                _put(waiting, (_STOP, error), ended)

        thread = threading.Thread(target=fill, daemon=True)
        thread.start()
        try:
            while True:
                begun = time.perf_counter()
                batch, error = waiting.get()
                self.waited += time.perf_counter() - begun
                if error is not None:
                    raise error
                if batch is _STOP:
                    return
                yield batch
        finally:
            ended.set()
            thread.join()

    def _made(self, rows: Array, epoch: int) -> Any:
        part = self._frame[rows]
        batch = {
            column.name: column.to_numpy(writable=True) if column.dtype.is_numeric() else column.to_list()
            for column in part
        }
        return batch if self._transform is None else self._transform(batch, epoch=epoch, indices=rows)


def _put(waiting: "queue.Queue[Any]", item: Any, ended: threading.Event) -> bool:
    while not ended.is_set():
        try:
            waiting.put(item, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False

"""The writing side of segments: callers append and go on; a thread encodes, checksums, writes and syncs.

    append -> buffer (bounded in bytes) -> encode -> write (every 0.1 s) -> fdatasync (every `flush_seconds`)

What may be lost: a killed process loses what it appended in the last 0.1 s, a machine without power what it
appended since the last sync, at most `flush_seconds`. The next run in the same folder says so in its first record.
While the disk refuses, records are held up to `buffer_bytes`; what does not fit is counted, and a `ShedRecord` tells
of it when the disk is back. After a failed sync nothing more is written to that file: the kernel may have thrown the
bytes away and will not say so twice. They go to a new file, so a record may be there twice; readers that count drop
the second by its id.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep, time
from typing import Any

import msgspec
import structlog

from rung.domain.errors import InvalidInput, NotReady
from rung.domain.names import check_name
from rung.domain.records import MarkRecord, ShedRecord, encode
from rung.store.frames import MAX_PAYLOAD
from rung.store.segment_files import SegmentFiles

__all__ = ["SegmentWriter", "encode_all"]

_TICK = 0.1
"""Seconds between two looks at the buffer while records come."""
_SLICE = 64
"""Records encoded between two chances for the event loop to have the interpreter."""
_WRITE = 1 << 20
"""Bytes written at once."""
_SYNC = 8 << 20
"""Bytes not synced yet at which the time for it does not matter."""
_CLOSE_SECONDS = 30.0


class _Commit(msgspec.Struct, gc=False):
    """Records that somebody waits for."""

    records: Sequence[Any]
    promise: Future[None]


def encode_all(records: Sequence[Any]) -> list[bytes]:
    """Encode records as they are."""
    return [encode(record) for record in records]


class SegmentWriter:
    """Appends records to one replica's segments.

    Guarantees:
        1. `append` and `commit` never wait for the disk.
        2. A `commit` future that is done without error: its record is on the disk.
        3. Every record appended is written, held, or counted in `shed`.
        4. Memory held is at most `buffer_bytes`, by the callers' estimates, and one slice being encoded.
    `append` and `commit` belong to one thread (the event loop's).
    """

    def __init__(
        self,
        folder: Path,
        *,
        replica: str,
        encoder: Callable[[Sequence[Any]], list[bytes]] = encode_all,
        buffer_bytes: int = 64 << 20,
        flush_seconds: float = 1.0,
        segment_bytes: int = 64 << 20,
        segment_seconds: float = 300.0,
    ) -> None:
        self._files = SegmentFiles(
            folder / check_name(replica), segment_bytes=segment_bytes, segment_seconds=segment_seconds
        )
        self.replica = replica
        self.written = 0
        """Records on the disk."""
        self.written_bytes = 0
        self.error = ""
        """Why nothing can be written now; empty while all is well."""
        self.errors = 0
        """Times that the disk refused."""
        self.unclean: MarkRecord | None = None
        """The mark of this run, if the one before did not close."""
        self._encoder = encoder
        self._buffer_bytes = buffer_bytes
        self._flush_seconds = flush_seconds
        self._items: deque[tuple[Any, int]] = deque()
        """Records, or a `_Commit` of several, with the bytes that they hold."""
        # Each of these has one writing thread, so no lock is needed.
        self._appended = 0
        self._taken = 0
        self._held: deque[bytes] = deque()
        """Payloads that are in no file yet."""
        self._unsynced: list[bytes] = []
        """Payloads written since the last sync, in case it fails."""
        self._holding = 0
        """Bytes of both."""
        self._promises: list[Future[None]] = []
        self._oldest = 0.0
        """When the oldest record that is not synced was taken over; 0 for none."""
        self._turned_away: Counter[tuple[str, str]] = Counter()
        """Model and reason -> records that `append` shed."""
        self._dropped: Counter[tuple[str, str]] = Counter()
        """The same for records that the thread could not write."""
        self._told: Counter[tuple[str, str]] = Counter()
        """What of both a `ShedRecord` tells of."""
        self._shed_since = 0.0
        self._asleep = False
        self._urgent = False
        self._closing = False
        self._wake = Event()
        self._thread: Thread | None = None
        self._log = structlog.get_logger("rung.log")

    # --- the callers' side ------------------------------------------------------------------

    def open(self) -> None:
        """Take the replica's folder and start the thread.

        Raises:
            ConfigurationError: another process writes there, or the folder cannot be made.
        """
        self._files.lock()
        self._thread = Thread(target=self._run, name=f"rung-log-{self.replica}", daemon=True)
        self._thread.start()

    def append(self, record: Any, size: int = 256) -> bool:
        """Take a record that holds about `size` bytes of memory; False if it was shed, and counted."""
        if self._appended - self._taken + self._holding + size > self._buffer_bytes or self._closing:
            self._turned_away[getattr(record, "model", ""), self.error or "buffer full"] += 1
            self._shed_since = self._shed_since or time()
            return False
        self._appended += size
        self._items.append((record, size))
        if self._asleep:
            self._asleep = False
            self._wake.set()
        return True

    def commit(self, records: Sequence[Any], size: int = 1024) -> Future[None]:
        """Take records that have to be on the disk before their sender is told; those of one moment share a sync.

        The future fails with `NotReady` where the disk refuses or the buffer is full. The records may be written
        later all the same, so each should carry an id of its own. Without records it ends when all before is synced.
        """
        promise: Future[None] = Future()
        promise.set_running_or_notify_cancel()  # a caller who leaves must not disturb the thread
        if self._appended - self._taken + self._holding + size > self._buffer_bytes or self._closing:
            promise.set_exception(NotReady(f"the log cannot take this now: {self.error or 'its buffer is full'}"))
            return promise
        self._appended += size
        self._items.append((_Commit(records, promise), size))
        self._urgent = True
        self._asleep = False
        self._wake.set()
        return promise

    @property
    def shed(self) -> Counter[tuple[str, str]]:
        """Model and reason -> records that are lost."""
        # Copied first: a dict that the other thread adds to cannot be iterated over.
        return Counter(dict(self._turned_away)) + Counter(dict(self._dropped))

    @property
    def buffered(self) -> int:
        """Bytes that are not on the disk yet, by estimate."""
        return self._appended - self._taken + self._holding

    @property
    def lag(self) -> float:
        """Age in seconds of the oldest record that is not on the disk."""
        oldest = self._oldest
        return monotonic() - oldest if oldest else 0.0

    def close(self) -> None:
        """Write what is there, mark the end, and let go of the folder. Waits for the disk, half a minute at most."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._closing = True
        self._wake.set()
        thread.join(_CLOSE_SECONDS)
        self._files.unlock()

    # --- the thread's side ------------------------------------------------------------------

    def _run(self) -> None:
        begun = False
        synced = 0.0
        while True:
            closing = self._closing
            urgent, self._urgent = self._urgent, False
            self._take_over()
            due = urgent or closing or monotonic() - synced >= self._flush_seconds
            due = due or (self._holding >= _SYNC and not self.error)
            if not begun and due:
                begun = self._begin()
            if begun and (due or not self.error):
                if closing:
                    self._hold(encode(MarkRecord(time(), self.replica, "close")))
                self._write(due)
            if due:
                synced = monotonic()
            if closing:
                self._give_up()
                return
            self._wait()

    def _wait(self) -> None:
        self._wake.clear()
        if not (self._items or self._held or self._unsynced or self._untold()):
            self._asleep = True
            # Whoever appended before the flag was up has not woken us.
            if not self._items and not self._closing:
                self._wake.wait()
            self._asleep = False
        elif not (self._urgent or self._closing):
            self._wake.wait(min(_TICK, self._flush_seconds))

    def _take_over(self) -> None:
        """Encode all that is in the buffer, a slice at a time."""
        left = len(self._items)  # what comes meanwhile has its turn after these are written
        while left > 0:
            taken = [self._items.popleft() for _ in range(min(_SLICE, left))]
            left -= len(taken)
            self._oldest = self._oldest or monotonic()
            plain = [record for record, _ in taken if type(record) is not _Commit]
            self._encode(plain)
            if len(plain) < len(taken):
                for commit in [one for one, _ in taken if type(one) is _Commit]:
                    self._promise(commit.records, commit.promise)
            self._taken += sum([size for _, size in taken])
            sleep(0)  # the event loop's turn, if it wants it

    def _promise(self, records: Sequence[Any], promise: Future[None]) -> None:
        if self._encode(records) == len(records):
            self._promises.append(promise)
        else:
            promise.set_exception(InvalidInput("this cannot be written to the log: it is too large, or no JSON"))

    def _encode(self, records: Sequence[Any]) -> int:
        """Hold the bytes of records; return of how many."""
        try:
            payloads = self._encoder(records)
        except Exception as error:  # noqa: BLE001 - a record that cannot be encoded must not take the others along
            if len(records) > 1:
                return sum([self._encode([record]) for record in records])
            self._log.error("a record could not be encoded", action="log_encoding_failed", exc_info=error)
            self._drop(records[0], "encoding")
            return 0
        lengths = [len(payload) for payload in payloads]
        if lengths and max(lengths) > MAX_PAYLOAD:
            for record, length in zip(records, lengths, strict=True):
                if length > MAX_PAYLOAD:
                    self._drop(record, "too large")
            payloads = [payload for payload in payloads if len(payload) <= MAX_PAYLOAD]
            lengths = [len(payload) for payload in payloads]
        self._held.extend(payloads)
        self._holding += sum(lengths)
        return len(payloads)

    def _drop(self, record: Any, reason: str) -> None:
        self._dropped[getattr(record, "model", ""), reason] += 1
        self._shed_since = self._shed_since or time()

    def _hold(self, payload: bytes) -> None:
        self._held.append(payload)
        self._holding += len(payload)

    def _begin(self) -> bool:
        """Find out how the run before ended, and say so first; whether the folder could be read."""
        mark = MarkRecord(time(), self.replica, "open")
        try:
            end = self._files.find_end()
        except OSError as error:
            self._refused(error)
            return False
        if end is not None and not end[1]:
            mark.clean, mark.last, mark.lost = False, end[0], self._flush_seconds
            self.unclean = mark
            self._log.warning(
                f"the run before did not close its log: up to {self._flush_seconds:g} s of records may be lost",
                action="log_unclean",
                replica=self.replica,
            )
        payload = encode(mark)
        self._held.appendleft(payload)
        self._holding += len(payload)
        return True

    def _write(self, due: bool) -> None:
        """Write what is held, and sync it if that is due."""
        try:
            self._write_held()
            # Only now: the disk takes it again, so what it cost can be told for good.
            self._tell()
            self._write_held()
            if due:
                self._sync()
        except OSError as error:
            self._refused(error)
            return
        if self.error and due:
            self._log.info("the log is being written again", action="log_recovered", replica=self.replica)
            self.error = ""
        if due:
            promises, self._promises = self._promises, []
            for promise in promises:
                promise.set_result(None)

    def _untold(self) -> bool:
        return self._turned_away.total() + self._dropped.total() > self._told.total()

    def _tell(self) -> None:
        if not self._untold():
            return
        since, self._shed_since = self._shed_since, 0.0
        for key, count in self.shed.items():
            missing = count - self._told[key]
            if missing:
                self._told[key] = count
                self._hold(encode(ShedRecord(time(), key[0], missing, key[1], since)))

    def _write_held(self) -> None:
        while self._held:
            if self._files.due:
                self._sync()
                self._files.leave()
            some: list[bytes] = []
            size = 0
            for payload in self._held:
                some.append(payload)
                size += len(payload)
                if size >= _WRITE:
                    break
            whole, refusal = self._files.write(some)
            # Also after a disk that took only a part: frames that are in it whole are written.
            self._unsynced += [self._held.popleft() for _ in range(whole)]
            if refusal is not None:
                # Nothing follows in this file, so this is its first sync since: what it says is true.
                with suppress(OSError):
                    self._sync()
                raise refusal

    def _sync(self) -> None:
        self._files.sync()
        unsynced, self._unsynced = self._unsynced, []
        size = sum([len(payload) for payload in unsynced])
        self._holding -= size
        self.written += len(unsynced)
        self.written_bytes += size
        self._oldest = monotonic() if self._items or self._held else 0.0

    def _refused(self, error: OSError) -> None:
        """Leave this file for good, and keep what it was not proved to hold for the next."""
        self.errors += 1
        if not self.error:
            self._log.error(
                f"the log cannot be written, records are held and then shed: {error.strerror}",
                action="log_refused",
                replica=self.replica,
            )
        self.error = f"disk: {error.strerror}"
        # What no sync has proved to be there is written again, to the next file.
        self._held.extendleft(reversed(self._unsynced))
        self._unsynced = []
        self._files.leave()
        self._break_promises()

    def _break_promises(self) -> None:
        promises, self._promises = self._promises, []
        for promise in promises:
            promise.set_exception(NotReady(f"the log cannot be written ({self.error or 'it is closing'}): try again"))

    def _give_up(self) -> None:
        """The end: count what could not be written."""
        self._files.leave()
        if self._held:
            self._log.error(
                f"{len(self._held)} records were lost at the end: {self.error}",
                action="log_lost",
                replica=self.replica,
            )
            self._dropped["", self.error] += len(self._held)
        self._break_promises()

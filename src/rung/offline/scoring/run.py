"""A run: read, answer and write at the same time, in order, each block of rows committed when it is on the disk."""

import hashlib
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, date, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rung.domain.datasets import Quarantined
from rung.domain.errors import Cancelled, ConfigurationError, Conflict, InvalidData, StorageFull
from rung.offline.scoring.answering import Answered, Answerer, opened, version_of
from rung.offline.scoring.journal import Commit, Head, Journal
from rung.offline.scoring.order import Order, Scored
from rung.offline.scoring.places import Place, open_sink, place_of
from rung.offline.scoring.reading import ROW, Block, Reader
from rung.offline.scoring.results import CONTENT, PREFIX
from rung.offline.scoring.sinks import Sink, draft_of, replace, synced
from rung.ports import BlobStore
from rung.serving.lanes import cores
from rung.store.folders import sync_folder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Progress", "score"]

Progress = Callable[[int, int | None], None]
"""Called with rows of the source that are done, and how many there are about, where that is known."""

_CHUNK, _PICTURES = 50_000, 64
_FIRST = 4096
"""Rows of the first block, by which the model is measured."""
_COMMIT_SECONDS = 2.0
"""What a block takes, about: as much work is lost at most a few times over when a run is killed."""
_TASK = 2048
"""Rows that a thread takes at once, where calls are smaller."""
_AHEAD = 2
"""Blocks that are in work while another is written."""
_SHOWN = 3
_ALL_REFUSED = 1000


def score(
    order: Order,
    folder: Path,
    repository: BlobStore,
    store: str = "",
    *,
    progress: Progress = lambda _done, _of: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Scored:
    """Score a data set; memory holds a few blocks of it.

    Args:
        order: what, and where to.
        folder: that relative paths begin at.
        repository: where the model lies.
        store: URL of the project's database, for `scores:`.
        progress: told after each commit.
        should_stop: asked after each commit.

    Raises:
        NotFound: there is no such model or version.
        Conflict: a run that was cut off is there and `resume` is not set, or it was of another order, or is at work.
        InvalidData: the source cannot be read, lacks a column, or the first 1,000 rows were all refused.
        ConfigurationError: source, place or condition make no sense.
        StorageFull: no room for the result; resume when there is.
        Cancelled: `should_stop` said so; resume to go on.
    """
    started = time.monotonic()
    if order.as_of and not _is_day(order.as_of):
        raise ConfigurationError(f"{order.as_of!r:.40} is no day: write it as 2026-01-31")
    place = place_of(order, folder)
    place.work.parent.mkdir(parents=True, exist_ok=True)
    with Journal(place.work) as journal:
        if not journal.last.rows:
            # It came to nothing: whatever kept it from beginning may have been mended since.
            journal.forget()
        before = journal.head
        if before is not None and not order.resume:
            raise Conflict(
                f"a run into {order.out} was cut off after {journal.last.read:,} rows: go on with --resume, or delete "
                f"{place.work} to begin anew"
            )
        version = version_of(repository, order.model, before.version if before else order.version)
        cache = folder / ".rung" / "cache"
        with opened(repository, order.model, version, cache, order.threads or cores()) as answerer:
            run = _Run(order, folder, place, journal, answerer, progress, should_stop)
            return run.all(store, started)


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


class _Run:
    def __init__(
        self,
        order: Order,
        folder: Path,
        place: Place,
        journal: Journal,
        answerer: Answerer,
        progress: Progress,
        should_stop: Callable[[], bool],
    ) -> None:
        self._order, self._place, self._journal, self._answerer = order, place, journal, answerer
        self._progress, self._should_stop = progress, should_stop
        self._folder = folder
        pictures = answerer.wanted.kind == "image"
        self._most = order.chunk or (_PICTURES if pictures else _CHUNK)
        self._reader = Reader(order, folder, answerer.wanted, min(self._most, _FIRST), answerer.name)
        self._sink: Sink | None = None
        self._reasons: list[str] = []
        self._expected: int | None = None

    def all(self, store: str, started: float) -> Scored:
        resumed = self._settle()
        as_of = self._head.as_of if self._head else self._order.as_of or datetime.now(UTC).date().isoformat()
        self._sink = open_sink(self._order, self._place, self._answerer, as_of, self._folder, store)
        try:
            if not self._journal.last.whole:
                self._work(as_of)
            self._sink.finish()
        finally:
            self._sink.close()
        return self._finish(as_of, resumed, started)

    @property
    def _head(self) -> Head | None:
        return self._journal.head

    def _settle(self) -> int:
        """Whether to go on with what is there; returns the rows that are done already."""
        head = self._head
        if head is None:
            return 0
        if not self._reader.resumable:
            # Nobody knows whether it would give the same rows again in the same order.
            self._journal.forget()
            return 0
        changed = [
            name
            for name, was, now in (
                ("what is asked for", head.order, self._identity()),
                ("the version's bytes", head.digest, self._answerer.digest),
                ("the source's files", head.source, self._reader.fingerprint),
            )
            if was != now
        ]
        if changed:
            raise Conflict(
                f"the run into {self._order.out} cannot go on: {' and '.join(changed)} changed since it began. Delete "
                f"{self._place.work} to begin anew"
            )
        return self._journal.last.read

    def _identity(self) -> str:
        same = msgspec.structs.replace(self._order, resume=False, version=None, as_of="", threads=0, chunk=0)
        return hashlib.sha256(msgspec.json.encode(same)).hexdigest()

    def _work(self, as_of: str) -> None:
        blocks = self._reader.blocks(self._journal.last)
        # One thread from the first row to the last: a connection to SQLite belongs to its thread.
        with ThreadPoolExecutor(1, "read") as reads:
            try:
                self._begin(reads, blocks, as_of)
            finally:
                reads.submit(blocks.close)
        last = self._journal.last
        if not last.read and not last.damaged:
            raise InvalidData(f"there is no row in {self._order.source}")
        self._journal.commit(msgspec.structs.replace(last, whole=True))

    def _begin(self, reads: ThreadPoolExecutor, blocks: Generator[Block, None, None], as_of: str) -> None:
        assert self._sink is not None
        # Up to the first rows that are to be answered: by them the model is measured.
        leading: list[Block] = []
        while self._head is None and not (leading and leading[-1].frame.height):
            block = reads.submit(next, blocks, None).result()
            if block is None:
                break
            leading.append(block)
        head = self._head or self._measured(leading[-1] if leading else None, as_of)
        self._answerer.batch, self._reader.chunk = head.batch, head.chunk
        if self._head is None:
            self._place.manifest.unlink(missing_ok=True)
        self._sink.begin(self._journal.last.mark)
        self._cut_refusals()
        self._journal.begin(head)
        self._expected = self._reader.expected()
        self._flow(reads, chain(leading, blocks))

    def _measured(self, first: Block | None, as_of: str) -> Head:
        batch, rate = 1, 0.0
        if first is not None and first.frame.height:
            batch, rate = self._answerer.measure(first.frame, self._reader.columns)
        soon = int(rate * self._answerer.lanes * _COMMIT_SECONDS) if rate else self._most
        chunk = max(batch, min(self._most, soon))
        manifest, digest = self._answerer.manifest, self._answerer.digest
        chunk = min(chunk, self._order.chunk) if self._order.chunk else chunk
        return Head(
            self._identity(), digest, self._reader.fingerprint, manifest.version, as_of, min(batch, chunk), chunk
        )

    def _flow(self, reads: ThreadPoolExecutor, blocks: Iterator[Block]) -> None:
        """Read the next block, answer two and write one, all at the same time."""
        lanes = self._answerer.lanes
        waiting: deque[tuple[Block, list[Future[Answered]]]] = deque()
        writing: Future[None] | None = None
        with ThreadPoolExecutor(1, "write") as writes:
            # One more than run at once: it prepares rows while the others compute.
            answers = ThreadPoolExecutor(lanes + 1, "answer")
            try:
                reading = reads.submit(next, blocks, None)
                more = True
                while more or waiting:
                    if more:
                        block = reading.result()
                        more = block is not None
                        if block is not None:
                            reading = reads.submit(next, blocks, None)
                            waiting.append((block, self._begun(answers, block)))
                    if waiting and (not more or len(waiting) > _AHEAD):
                        block, futures = waiting.popleft()
                        done = [one.result() for one in futures]
                        if writing is not None:
                            writing.result()
                            self._pause()
                        writing = writes.submit(self._write, block, done)
                if writing is not None:
                    writing.result()
            finally:
                answers.shutdown(cancel_futures=True)

    def _begun(self, pool: ThreadPoolExecutor, block: Block) -> list[Future[Answered]]:
        batch = self._answerer.batch
        size = batch if self._answerer.wanted.kind == "image" else max(batch, _TASK // batch * batch)
        columns = self._reader.columns
        return [
            pool.submit(self._answerer.answer, block.frame[start : start + size], columns)
            for start in range(0, block.frame.height, size)
        ]

    def _pause(self) -> None:
        if self._should_stop():
            raise Cancelled("the run was told to stop: go on with --resume")

    def _write(self, block: Block, done: Sequence[Answered]) -> None:
        """Make a block durable, then let it count."""
        assert self._sink is not None
        last = self._journal.last
        rows = self._result(block, done)
        refused = block.refused + [block.refusal(row, reason) for one in done for row, reason in one.refused]
        mark = self._sink.write(last.number + 1, rows) if rows.height else last.mark
        length = self._refuse(refused, last.refusals)
        since = (0, 0) if block.cursor else (last.since + block.read, last.damaged_since + block.damaged)
        commit = Commit(
            number=last.number + 1 if rows.height else last.number,
            read=last.read + block.read,
            damaged=last.damaged + block.damaged,
            rows=last.rows + rows.height,
            refused=last.refused + len(refused),
            left_out=last.left_out + block.left_out,
            cursor=block.cursor or last.cursor,
            since=since[0],
            damaged_since=since[1],
            mark=mark,
            refusals=length,
        )
        if not commit.rows and commit.refused >= _ALL_REFUSED:
            raise InvalidData(
                f"the first {commit.refused:,} rows were all refused; the first because {self._reasons[0]}"
            )
        self._journal.commit(commit)
        self._progress(commit.read + commit.damaged, self._expected)

    def _result(self, block: Block, done: Sequence[Answered]) -> "pl.DataFrame":
        import polars as pl

        parts = [pl.DataFrame([one.rows, *one.columns]) for one in done if one.rows.len()]
        if not parts:
            return pl.DataFrame()
        answers = pl.concat(parts, how="vertical_relaxed")
        source = block.frame
        if answers.height != source.height:
            source = source.filter(source[ROW].is_in(answers[ROW].implode()))
        order = self._order
        kept = order.keep
        if kept is None:
            kept = () if order.key else tuple(one.name for one in source if one.dtype != pl.Binary and one.name != ROW)
        names = list(dict.fromkeys([ROW, *order.key, *order.group, *kept]))
        made = [column for column in answers if column.name != ROW]
        if any(column.name == CONTENT for column in made) and "path" in source.columns and "path" not in names:
            names.append("path")
        taken = set(names)
        renamed = [one.alias(PREFIX + one.name) if one.name in taken else one for one in made]
        return pl.DataFrame([*(source[name] for name in names), *renamed])

    def _refuse(self, refused: Sequence[Quarantined], length: int) -> int:
        """Append refused rows to their file; returns its length."""
        if not refused:
            return length
        self._reasons += [f"row {one.row}: {one.reason}" for one in refused[: _SHOWN - len(self._reasons)]]
        try:
            with (self._place.work / "refused").open("ab") as file:
                file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in refused))
                file.flush()
                os.fsync(file.fileno())
                return file.tell()
        except OSError as error:
            raise StorageFull(f"refused rows cannot be written: {error.strerror}; go on with --resume") from None

    def _cut_refusals(self) -> None:
        path = self._place.work / "refused"
        if path.exists() or self._journal.last.refusals:
            with path.open("ab") as file:
                file.truncate(self._journal.last.refusals)

    def _finish(self, as_of: str, resumed: int, started: float) -> Scored:
        last, manifest = self._journal.last, self._answerer.manifest
        assert self._head is not None
        refused = self._place.work / "refused"
        if refused.exists() and last.refusals:
            replace(refused, self._place.refused)
        elif not last.refusals:
            self._place.refused.unlink(missing_ok=True)
        if last.cursor:
            self._reader.keep(last.cursor)
        scored = Scored(
            model=manifest.name,
            version=manifest.version,
            digest=self._answerer.digest,
            source=self._order.source,
            out=self._order.out,
            as_of=as_of,
            read=last.read + last.damaged,
            rows=last.rows,
            refused=last.refused,
            left_out=last.left_out,
            batch=self._head.batch,
            seconds=time.monotonic() - started,
            resumed=resumed,
            refusals=tuple(self._reasons),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        draft = draft_of(self._place.manifest)
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(scored), indent=2) + b"\n")
        synced(draft)
        replace(draft, self._place.manifest)
        self._clear()
        return scored

    def _clear(self) -> None:
        """Forget the journal: first of all that is left, so that what remains after a kill means nothing."""
        work = self._place.work
        (work / "journal").unlink(missing_ok=True)
        sync_folder(work)
        if work == self._place.manifest.parent:
            for path in work.iterdir():
                if path not in (self._place.manifest, self._place.refused, work / "lock"):
                    path.unlink()
            return
        shutil.rmtree(work)

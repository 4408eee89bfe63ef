"""A map-reduce as jobs of a job table: a job a chunk, a barrier, a job a part, and one that shows the result.

    map 0 ─┐             ┌─ reduce 0 ─┐
    map 1 ─┼─> shuffled ─┼─ reduce 1 ─┼─> finish
    map 2 ─┘             └─ reduce 2 ─┘

Any worker may do any of them. `run` has a table of its own beside the result and processes of its own; processes that
are killed are started again, and what they held is done by others when its lease runs out.
"""

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from rung.data.sources.records import piece_of
from rung.data.spool import Spool
from rung.domain.errors import ConfigurationError, Conflict, InvalidData, OperatorError, WorkerDied
from rung.domain.jobs import Handler, Job, NewJob
from rung.jobs.context import JobContext
from rung.jobs.queue import JobStore
from rung.offline.mapreduce import steps
from rung.offline.mapreduce.plan import Chunk, Plan, chunks_of, fingerprint, functions
from rung.offline.scoring.journal import Journal
from rung.offline.scoring.sinks import Appended, Parts, Sink, appended, replace, synced
from rung.offline.scoring.tables import open_table
from rung.processes import Child
from rung.store.database import open_database

__all__ = ["HANDLERS", "Outcome", "do", "run", "submit"]

HANDLERS: dict[str, Handler] = {
    f"mapreduce.{step}": Handler("rung.offline.mapreduce.run:do") for step in ("map", "shuffled", "reduce", "finish")
}
"""Kinds of jobs, for the table of a worker."""
_ROWS = 20_000
_TRIES = 5
_LOOK = 0.1
"""Seconds between two looks at how far it is."""
_RESTARTS = 50
"""Processes that may die before it is given up."""


class _Sheet(msgspec.Struct, frozen=True):
    """What every job of a map-reduce reads first."""

    plan: Plan
    chunks: list[Chunk]
    fingerprint: str
    name: str
    """Another one for each map-reduce, even of the same plan."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a map-reduce did."""

    out: str
    chunks: int
    read: int
    """Rows that were mapped."""
    refused: int
    """Rows that could not be read, or that `map` did not take."""
    pairs: int
    """Pairs that travelled, after combining."""
    keys: int
    rows: int
    """Of the result."""
    seconds: float = 0.0


def submit(store: JobStore, plan: Plan, work: Path) -> int:
    """Put the jobs of a map-reduce into a table; returns the id of the last, whose result is an `Outcome`.

    Submitted again with the same work folder they are the same jobs.

    Raises:
        ConfigurationError: the source or the functions are not there.
        Conflict: the folder is another map-reduce's, or what it works on changed since.
    """
    sheet = _sheet(plan, work)
    owner = f"mapreduce:{sheet.name}"

    def job(step: str, number: int = 0, after: Sequence[int] = ()) -> NewJob:
        arguments = {"work": str(work.resolve()), "step": step, "number": number}
        return NewJob(
            kind=f"mapreduce.{step}",
            arguments=arguments,
            owner=owner,
            idempotency_key=f"{step}:{number}",
            after=tuple(after),
            max_attempts=_TRIES,
            backoff=0.2,
        )

    maps = store.submit_many([job("map", number) for number in range(len(sheet.chunks))])
    [barrier] = store.submit_many([job("shuffled", after=maps)])
    reduces = store.submit_many([job("reduce", part, (barrier,)) for part in range(plan.parts)])
    return store.submit(job("finish", after=(barrier, *reduces)))


def _sheet(plan: Plan, work: Path) -> _Sheet:
    chunks = chunks_of(plan)
    functions(plan.module, Path(plan.folder))
    sheet = _Sheet(plan, chunks, fingerprint(plan, chunks), secrets.token_hex(8))
    work.mkdir(parents=True, exist_ok=True)
    path = work / "plan.json"
    if path.exists():
        there = msgspec.json.decode(path.read_bytes(), type=_Sheet)
        if there.fingerprint != sheet.fingerprint:
            raise Conflict(
                f"{work} is of another map-reduce, or its files or functions changed: delete it to begin anew"
            )
        return there
    draft = work / ".plan.json"
    draft.write_bytes(msgspec.json.encode(sheet))
    synced(draft)
    replace(draft, path)
    return sheet


def do(context: JobContext) -> Any:
    """Do one job of a map-reduce: `{"work": FOLDER, "step": STEP, "number": NUMBER}`."""
    arguments = context.arguments
    work, number = Path(arguments["work"]), int(arguments["number"])
    sheet = msgspec.json.decode((work / "plan.json").read_bytes(), type=_Sheet)
    plan, token = sheet.plan, str(context.job.token)
    folder = Path(plan.folder)
    if arguments["step"] == "shuffled":
        found = list(context.parents().values())
        return {name: sum(one[name] for one in found) for name in ("rows", "pairs", "refused")}
    if arguments["step"] == "finish":
        return _finish(sheet, work, context)
    calls = functions(plan.module, folder)
    if arguments["step"] == "map":
        made: Any = steps.map_chunk(sheet.chunks[number], number, calls, work, folder, plan.parts, token)
    else:
        made = steps.reduce_part(number, len(sheet.chunks), calls, work, token)
    return msgspec.to_builtins(made)


def _finish(sheet: _Sheet, work: Path, context: JobContext) -> Any:
    parents = list(context.parents().values())
    mapped = next(one for one in parents if "pairs" in one)
    reduced = [one for one in parents if "keys" in one]
    plan = sheet.plan
    sink = _sink(plan, work)
    try:
        sink.begin(None)
        with Spool(plan.module, known={}) as spool:
            for rows in _blocks(plan, work):
                spool.add(piece_of(rows, range(1, len(rows) + 1), plan.module))
            for number, frame in enumerate(spool.frames(), 1):
                sink.write(number, frame)
        sink.finish()
    finally:
        sink.close()
    outcome = Outcome(
        out=plan.out,
        chunks=len(sheet.chunks),
        read=mapped["rows"],
        refused=mapped["refused"],
        pairs=mapped["pairs"],
        keys=sum(one["keys"] for one in reduced),
        rows=sum(one["rows"] for one in reduced),
    )
    return msgspec.to_builtins(outcome)


def _blocks(plan: Plan, work: Path) -> Iterator[list[dict[str, Any]]]:
    for part in range(plan.parts):
        rows = steps.rows_of(part, work)
        while block := list(islice(rows, _ROWS)):
            yield block


def _sink(plan: Plan, work: Path) -> Sink:
    folder = Path(plan.folder)
    if plan.out.startswith(("sqlite:", "postgresql:")):
        return open_table(plan.out, {}, plan.key, folder)
    target = folder / plan.out
    encode = appended(target.suffix.lower())
    if encode is not None:
        return Appended(target, work, encode)
    return Parts(target, work, one_file=True)


def run(
    plan: Plan,
    *,
    processes: int = 1,
    resume: bool = False,
    progress: Callable[[int, int], None] = lambda _done, _of: None,
) -> Outcome:
    """Do a map-reduce with processes of this machine.

    Args:
        plan: what.
        processes: how many; the result is the same for any number.
        resume: go on with one that was cut off.
        progress: told how many jobs are done, of how many.

    Raises:
        ConfigurationError: source, functions or place make no sense.
        Conflict: one that was cut off is there and `resume` is not set, or it was another.
        InvalidData: rows cannot be read, or a function failed.
        WorkerDied: its processes die again and again.
    """
    began = time.monotonic()
    work = _work_of(plan)
    with Journal(work):
        if (work / "plan.json").exists() and not resume:
            raise Conflict(f"a map-reduce into {plan.out} was cut off: go on with --resume, or delete {work}")
        with open_database(f"sqlite:{work / 'jobs.db'}") as database:
            store = JobStore(database)
            last = submit(store, plan, work)
            for job in store.find(state="dead", limit=1000):
                store.retry(job.id)
            found = _supervise(store, last, work, Path(plan.folder), processes, progress)
        shutil.rmtree(work)
    outcome = msgspec.convert(found.result, Outcome)
    return msgspec.structs.replace(outcome, seconds=time.monotonic() - began)


def _work_of(plan: Plan) -> Path:
    folder = Path(plan.folder)
    if plan.out.startswith(("sqlite:", "postgresql:")):
        if not plan.key:
            raise ConfigurationError("a table as the result needs --key: by which columns its rows are found")
        return folder / ".rung" / "mapreduce" / plan.module
    target = folder / plan.out
    if target.is_dir() or not (appended(target.suffix.lower()) or target.suffix.lower() == ".parquet"):
        raise ConfigurationError(f"{plan.out} is no .csv, .tsv, .jsonl or .parquet file, and no table of a database")
    return target.with_name(f".{target.name}.mapreduce")


def _supervise(
    store: JobStore, last: int, work: Path, folder: Path, processes: int, progress: Callable[[int, int], None]
) -> Job:
    """Keep so many processes at work until the last job has ended."""
    children: list[Child] = []
    died = 0
    total = sum(sum(states.values()) for states in store.counts().values())
    try:
        while True:
            job = store.get(last)
            if job.state == "done":
                return job
            if job.state in ("dead", "cancelled"):
                raise _failure(store, job)
            progress(sum(states.get("done", 0) for states in store.counts().values()), total)
            gone = [child for child in children if _ended(child)]
            died += len(gone)
            if died > _RESTARTS:
                raise WorkerDied(f"{died} processes of the map-reduce died: {gone[-1].tail.strip()[-400:]}")
            for child in gone:
                child.kill()
                children.remove(child)
                _hand_on(store, child)
            while len(children) < processes:
                child = Child("rung.offline.mapreduce.child", [str(work.resolve()), str(folder.resolve())])
                child.spawn()
                children.append(child)
            time.sleep(_LOOK)
    finally:
        for child in children:
            child.kill()


def _ended(child: Child) -> bool:
    return os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None


def _hand_on(store: JobStore, child: Child) -> None:
    """Let others have what a process held that died: its lease need not run out first."""
    for job in store.find(state="leased", limit=1000):
        if job.worker == str(child.pid):
            with suppress(Conflict):
                store.fail(job, "its process was ended")


def _failure(store: JobStore, job: Job) -> OperatorError:
    dead = store.find(state="dead", limit=1)
    if not dead:
        return InvalidData(f"the map-reduce was cancelled: {job.error}")
    one = dead[0]
    return InvalidData(f"{one.arguments['step']} {one.arguments['number']} failed {one.attempts} times: {one.error}")

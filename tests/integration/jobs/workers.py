"""Worker processes to be killed: `python workers.py URL LEASE_SECONDS`.

Imports once and forks a worker for each line that it reads, so that a test can afford many. The line names the point
at which the worker is to kill itself, or `never`. Prints the process id of each.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import alembic.runtime.environment  # noqa: F401 - imported before the first fork
from pysqlite3 import dbapi2  # noqa: F401
from sqlalchemy import Connection, text
from sqlalchemy.dialects.postgresql import psycopg  # noqa: F401

from rung.domain.jobs import Handler
from rung.jobs.context import JobContext
from rung.jobs.queue import JobStore
from rung.jobs.worker import Worker, WorkerOptions
from rung.store.database import open_database
from rung.telemetry import configure_logs

POINT = "never"


def die(point: str) -> None:
    if point == POINT:
        os.kill(os.getpid(), signal.SIGKILL)


def insert(context: JobContext) -> int:
    """Write one row, in the transaction that ends the job."""
    die("in the handler")
    job = context.job

    def effect(connection: Connection) -> None:
        row = {"job": job.id, "token": job.token, "key": job.key}
        connection.execute(text("INSERT INTO effects (job, token, key) VALUES (:job, :token, :key)"), row)
        die("in the effect")

    context.effect(effect)
    if seconds := context.arguments.get("seconds"):
        time.sleep(seconds)
    return job.token


def wait_once(context: JobContext) -> int:
    """The first time, wait for a file."""
    while context.job.token == 1 and not Path(context.arguments["file"]).exists():
        time.sleep(0.01)
    return insert(context)


class DyingStore(JobStore):
    def claim(self, *arguments, **more):
        jobs = super().claim(*arguments, **more)
        if jobs:
            die("after the claim")
        return jobs

    def complete_many(self, completions):
        die("before the acknowledgement")
        problems = super().complete_many(completions)
        die("after the acknowledgement")
        return problems


HANDLERS = {
    "insert": Handler("workers:insert"),
    "wait_once": Handler("workers:wait_once"),
    "crash": Handler("workers:insert"),
}


async def work(url: str, lease: float) -> None:
    with open_database(url) as database:
        options = WorkerOptions(concurrency=2, batch=50, lease_seconds=lease, poll_seconds=0.05)
        worker = Worker(DyingStore(database), HANDLERS, options)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()


def main() -> None:
    global POINT
    configure_logs("json")  # to stderr: stdout is for process ids
    sys.modules["workers"] = sys.modules["__main__"]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    url, lease = sys.argv[1], float(sys.argv[2])
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            POINT = line.strip()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            asyncio.run(work(url, lease))
            os._exit(0)
        print(pid, flush=True)


if __name__ == "__main__":
    main()

"""A process that does jobs of one map-reduce, until its parent ends it."""

import asyncio
import os
import sys
from pathlib import Path

from rung.processes import attach

__all__ = ["main"]


def main() -> None:
    """Work on the table in the folder that the first argument names, in the folder that the second does."""
    channel = attach()

    from rung.jobs.queue import JobStore
    from rung.jobs.worker import Worker, WorkerOptions
    from rung.offline.mapreduce.run import HANDLERS
    from rung.store.database import open_database
    from rung.telemetry import configure_logs

    work, folder = Path(sys.argv[1]), Path(sys.argv[2])
    os.chdir(folder)
    configure_logs("json", "warning")
    # The parent hands on what a process held that died; the lease is for one that hangs, or died with the parent.
    options = WorkerOptions(concurrency=1, lease_seconds=5.0, poll_seconds=0.05)
    with open_database(f"sqlite:{work / 'jobs.db'}") as database:
        channel.send("ready")
        asyncio.run(Worker(JobStore(database), HANDLERS, options, name=str(os.getpid())).run())


if __name__ == "__main__":
    main()

"""A worker of a project: does the jobs of the table, by the handlers that `handlers` names, and asks for items."""

import asyncio
import signal
from collections.abc import Callable

from rung.app.asking import dispatcher
from rung.app.handlers import HANDLERS
from rung.fleet.roles import Ready, Setup
from rung.jobs.queue import JobStore
from rung.jobs.worker import Worker, WorkerOptions
from rung.store.database import open_database

__all__ = ["run"]


def run(setup: Setup, announce: Callable[[Ready], None]) -> None:
    """Work until SIGTERM or SIGINT. `announce` is called once, when jobs are looked for.

    Raises:
        ConfigurationError: the database cannot be had.
        NotReady: it is locked or out of reach.
    """
    settings = setup.settings.workers
    options = WorkerOptions(
        concurrency=settings.jobs, poll_seconds=settings.poll_seconds, drain_seconds=settings.drain_seconds
    )
    with open_database(setup.settings.project.store) as database:
        worker = Worker(JobStore(database), HANDLERS, options)
        asking = dispatcher(setup, database)

        def stop() -> None:
            worker.stop()
            asking.stop()

        async def work() -> None:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop)
            announce(Ready())
            await asyncio.gather(worker.run(), asking.run())

        asyncio.run(work())

"""Requests that are answered later, put together from settings: their queue, and what a worker does with it."""

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

from rung.fleet.roles import Setup
from rung.fleet.state import read_state
from rung.jobs.brokers import QueuePlace, open_queue
from rung.offline.dispatch import Dispatcher, DispatchOptions
from rung.offline.door import Door
from rung.ports import Queue
from rung.settings import ProjectSettings
from rung.store.database import Database

__all__ = ["dispatcher", "queue_of"]

_FRESH = 0.5
"""Seconds for which the addresses of replicas count."""


def queue_of(settings: ProjectSettings, database: Database) -> Callable[[], Queue]:
    """What opens the queue of a project's requests when it is first asked, and gives the same one from then on.

    A server that is away when the project starts must keep neither the control plane nor a worker from starting.
    """
    name = re.sub("[^a-z0-9]+", "-", settings.project.name.lower()).strip("-")[:50]
    place = QueuePlace(settings.project.queue, f"{name or 'rung'}-inference", settings.offline.lease_seconds)
    found: list[Queue] = []
    lock = Lock()

    def opened() -> Queue:
        with lock:
            if not found:
                found.append(open_queue(place, database))
            return found[0]

    return opened


def dispatcher(setup: Setup, database: Database) -> Dispatcher:
    """What asks for the items of this project."""
    offline, workers = setup.settings.offline, setup.settings.workers
    options = DispatchOptions(
        in_flight=offline.in_flight,
        answer_seconds=offline.answer_seconds,
        lease_seconds=offline.lease_seconds,
        poll_seconds=workers.poll_seconds,
        drain_seconds=workers.drain_seconds,
        key=offline.key or setup.key,
    )
    return Dispatcher(queue_of(setup.settings, database), database, Door(_addresses(offline.url)), options)


def _addresses(url: str) -> Callable[[], Sequence[str]]:
    if url:
        return lambda: [url]
    looked = 0.0
    found: list[str] = []

    def look() -> Sequence[str]:
        nonlocal looked, found
        if time.monotonic() - looked >= _FRESH:
            looked, found = time.monotonic(), _replicas()
        return found

    return look


def _replicas() -> list[str]:
    """Where the replicas of the project in this folder answer, each alone; without any, the front, which wakes one."""
    state = read_state(Path())
    if state is None:
        return []
    ready = [role.url for role in state.roles if role.role == "replica" and role.state == "ready" and role.url]
    front = any(role.role == "front" and role.state == "ready" for role in state.roles)
    return ready or ([state.url] if front and state.url.startswith("http://") else [])

"""The control API on a port that the kernel chose, over a repository on disk and a job table in SQLite."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from rung.api.application import create
from rung.api.server import listen, serve
from rung.api.services import Services
from rung.catalog import models as catalog
from rung.fleet import report
from rung.fleet.loop import PartHealth
from rung.fleet.policy import read_policy
from rung.fleet.state import UpState
from rung.fleet.status import observe
from rung.jobs.brokers import QueuePlace, open_queue
from rung.jobs.queue import JobStore
from rung.loop import requests
from rung.loop.retrainer import Retrainer
from rung.offline.requests import Requests
from rung.offline.scoring.scores import ScoreStore
from rung.settings.project import ModelSettings
from rung.store.access import KeyStore
from rung.store.audit import AuditLog
from rung.store.blobs import DiskStore
from rung.store.database import open_database
from rung.testing.models import tiny

Open = Callable[..., httpx2.Client]


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """A model with three versions, no job yet, and one kind of job that may be submitted."""
    repository = DiskStore(tmp_path / "repository")
    data = DiskStore(tmp_path / "data")
    artifact = tiny(tmp_path / "tiny.onnx")
    for _ in range(3):
        catalog.register(repository, artifact, name="tiny")
    with open_database(f"sqlite:///{tmp_path}/rung.db") as database:
        jobs = JobStore(database)
        queue = open_queue(QueuePlace("sql", "test"), database)
        yield Services(
            repository=repository,
            jobs=jobs,
            kinds=frozenset({"echo"}),
            status=lambda: observe(tmp_path, "p", repository, jobs.counts),
            parts=lambda: [PartHealth(name="schedules", turns=1)],
            experiment=lambda model: report.as_json(
                report.observe(repository, tmp_path / "log", model, read_policy({}))
            ),
            retrainer=Retrainer(jobs, repository, data, {"tiny": ModelSettings(train="model:train")}),
            retrainings=lambda model: requests.retrainings(data, model),
            keys=KeyStore(DiskStore(tmp_path / "access")),
            audit=AuditLog(tmp_path / "audit"),
            order=lambda _order: None,
            state=lambda: UpState(project="p", pid=0, started=0, since=0.0, replicas=1, why="as the rules say"),
            requests=Requests(database, lambda: queue),
            scores=ScoreStore(database),
        )


@pytest.fixture
def open_api() -> Iterator[Open]:
    """`open_api(services) -> Client`: serve it for the test."""
    stops: list[Callable[[], None]] = []

    def start(services: Services) -> httpx2.Client:
        listener = listen("127.0.0.1", 0, shared=False)
        ready, port = threading.Event(), listener.getsockname()[1]
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()

        def run() -> None:
            loop.run_until_complete(serve(create(services), listener, 4, stop, ready.set))
            loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

        thread = threading.Thread(target=run)
        thread.start()
        assert ready.wait(20)
        client = httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)

        def end() -> None:
            client.close()
            loop.call_soon_threadsafe(stop.set)
            thread.join(20)
            assert not thread.is_alive()

        stops.append(end)
        return client

    yield start
    for stop in stops:
        stop()


@pytest.fixture
def api(open_api: Open, services: Services) -> httpx2.Client:
    """A client of the API."""
    return open_api(services)

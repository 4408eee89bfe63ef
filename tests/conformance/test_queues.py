"""Every queue passes the suite of the port; those of brokers on real servers."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from rung.jobs.brokers import QueuePlace, open_queue
from rung.jobs.brokers.redis import RedisQueue
from rung.jobs.brokers.sql import SqlQueue
from rung.ports import Queue
from rung.store.database import Database, open_database
from rung.testing.brokers import BrokerServer, serve_broker
from rung.testing.postgres import PostgresServer, postgres_server, serve_postgres
from rung.testing.queue_faults import FaultScene, QueueFaultsConformance
from rung.testing.queue_scenes import QueueScene, with_results
from rung.testing.queues import QueueConformance

_numbers = count(1)


def attentive(queue: Queue) -> Queue:
    """One that looks for leases that ran out more often than once a second."""
    if isinstance(queue, SqlQueue):
        queue._store.look_seconds = 0.1
    if isinstance(queue, RedisQueue):
        queue._look_seconds = 0.1
    return queue


def scene_on(url: str, database: Database) -> QueueScene:
    return QueueScene(
        with_results(database),
        lambda name, seconds: attentive(open_queue(QueuePlace(url, name, seconds), database)),
        f"q{next(_numbers)}",
    )


class TestSqlite(QueueConformance):
    @pytest.fixture
    def scene(self, tmp_path: Path) -> Iterator[QueueScene]:
        with open_database(f"sqlite:{tmp_path}/rung.db") as database:
            yield scene_on("sql", database)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Database]:
    with serve_postgres() as url, open_database(url) as database:
        yield with_results(database)


def emptied(connection: Connection) -> None:
    for table in ("rung_jobs", "results"):
        connection.execute(text(f"DELETE FROM {table}"))
    connection.execute(text("UPDATE rung_job_clock SET seen = 0"))


class TestPostgres(QueueConformance):
    @pytest.fixture
    def scene(self, postgres: Database) -> QueueScene:
        postgres.write(emptied)
        return scene_on("sql", postgres)


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerServer]:
    with serve_broker("nats", tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerServer]:
    with serve_broker("valkey", tmp_path_factory.mktemp("valkey")) as server:
        yield server


class TestNats(QueueConformance):
    @pytest.fixture
    def scene(self, nats: BrokerServer, tmp_path: Path) -> Iterator[QueueScene]:
        with open_database(f"sqlite:{tmp_path}/rung.db") as database:
            yield scene_on(nats.url, database)


class TestValkey(QueueConformance):
    @pytest.fixture
    def scene(self, valkey: BrokerServer, tmp_path: Path) -> Iterator[QueueScene]:
        with open_database(f"sqlite:{tmp_path}/rung.db") as database:
            yield scene_on(valkey.url, database)


class TestNatsFaults(QueueFaultsConformance):
    @pytest.fixture
    def faults(self, tmp_path: Path) -> Iterator[FaultScene]:
        with (
            serve_broker("nats", tmp_path / "server") as server,
            open_database(f"sqlite:{tmp_path}/rung.db") as database,
        ):
            yield FaultScene(scene_on(server.url, database), server.kill, server.start)


class TestValkeyFaults(QueueFaultsConformance):
    @pytest.fixture
    def faults(self, tmp_path: Path) -> Iterator[FaultScene]:
        with (
            serve_broker("valkey", tmp_path / "server") as server,
            open_database(f"sqlite:{tmp_path}/rung.db") as database,
        ):
            yield FaultScene(scene_on(server.url, database), server.kill, server.start)


@pytest.fixture(scope="module")
def killable() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


class TestPostgresFaults(QueueFaultsConformance):
    @pytest.fixture
    def faults(self, killable: PostgresServer) -> Iterator[FaultScene]:
        with open_database(killable.url, busy_seconds=2.0) as database:
            scene = scene_on("sql", database)
            database.write(emptied)
            yield FaultScene(scene, killable.end, killable.start)

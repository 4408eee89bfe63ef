"""Every queue passes the suite of the port; those of brokers on real servers."""

from collections.abc import Iterator
from itertools import count, cycle
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from rung.domain.errors import NotReady
from rung.domain.messages import Message, Outcome
from rung.jobs.brokers import QueuePlace, open_queue
from rung.jobs.brokers.redis import RedisQueue
from rung.jobs.brokers.sql import SqlQueue
from rung.ports import Queue
from rung.store.database import Database, open_database
from rung.testing.brokers import BrokerServer, serve_broker, serve_cluster
from rung.testing.postgres import PostgresServer, postgres_server, serve_postgres
from rung.testing.queue_faults import FaultScene, QueueFaultsConformance
from rung.testing.queue_scenes import QueueScene, until, with_results
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


@pytest.mark.nightly
class TestNatsClusterFaults(QueueFaultsConformance):
    """Three servers that hold a stream together; those that are killed take turns."""

    @pytest.fixture
    def servers(self, tmp_path: Path) -> Iterator[list[BrokerServer]]:
        with serve_cluster(tmp_path / "servers", 3) as servers:
            yield servers

    @pytest.fixture
    def faults(self, servers: list[BrokerServer], tmp_path: Path) -> Iterator[FaultScene]:
        url = ",".join(server.url for server in servers) + "?replicas=3"
        turns = cycle(servers)

        def kill() -> None:
            next(turns).kill()

        with open_database(f"sqlite:{tmp_path}/rung.db") as database:
            scene = scene_on(url, database)
            until(lambda: opens(scene), "a leader")
            yield FaultScene(
                scene,
                kill,
                lambda: [server.start() for server in servers if not server.running],
            )

    def test_says_so_at_once_and_goes_on_afterwards(  # type: ignore[override]
        self, faults: FaultScene, servers: list[BrokerServer]
    ) -> None:
        """One that is away is not noticed for long; without a majority nothing is accepted."""
        with faults.scene.open(5.0) as queue:
            assert queue.means.ack == "replicated"
            queue.put([Message(id=name) for name in "abc"])
            servers[0].kill()
            until(lambda: accepted(queue, "d"), "the other two")
            servers[1].kill()
            assert not accepted(queue, "e")
            faults.start()
            until(lambda: accepted(queue, "e"), "the majority")
            found: set[str] = set()
            until(lambda: found.update(taken(queue)) or found >= set("abcde"), "every message")


def opens(scene: QueueScene) -> bool:
    try:
        with scene.open(5.0):
            return True
    except NotReady:
        return False


def accepted(queue: Queue, name: str) -> bool:
    try:
        queue.put([Message(id=name)])
    except NotReady:
        return False
    return True


def taken(queue: Queue) -> set[str]:
    try:
        return queue.settle([Outcome(lease) for lease in queue.take(10)])
    except NotReady:
        return set()


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

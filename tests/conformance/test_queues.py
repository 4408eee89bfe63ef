"""Every queue passes the suite of the port; those of brokers on real servers."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from rung.jobs.brokers import QueuePlace, open_queue
from rung.store.database import Database, open_database
from rung.testing.postgres import serve_postgres
from rung.testing.queues import QueueConformance, QueueScene, with_results

_numbers = count(1)


def scene_on(url: str, database: Database) -> QueueScene:
    return QueueScene(
        with_results(database),
        lambda name, seconds: open_queue(QueuePlace(url, name, seconds), database),
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

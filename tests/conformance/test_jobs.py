"""The job table on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from rung.store.database import Database, open_database
from rung.testing.job_chains import JobChainConformance
from rung.testing.jobs import JobStoreConformance
from rung.testing.postgres import serve_postgres


def emptied(connection: Connection) -> None:
    for table in ("rung_jobs", "rung_job_links", "rung_schedules", "effects"):
        connection.execute(text(f"DELETE FROM {table}"))
    connection.execute(text("UPDATE rung_job_clock SET seen = 0"))


def with_effects(database: Database) -> Database:
    table = text("CREATE TABLE IF NOT EXISTS effects (job BIGINT PRIMARY KEY, what TEXT)")
    database.write(lambda connection: connection.execute(table))
    return database


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Database]:
    with open_database(f"sqlite:{tmp_path}/rung.db") as database:
        yield with_effects(database)


@pytest.fixture(scope="module")
def server() -> Iterator[Database]:
    with serve_postgres() as url, open_database(url) as database:
        yield with_effects(database)


@pytest.fixture
def postgres(server: Database) -> Database:
    server.write(emptied)
    return server


class TestSqlite(JobStoreConformance):
    @pytest.fixture
    def database(self, sqlite: Database) -> Database:
        return sqlite


class TestSqliteChains(JobChainConformance):
    @pytest.fixture
    def database(self, sqlite: Database) -> Database:
        return sqlite


class TestPostgres(JobStoreConformance):
    @pytest.fixture
    def database(self, postgres: Database) -> Database:
        return postgres


class TestPostgresChains(JobChainConformance):
    @pytest.fixture
    def database(self, postgres: Database) -> Database:
        return postgres

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest
from sqlalchemy import Connection, text

import rung.store.database as module
from rung.domain.errors import ConfigurationError, MissingDependency, NotReady, StorageFull
from rung.jobs.tables import CLOCK, JOBS, LINKS, SCHEDULES
from rung.store.database import Database, open_database
from rung.store.migrations.run import HEAD


def url(tmp_path: Path) -> str:
    return f"sqlite:{tmp_path}/new/rung.db"


def pragma(database: Database, name: str) -> object:
    return database.read(lambda connection: connection.execute(text(f"PRAGMA {name}")).scalar())


def test_every_connection_is_durable_and_checks_references(tmp_path: Path) -> None:
    with open_database(url(tmp_path)) as database:
        assert (pragma(database, "journal_mode"), pragma(database, "synchronous")) == ("wal", 2)
        assert pragma(database, "foreign_keys") == 1
        assert database.dialect == "sqlite"


@pytest.mark.parametrize("form", ["sqlite:{}", "sqlite:///{}"])
def test_urls_name_relative_and_absolute_files(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("some/rung.db", f"{tmp_path}/other/rung.db"):
        open_database(form.format(path)).close()
        assert Path(path).is_file()


@pytest.mark.parametrize("bad", ["", "x.db", "sqlite:", "sqlite:///", "sqlite::memory:", "mysql://h/d", "sqlite:x?y=1"])
def test_other_urls_are_refused(bad: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="sqlite:PATH"):
        open_database(bad)
    assert list(tmp_path.iterdir()) == []


def test_asking_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no database"):
        open_database(url(tmp_path), create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("loaded", "way"), [(False, "pip install --upgrade pysqlite3"), (True, "import pysqlite3 before tensorflow")]
)
def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loaded: bool, way: str) -> None:
    monkeypatch.setattr(module, "_OLDEST_SQLITE", (99, 0, 0))
    # Another test of this process may have imported the real one.
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    if loaded:
        monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))
    with pytest.raises(ConfigurationError, match=rf"99\.0\.0.*{way}"):
        open_database(url(tmp_path))


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pysqlite3", None)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingDependency, match=r"rung\[platform\]"):
        open_database(url(tmp_path))
    with pytest.raises(MissingDependency, match=r"rung\[postgres\]"):
        open_database("postgresql://nobody@127.0.0.1/x")


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotReady, match=r"postgresql://me:\*\*\*@127\.0\.0\.1:1/x cannot be reached"):
        open_database("postgresql://me:secret@127.0.0.1:1/x")


def test_no_file_is_made_where_none_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        open_database(f"sqlite:{tmp_path}/file/rung.db")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "rung.db").write_bytes(b"not a database, certainly" * 100)
    with pytest.raises(ConfigurationError, match="damaged or no SQLite database"):
        open_database(f"sqlite:{tmp_path}/rung.db")


def test_a_write_that_raises_leaves_nothing(tmp_path: Path) -> None:
    def work(connection: Connection) -> None:
        connection.execute(text("INSERT INTO rung_schedules VALUES ('x', 1.0)"))
        raise ValueError

    with open_database(url(tmp_path)) as database:
        with pytest.raises(ValueError):
            database.write(work)
        assert (
            database.read(lambda connection: connection.execute(text("SELECT count(*) FROM rung_schedules")).scalar())
            == 0
        )


def test_a_lock_of_another_process_is_said_to_be_one(tmp_path: Path) -> None:
    with open_database(url(tmp_path)) as holder, open_database(url(tmp_path), busy_seconds=0.2) as database:

        def work(connection: Connection) -> None:
            with pytest.raises(NotReady, match=r"stayed locked by another process for 0\.2 seconds"):
                database.write(lambda _: None)
            # Readers are not kept waiting.
            assert database.read(lambda other: other.execute(text("SELECT 1")).scalar()) == 1

        holder.write(work)


def test_threads_of_one_process_take_turns(tmp_path: Path) -> None:
    with open_database(url(tmp_path)) as database:
        database.write(lambda connection: connection.execute(text("INSERT INTO rung_schedules VALUES ('x', 0)")))

        def count() -> None:
            for _ in range(20):
                database.write(lambda connection: connection.execute(text("UPDATE rung_schedules SET tick = tick + 1")))

        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (
            database.read(lambda connection: connection.execute(text("SELECT tick FROM rung_schedules")).scalar())
            == 160
        )


def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path: Path) -> None:
    """By SQLite's own limit on pages, which fails as a full disk does."""
    with open_database(url(tmp_path)) as database:
        pages = int(str(pragma(database, "page_count")))

        def fill(connection: Connection) -> None:
            connection.execute(text(f"PRAGMA max_page_count = {pages + 20}"))
            for number in range(1000):
                connection.execute(text("INSERT INTO rung_schedules VALUES (:name, 1.0)"), {"name": f"{number}" * 500})

        with pytest.raises(StorageFull, match="nothing was written"):
            database.write(fill)
        assert (
            database.read(lambda connection: connection.execute(text("SELECT count(*) FROM rung_schedules")).scalar())
            == 0
        )
        assert pragma(database, "integrity_check") == "ok"


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounts a small file system")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    from rung.domain.jobs import NewJob
    from rung.jobs.queue import JobStore

    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "rung", tmp_path], check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        with open_database(f"sqlite:{tmp_path}/rung.db") as database:
            store = JobStore(database)
            accepted = []
            with pytest.raises(StorageFull):
                for _ in range(1000):
                    accepted += store.submit_many([NewJob(kind="a", arguments="x" * 10_000)] * 10)
            assert 0 < len(accepted) < 10_000
            assert store.counts() == {"a": {"ready": len(accepted)}}
            assert pragma(database, "integrity_check") == "ok"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_tables_of_a_newer_release_are_left_alone(tmp_path: Path) -> None:
    with open_database(url(tmp_path)) as database:
        database.write(lambda connection: connection.execute(text("UPDATE rung_version SET version_num = '9999'")))
    before = (tmp_path / "new" / "rung.db").read_bytes()
    with pytest.raises(ConfigurationError, match=r"newer rung.*9999.*pip install --upgrade rung"):
        open_database(url(tmp_path))
    assert (tmp_path / "new" / "rung.db").read_bytes() == before


def test_the_head_is_the_last_step() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(module.__file__).with_name("migrations")))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_statements_and_migrations_agree_on_columns(tmp_path: Path) -> None:
    with open_database(url(tmp_path)) as database:
        for table in (JOBS, LINKS, CLOCK, SCHEDULES):
            rows = database.read(
                lambda connection, name=table.name: connection.execute(text(f"PRAGMA table_info({name})")).all()
            )
            assert [row.name for row in rows] == [column.name for column in table.c]


_OPEN = """
import sys
from rung.store import database
import alembic.runtime.environment, alembic.script, alembic.config
from sqlalchemy import event
die_at = int(sys.argv[2])
if die_at:
    import os, signal
    from sqlalchemy.engine import Engine
    seen = 0
    @event.listens_for(Engine, "before_cursor_execute")
    def count(*_):
        global seen
        seen += 1
        if seen == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
print("ready", flush=True)
sys.stdin.readline()
database.open_database(sys.argv[1]).close()
"""


def opener(target: str, die_at: int = 0) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _OPEN, target, str(die_at)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_processes_that_open_at_once_do_not_clash(tmp_path: Path) -> None:
    processes = [opener(url(tmp_path)) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, errors
    with open_database(url(tmp_path)) as database:
        assert (
            database.read(lambda connection: connection.execute(text("SELECT count(*) FROM rung_version")).scalar())
            == 1
        )


def test_an_interrupted_migration_runs_again(tmp_path: Path) -> None:
    """Killed before a statement early and one late."""
    for die_at in (6, 18):
        process = opener(url(tmp_path), die_at)
        process.communicate("go\n")
        assert process.returncode == -signal.SIGKILL
        with open_database(url(tmp_path)) as database:
            assert pragma(database, "integrity_check") == "ok"
            tables = database.read(
                lambda connection: connection.execute(
                    text("SELECT count(*) FROM sqlite_master WHERE type = 'table'")
                ).scalar()
            )
            assert tables == 13
        shutil.rmtree(tmp_path / "new")


def test_a_database_of_the_first_release_gets_all_tables_since(tmp_path: Path) -> None:
    with open_database(url(tmp_path)) as database:

        def back(connection: Connection) -> None:
            alerts = ("rung_alerts", "rung_silences", "rung_errors")
            offline = ("rung_requests", "rung_request_items", "rung_scores", "rung_score_groups")
            for table in alerts + offline:
                connection.execute(text(f"DROP TABLE {table}"))
            connection.execute(text("UPDATE rung_version SET version_num = '0001'"))

        database.write(back)
    with open_database(url(tmp_path)) as database:
        for table in ("rung_alerts", "rung_requests", "rung_scores"):
            query = text(f"SELECT count(*) FROM {table}")
            assert database.read(lambda one, query=query: one.execute(query).scalar()) == 0
        assert database.read(lambda one: one.execute(text("SELECT version_num FROM rung_version")).scalar()) == "0004"


@pytest.mark.nightly
def test_a_migration_killed_at_each_statement_runs_again(tmp_path: Path) -> None:
    die_at, died = 1, True
    while died:
        process = opener(url(tmp_path), die_at)
        process.communicate("go\n")
        died = process.returncode == -signal.SIGKILL
        with open_database(url(tmp_path)) as database:
            assert pragma(database, "integrity_check") == "ok"
        shutil.rmtree(tmp_path / "new")
        die_at += 1
    assert die_at > 15

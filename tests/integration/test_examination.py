"""What the doctor measures of real databases, disks and certificates."""

import shutil
import time
from pathlib import Path

import msgspec
import pytest

from rung.domain.jobs import NewJob
from rung.fleet import examination
from rung.fleet.doctor import findings
from rung.jobs.queue import JobStore
from rung.settings import ProjectSettings, ServeSettings
from rung.settings.project import ControlSettings, ProjectSection
from rung.store.access import KeyStore
from rung.store.blobs import DiskStore
from rung.store.database import open_database
from rung.testing.postgres import serve_postgres

CERTIFICATES = Path(__file__).parents[1] / "certificates"


def project(store: str) -> ProjectSettings:
    return ProjectSettings(project=ProjectSection(store=store))


def submit(store: str) -> None:
    with open_database(store) as database:
        jobs = JobStore(database)
        jobs.submit_many([NewJob(kind="echo"), NewJob(kind="echo"), NewJob(kind="echo", run_at=time.time() + 900)])


def test_jobs_that_wait_are_counted_with_their_age(tmp_path):
    store = f"sqlite:///{tmp_path}/rung.db"
    assert examination._database(project(store)) == {}
    submit(store)

    found = examination._database(project(store))
    assert (found["database"], found["queued"], found["dead"]) == ("sqlite", 2, 0)
    assert 0 <= found["queue_age"] < 60
    assert found["writes"] == pytest.approx(3 / 300)
    (tmp_path / "rung.db").write_bytes(b"no database" * 100)
    assert "damaged" in examination._database(project(store))["database_problem"]


def test_a_postgresql_that_may_lose_what_it_acknowledged_is_told():
    import psycopg

    with serve_postgres() as url:
        submit(url)
        found = examination._database(project(url))
        assert (found["database"], found["queued"]) == ("postgresql", 2)
        before = set(found["lazy"])
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_commit = off")
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute("SHOW synchronous_commit").fetchone() != ("off",):
                pass
        lazy = set(examination._database(project(url))["lazy"])
    assert lazy - before == {"PostgreSQL has synchronous_commit = off"}


def test_this_machine_is_measured(tmp_path):
    figures = examination.examine(tmp_path, ProjectSettings(), 0.05, start=False)

    assert figures.disk.free <= figures.disk.size
    assert figures.disk.sync > 0
    assert figures.disk.rate > 0
    assert figures.writes_limit > 0
    assert 0 <= figures.memory_free <= 1
    assert figures.cores >= 1
    assert list(tmp_path.iterdir()) == []
    assert findings(figures)[-1].what == "rung"


def test_doors_are_judged_by_their_settings(tmp_path):
    shutil.copy(CERTIFICATES / "second.pem", tmp_path / "tls.pem")
    serve = ServeSettings(host="0.0.0.0", key_store=str(tmp_path / "access"), tls_certificate=str(tmp_path / "tls.pem"))
    settings = ProjectSettings(
        project=ProjectSection(repository="s3://bucket/models"), serve=serve, control=ControlSettings(host="127.0.0.1")
    )

    found = examination._doors(settings)
    assert [(port.public, port.asks, port.encrypted) for port in found["ports"]] == [
        (True, False, True),
        (False, False, True),
    ]
    assert "of this machine alone" in found["shared_apart"]
    assert found["certificate_days"] > 365
    KeyStore(DiskStore(tmp_path / "access")).create("web", at=time.time(), by="test")
    assert examination._doors(settings)["ports"][0].asks
    broken = msgspec.structs.replace(settings, serve=msgspec.structs.replace(serve, tls_certificate="nothing.pem"))
    assert "cannot be read" in examination._doors(broken)["certificate_problem"]


def test_a_database_in_memory_is_told(monkeypatch, tmp_path):
    real = Path.read_text
    text = f"/dev/sda / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n"
    monkeypatch.setattr(Path, "read_text", lambda path, *a: text if str(path) == "/proc/mounts" else real(path, *a))

    assert examination._lazy_file(tmp_path / "rung.db") == (f"the database lies in memory (tmpfs at {tmp_path})",)
    assert examination._lazy_file(Path("/var/rung.db")) == ()

"""What a machine does to a project that is up: the disk fills, the database is held, a job hangs, tables are newer."""

import os
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

import httpx2
import orjson
import pysqlite3 as sqlite3
import pytest

from .projects import PATIENCE, load

VERIFY = {"kind": "models.verify", "arguments": {"model": "tiny"}}
ALERTS = """
[[alerts.rule]]
name = "disk"
for_seconds = 0
"""


def enqueue(project) -> httpx2.Response:
    return httpx2.post(f"{project.control}/jobs", json=VERIFY, timeout=PATIENCE)


def ask_later(project) -> httpx2.Response:
    return httpx2.post(
        f"{project.control}/models/tiny/jobs", json={"items": [{"rows": [[0.0] * 16]}]}, timeout=PATIENCE
    )


@pytest.fixture
def small_disk(project):
    """The project's `.rung` on a file system of 48 mebibytes, which only root may mount."""
    folder = project.folder / ".rung"
    (folder / "repository").rename(project.folder / "aside")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    subprocess.run(["mv", project.folder / "aside", folder / "repository"], check=True)
    yield folder
    if project.process is not None:
        project.end()
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    with (folder / "filler").open("wb") as file, suppress(OSError):
        while True:
            os.write(file.fileno(), bytes(4096))
    return folder / "filler"


def test_on_a_full_disk_answers_go_on_enqueueing_is_refused_and_an_alert_tells(project, small_disk):
    with (project.folder / "rung.toml").open("a") as file:
        file.write(ALERTS)
    project.up()
    assert enqueue(project).status_code == 200

    with load(project.url) as outcomes:
        filler = fill(small_disk)
        project.until(lambda: enqueue(project).status_code == 507)
        refused = enqueue(project)
        assert "Free some space" in refused.json()["error"]
        assert ask_later(project).status_code == 507
        asked = len(outcomes)
        project.until(lambda: len(outcomes) > asked + 100)
        filler.unlink()
        project.until(lambda: enqueue(project).status_code == 200)
        assert ask_later(project).status_code == 202
    assert set(outcomes) == {200}

    def disk() -> list[str]:
        there = orjson.loads(project.rung("alerts", "list", "--json").stdout)["alerts"]
        return [alert["status"] for alert in there if alert["rule"] == "disk"]

    # A full disk keeps no alert either: it is told as soon as there is room for it, or held nearly full from here on.
    nearly = small_disk / "nearly"
    with nearly.open("wb") as file:
        room = os.statvfs(small_disk)
        file.write(bytes(int(room.f_bavail * room.f_frsize - 0.04 * room.f_blocks * room.f_frsize)))
    project.until(lambda: "firing" in disk())
    nearly.unlink()
    project.until(lambda: disk() and "firing" not in disk())


def test_a_database_that_is_held_keeps_jobs_waiting_and_no_answer(project):
    project.up()
    with closing(sqlite3.connect(project.folder / ".rung" / "rung.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with load(project.url) as outcomes:
            began = time.monotonic()
            refused = enqueue(project)
            waited = time.monotonic() - began
            assert refused.status_code == 503
            assert "locked by another process" in refused.json()["error"]
        other.execute("ROLLBACK")
    assert set(outcomes) == {200}
    assert waited < PATIENCE / 2
    project.until(lambda: enqueue(project).status_code == 200)
    project.until(lambda: project.ps()["problems"] == [])


def test_tables_of_a_newer_rung_are_named_and_left_alone(project):
    project.up("--workers", 0)
    project.end()
    with closing(sqlite3.connect(project.folder / ".rung" / "rung.db")) as other:
        other.execute("UPDATE rung_version SET version_num = '9999'")
        other.commit()

    done = project.rung("up", check=False, RUNG_PORT="0", RUNG_CONTROL_PORT="0")

    assert done.returncode == 2
    assert "newer rung" in done.stderr
    assert "Traceback" not in done.stderr


TRAIN = """
[models.slow]
task = "classification"
train = "slow:train"
data = { source = "slow:rows", label = "y", features = ["a"] }
"""
SLOW = """
import threading


def rows():
    for number in range(40):
        yield {"a": float(number), "y": "yes" if number % 2 else "no"}


def train(ctx):
    threading.Event().wait()
"""


def test_a_job_that_hangs_is_ended_at_its_time_and_others_are_done(project):
    with (project.folder / "rung.toml").open("a") as file:
        file.write(TRAIN)
    (project.folder / "slow.py").write_text(SLOW)
    project.up("--workers", 1)
    hung = {"kind": "models.train", "arguments": {"model": "slow"}, "timeout": 6.0, "max_attempts": 1}
    job = httpx2.post(f"{project.control}/jobs", json=hung, timeout=PATIENCE).json()["id"]

    def state(number: int) -> str:
        return httpx2.get(f"{project.control}/jobs/{number}", timeout=PATIENCE).json()["state"]

    other = enqueue(project).json()["id"]
    project.until(lambda: state(other) == "done")
    project.until(lambda: state(job) == "dead")
    ended = httpx2.get(f"{project.control}/jobs/{job}", timeout=PATIENCE).json()
    assert "longer than 6 seconds" in ended["error"]
    project.until(lambda: not [one for one in project.family() if "slow" in " ".join(one.cmdline())])

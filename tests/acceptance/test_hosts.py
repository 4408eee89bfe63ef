"""Several machines behind one front. Network namespaces stand in for them, so that one can be cut off."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import orjson
import pytest

from rung.fleet.front.haproxy import Runtime
from rung.testing.models import tiny

from .projects import PATIENCE, load

NEAR, FAR = 1, 2
_LISTENS = "--port", "8000", "--json"


def ip(*words: object) -> None:
    subprocess.run(["ip", *map(str, words)], check=True, capture_output=True)


def may_make_namespaces() -> bool:
    """Whether this user may, and the system has what it takes."""
    name = f"rung-{os.getpid()}-probe"
    try:
        ip("netns", "add", name)
    except (OSError, subprocess.CalledProcessError):
        return False
    ip("netns", "delete", name)
    return True


class Host:
    """A machine with one replica, reached at 10.213.N.2 by a cable of its own."""

    def __init__(self, number: int, folder: Path, stack: ExitStack) -> None:
        self.name, self.cable, self.address = (
            f"rung-{os.getpid()}-{number}",
            f"rg{os.getpid()}-{number}",
            f"10.213.{number}.2",
        )
        ip("netns", "add", self.name)
        stack.callback(ip, "netns", "delete", self.name)
        ip("link", "add", self.cable, "type", "veth", "peer", "name", "far", "netns", self.name)
        ip("addr", "add", f"10.213.{number}.1/24", "dev", self.cable)
        ip("link", "set", self.cable, "up")
        for words in (("addr", "add", f"{self.address}/24", "dev", "far"), ("link", "set", "far", "up")):
            ip("-n", self.name, *words)
        command = ["ip", "netns", "exec", self.name, sys.executable, "-m", "rung", "serve", "tiny.onnx"]
        self.process = subprocess.Popen(
            [*command, "--host", self.address, *_LISTENS], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        stack.callback(self._end)
        assert self.process.stdout.readline()

    def plug(self, state: str) -> None:
        """`down` cuts it off: what is sent there is lost, and nothing says so."""
        ip("-n", self.name, "link", "set", "far", state)

    def _end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)
        self.process.stdout.close()


@pytest.fixture
def hosts(tmp_path) -> Iterator[list[Host]]:
    if not may_make_namespaces():
        pytest.skip("this user may not make network namespaces")
    tiny(tmp_path / "tiny.onnx")
    with ExitStack() as stack:
        yield [Host(number, tmp_path, stack) for number in (NEAR, FAR)]


@pytest.mark.nightly
def test_the_nearest_answers_and_the_next_when_it_is_cut_off(hosts, tmp_path, monkeypatch):
    near = hosts[0]
    listed = ", ".join(f'"{host.address}:8000"' for host in hosts)
    (tmp_path / "rung.toml").write_text(f"[front]\nhosts = [{listed}]\n")
    front = subprocess.Popen(
        [sys.executable, "-m", "rung", "up", "--role", "front", "--port", "0", "--json"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
    )
    monkeypatch.chdir(tmp_path)

    def asked() -> dict[str, int]:
        return {share.name: share.requests for share in Runtime().shares()}

    try:
        url = orjson.loads(front.stdout.readline())["url"]
        assert httpx2.get(f"{url}/readyz", timeout=PATIENCE).status_code == 200
        with load(url) as first, load(url) as second:
            until(lambda: len(first) > 100)
            assert asked()["host-2"] == 0, "the nearest answers all"
            near.plug("down")
            until(lambda: asked()["host-2"] > 100)
            near.plug("up")
            before = asked()["host-1"]
            until(lambda: asked()["host-1"] > before + 100)
        print(f"{len(first) + len(second)} requests, {asked()}")
        assert {*first, *second} == {200}, "none was lost"
    finally:
        front.send_signal(signal.SIGTERM)
        assert front.wait(PATIENCE) == 0
        front.stdout.close()


def until(true) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)

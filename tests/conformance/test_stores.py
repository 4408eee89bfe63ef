"""Every blob store passes the suite of the port, and publishing keeps its promises on it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from rung.catalog.bundles import fetch, scan
from rung.ports import BlobStore
from rung.store.blobs import open_store
from rung.testing.stores import BlobStoreConformance, serve_s3


class TestDisk(BlobStoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> BlobStore:
        return open_store(f"file://{tmp_path}/some/store")


class TestMemory(BlobStoreConformance):
    @pytest.fixture
    def store(self) -> BlobStore:
        return open_store("memory:")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with serve_s3(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


class TestS3(BlobStoreConformance):
    @pytest.fixture
    def store(self, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> BlobStore:
        for name, value in s3.items():
            monkeypatch.setenv(name, value)
        return open_store(f"s3://rung/{uuid4().hex}")


_PUBLISHER = """
import sys
from rung.catalog.bundles import publish
from rung.domain.models import Manifest
from rung.domain.tensors import Signature
from rung.store.blobs import open_store

store = open_store(sys.argv[1])
draft = Manifest(name="raced", version=0, runtime="onnx", signature=Signature((), ()), artifact="model.onnx")
files = {"model.onnx": b"m" * 2_000_000, "golden.npz": b"g" * 100_000}
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[2])):
    print(publish(store, draft, files).version, flush=True)
"""


def publisher(url: str, count: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _PUBLISHER, url, str(count)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture(params=["disk", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "disk":
        return f"file://{tmp_path}/repository"
    for name, value in request.getfixturevalue("s3").items():
        monkeypatch.setenv(name, value)
    return f"s3://rung/{uuid4().hex}"


def test_processes_publishing_one_name_get_distinct_versions(url: str) -> None:
    processes = [publisher(url, 4) for _ in range(4)]
    for process in processes:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
    versions = [int(line) for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(versions) == len(set(versions)) == 16
    visible = [folder.version for folder in scan(open_store(url)).values() if folder.manifest]
    assert visible == sorted(versions)


def test_a_killed_publisher_leaves_no_half_version(url: str, tmp_path: Path) -> None:
    store = open_store(url)
    random = Random(7)
    for _ in range(6):
        process = publisher(url, 1000)
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(random.uniform(0.005, 0.15))
        process.kill()
        process.communicate()
    folders = scan(store).values()
    assert not any(folder.foreign for folder in folders)
    for folder in folders:
        if folder.manifest:
            assert set(fetch(store, "raced", folder.version, tmp_path).manifest.files) == {"model.onnx", "golden.npz"}
    process = publisher(url, 1)
    assert int(process.communicate("go\n")[0]) == max(folder.version for folder in folders) + 1

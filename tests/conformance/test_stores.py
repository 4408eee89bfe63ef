"""Every blob store passes the suite of the port."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

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
        return open_store(f"s3://rung-tests/{uuid4().hex}")

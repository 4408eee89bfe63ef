import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rung.domain.errors import ConfigurationError, InvalidInput, NotReady
from rung.store.blobs import DiskStore, check_key, open_store


@pytest.mark.parametrize("url", ["{}", "file://{}", "file://localhost{}"])
def test_folders_are_stores(tmp_path: Path, url: str) -> None:
    store = open_store(url.format(tmp_path / "with space"))
    store.put("a", b"x")
    assert (tmp_path / "with space" / "a").read_bytes() == b"x"


def test_file_urls_are_decoded(tmp_path: Path) -> None:
    open_store(f"file://{tmp_path}/with%20space").put("a", b"x")
    assert (tmp_path / "with space" / "a").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "empty"),
        ("gs://bucket", "unknown scheme"),
        ("http://host/x", "unknown scheme"),
        ("file://host/x", "no local folder"),
        ("file:x", "no local folder"),
        ("s3:///prefix", "s3://bucket/prefix"),
        ("s3://key:secret@bucket/x", "AWS_"),
        ("s3://bucket?secret_access_key=hunter2", "AWS_"),
        ("s3://bucket/x?endpoint=http://10.0.0.1:9000", "plain HTTP on another machine"),
    ],
)
def test_urls_that_cannot_be_opened_are_explained(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store(url)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_prefixes_with_tricks_are_refused() -> None:
    with pytest.raises(InvalidInput):
        open_store("s3://bucket/a/../b")


def test_a_bucket_that_does_not_answer_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    store = open_store("s3://bucket/x?endpoint=http://127.0.0.1:1&region=us-east-1")
    with pytest.raises(NotReady, match="cannot be used"):
        store.get("a")


def test_disk_files_follow_the_umask_and_leave_no_temporaries(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        DiskStore(tmp_path).put("a/b", b"x", create=True)
        DiskStore(tmp_path).put("a/b", b"y")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o640
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b"]


def test_a_put_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DiskStore(tmp_path).put("a/b", tmp_path / "absent")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


def test_local_is_the_file_itself(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    store.put("a/b", b"x")
    assert store.local("a/b", tmp_path / "cache") == tmp_path / "a/b"
    assert not (tmp_path / "cache").exists()


def test_what_a_killed_writer_leaves_is_not_listed(tmp_path: Path) -> None:
    code = """
import itertools, sys
from pathlib import Path
from rung.store.blobs import DiskStore
store = DiskStore(Path(sys.argv[1]))
for number in itertools.count():
    store.put(f"k{number % 7}", bytes([number % 251]) * 500_000)
    print(number, flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    for _ in range(10):
        writer.stdout.readline()
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    store = DiskStore(tmp_path)
    for blob in store.list():
        data = store.get(blob.key)
        assert blob.key.startswith("k")
        assert data == data[:1] * 500_000


def test_a_disk_needs_no_obstore(tmp_path: Path) -> None:
    code = (
        "import sys; from rung.store.blobs import open_store; open_store(sys.argv[1]).put('a', b'x'); "
        "sys.exit('obstore' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


@pytest.mark.parametrize("key", ["a", "a/b.c", "nuclei/1/.reserved", "a b", "ü/模型", "a%2e", "x" * 255])
def test_plain_keys_pass(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize("key", ["..", "a/..", "\u202ea", "a\ud800", "ü" * 128, "a/.rung-tmp-1"])
def test_other_keys_do_not(key: str) -> None:
    with pytest.raises(InvalidInput):
        check_key(key)

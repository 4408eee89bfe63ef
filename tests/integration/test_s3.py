"""The registry and a replica's source on a real S3 server, with real ONNX models."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import numpy as np
import pytest

from rung.catalog import ledger, models, releases
from rung.catalog.source import open_source
from rung.domain import moves
from rung.domain.errors import BundleError, ConfigurationError, Conflict, NotFound
from rung.domain.releases import Move, Release
from rung.ports import BlobStore, LoadOptions
from rung.runtimes.onnx import OnnxRuntime
from rung.store.blobs import open_store
from rung.testing.models import add_sub, nan_maker, tiny
from rung.testing.stores import serve_s3


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with serve_s3(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def url(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return f"s3://rung/{uuid4().hex}"


@pytest.fixture
def store(url: str) -> BlobStore:
    return open_store(url)


def test_a_model_goes_from_file_to_bucket_to_answers(url: str, store: BlobStore, tmp_path: Path) -> None:
    artifact = tiny(tmp_path / "tiny.onnx")
    manifest = models.register(store, artifact, name="tiny", task="classification", labels=("a", "b", "c"))
    assert (manifest.version, manifest.runtime) == (1, "onnx")
    assert models.verify(store, "tiny").examples == 2

    cache = tmp_path / "cache"
    source = open_source(url, None, cache)
    [version] = source.poll()
    fetched = source.fetch(version)
    assert fetched.manifest == manifest
    example = {"x": np.ones((2, 16), np.float32)}
    model = OnnxRuntime().load(fetched.artifact, LoadOptions())
    direct = OnnxRuntime().load(artifact, LoadOptions())
    assert np.array_equal(model.predict(example)["y"], direct.predict(example)["y"])
    model.close()
    direct.close()

    assert models.register(store, artifact, name="tiny").version == 2
    assert [aspired.version for aspired in source.poll()] == [1, 2]
    models.delete(store, "tiny", 1)
    assert [aspired.version for aspired in source.poll()] == [2]
    assert [(entry.name, entry.version) for entry in models.list_models(store)] == [("tiny", 2)]


def test_a_damaged_copy_is_fetched_again_and_a_damaged_original_refused(
    url: str, store: BlobStore, tmp_path: Path
) -> None:
    models.register(store, tiny(tmp_path / "tiny.onnx"), name="tiny")
    source = open_source(url, None, tmp_path / "cache")
    [version] = source.poll()
    copy = Path(source.fetch(version).artifact)
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1])
    assert Path(source.fetch(version).artifact).read_bytes() == whole
    store.put("tiny/1/tiny.onnx", whole[:-1] + b"?")
    with pytest.raises(BundleError, match=r"tiny/1/tiny\.onnx is corrupt"):
        open_source(url, None, tmp_path / "other cache").fetch(version)
    assert "corrupt" in models.verify(store, "tiny").problem


def test_a_triton_repository_in_a_bucket_is_served(url: str, store: BlobStore, tmp_path: Path) -> None:
    store.put("adder/config.pbtxt", b'platform: "onnxruntime_onnx"')
    store.put("adder/2/model.onnx", add_sub(tmp_path / "model.onnx"))
    source = open_source(url, None, tmp_path / "cache")
    source.poll()
    [version] = source.poll()
    fetched = source.fetch(version)
    assert fetched.inferred
    model = OnnxRuntime().load(fetched.artifact, LoadOptions())
    assert len(model.signature.outputs) == 2
    model.close()


def test_a_model_that_makes_nan_is_not_registered(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="NaN or Infinity"):
        models.register(store, nan_maker(tmp_path / "nan.onnx"), name="nan")
    assert list(store.list()) == []


def test_what_is_wrong_with_a_bucket_is_said(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match="there is no model in s3://rung/"):
        open_source(url, None, tmp_path)
    with pytest.raises(NotFound, match="no model tiny"):
        models.show(open_store(url), "tiny")
    with pytest.raises(ConfigurationError, match=r"bucket of s3://rung-none/x.* does not exist"):
        list(open_store("s3://rung-none/x").list())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ConfigurationError, match=r"refuses access .*: check the AWS_\* variables") as caught:
        open_store(url).list()
    assert "wrong" not in str(caught.value)


def test_of_two_who_move_a_release_in_a_bucket_at_once_one_wins(store: BlobStore, url: str, tmp_path: Path) -> None:
    artifact = tiny(tmp_path / "tiny.onnx")
    for _ in range(2):
        models.register(store, artifact, name="tiny")
    source = open_source(url, None, tmp_path / "cache")
    source.poll()
    assert source.releases() == []
    barrier = Barrier(4)

    def write(number: int) -> str:
        mine = open_store(url)

        def build(before: Release | None) -> Release:
            barrier.wait(30)
            return moves.whole(before, "tiny", 1 + number % 2, "d", Move("release", f"writer {number}"))

        for _ in range(3):
            try:
                ledger.append(mine, "tiny", build)
                won.append(number)
            except Conflict:
                lost.append(number)
            barrier.wait(30)
        return "done"

    won: list[int] = []
    lost: list[int] = []
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, range(4))) == ["done"] * 4
    assert (len(won), len(lost)) == (3, 9)
    chain = ledger.links(store, "tiny")
    assert [link.release.move.by for link in chain] == [f"writer {number}" for number in won]
    assert source.releases() == [chain[-1].release]
    for version in (1, 2):
        releases.release(store, "tiny", version)
    assert releases.rollback(store, "tiny").main.version == 1
    assert len(releases.history(store, "tiny")) == 6

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.catalog import bundles
from rung.domain.errors import BundleError, Conflict, InvalidInput, NotFound
from rung.domain.models import FileDigest, Golden, Lineage, Manifest, Step, Transforms
from rung.domain.tensors import Signature, TensorSpec
from rung.store.blobs import DiskStore, open_store

SIGNATURE = Signature((TensorSpec("x", "FP32", (-1, 4)),), (TensorSpec("y", "FP32", (-1, 4)),))
DRAFT = Manifest(name="scale", version=0, runtime="scale", signature=SIGNATURE, artifact="model.scale")
FILES = {"model.scale": b'{"factor": 2}', "extra/weights.bin": b"\0" * 1000}


def test_a_published_version_comes_back_whole(store: DiskStore, cache: Path, root: Path) -> None:
    draft = msgspec.structs.replace(
        DRAFT,
        labels=("no", "yes"),
        transforms=Transforms(input=(Step("image.resize", {"height": 256}),)),
        lineage=Lineage(source="run 7", data={"train": "abc"}),
        metrics={"iou": 0.75},
    )
    manifest = bundles.publish(store, draft, FILES)
    assert manifest.version == 1
    assert manifest.created.endswith("+00:00")
    assert set(manifest.files) == set(FILES)
    assert bundles.read_manifest(store, "scale", 1) == manifest
    fetched = bundles.fetch(store, "scale", 1, cache)
    assert fetched.manifest == manifest
    assert fetched.folder == root / "scale/1"
    assert fetched.artifact == root / "scale/1/model.scale"
    assert not cache.exists()


def test_files_are_taken_from_paths(store: DiskStore, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "m").write_bytes(b"model")
    bundles.publish(store, DRAFT, {"model.scale": tmp_path / "m"})
    assert Path(bundles.fetch(store, "scale", 1, cache).artifact).read_bytes() == b"model"


def test_a_remote_version_is_put_together_in_the_cache(cache: Path) -> None:
    store = open_store("memory:")
    bundles.publish(store, DRAFT, FILES)
    fetched = bundles.fetch(store, "scale", 1, cache)
    assert fetched.folder is not None
    assert fetched.folder.is_relative_to(cache)
    assert {path.relative_to(fetched.folder).as_posix() for path in fetched.folder.rglob("*") if path.is_file()} == set(
        FILES
    )
    Path(fetched.artifact).write_bytes(b'{"factor": 3}')
    assert Path(bundles.fetch(store, "scale", 1, cache).artifact).read_bytes() == FILES["model.scale"]


def test_identity_is_the_sha256_of_canonical_bytes(store: DiskStore, root: Path) -> None:
    manifest = bundles.publish(store, DRAFT, FILES)
    data = (root / "scale/1/manifest.json").read_bytes()
    assert data == bundles.encode_manifest(manifest)
    assert json.dumps(json.loads(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() == data
    assert bundles.read_version(store, "scale", 1) == (manifest, bundles.digest_of(manifest))


def test_numbers_go_up_and_are_never_used_twice(store: DiskStore) -> None:
    for version in (1, 2):
        assert bundles.publish(store, DRAFT, FILES).version == version
    bundles.withdraw(store, "scale", 2)
    assert bundles.publish(store, DRAFT, FILES).version == 3
    chosen = msgspec.structs.replace(DRAFT, version=10)
    assert bundles.publish(store, chosen, FILES).version == 10
    assert bundles.publish(store, DRAFT, FILES).version == 11
    for version in (2, 10):
        with pytest.raises(Conflict, match=f"version {version} of scale exists already"):
            bundles.publish(store, msgspec.structs.replace(DRAFT, version=version), FILES)


def test_rivals_get_distinct_numbers(store: DiskStore) -> None:
    barrier = Barrier(8)

    def publish(_: int) -> int:
        barrier.wait()
        return bundles.publish(store, DRAFT, FILES).version

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(publish, range(8))) == list(range(1, 9))


def test_rivals_for_one_number_cannot_both_win(store: DiskStore) -> None:
    barrier = Barrier(4)
    draft = msgspec.structs.replace(DRAFT, version=5)

    def publish(number: int) -> bool:
        barrier.wait()
        try:
            bundles.publish(store, draft, {"model.scale": f"by {number}".encode()})
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(publish, range(4)))
    assert won.count(True) == 1
    assert store.get("scale/5/model.scale") == f"by {won.index(True)}".encode()


def test_what_is_not_there_is_said_with_what_is(store: DiskStore) -> None:
    for number in range(12):
        for name in ("scale", f"other{number:02}"):
            bundles.publish(store, msgspec.structs.replace(DRAFT, name=name), FILES)
    for name, version, said in (
        ("scale", 20, "there is no version 20 of scale; there are ..., 3, 4, 5, 6, 7, 8, 9, 10, 11, 12"),
        ("other00", 2, "there is no version 2 of other00; there are 1"),
        ("scael", 1, "there is no model scael; did you mean scale?"),
        ("zzz", 0, "there is no model zzz; there are " + ", ".join(f"other{n:02}" for n in range(10)) + ", ..."),
    ):
        assert str(bundles.absent(store, name, version)) == said
    store.put("scale/99/model.scale", b"by hand")
    assert str(bundles.absent(store, "scale", 99)).startswith("rung did not make scale version 99, so nothing is known")
    store.put("mine/1/model.scale", b"by hand")
    assert str(bundles.absent(store, "mine")).startswith("rung did not make mine version 1, so nothing is known")


def test_nothing_is_visible_before_the_manifest(store: DiskStore) -> None:
    class Full(Exception):
        pass

    class FailingStore(DiskStore):
        def put(self, key: str, data: bytes | Path, *, create: bool = False) -> None:
            if key.endswith("manifest.json"):
                raise Full
            super().put(key, data, create=create)

    with pytest.raises(Full):
        bundles.publish(FailingStore(store.root), DRAFT, FILES)
    [folder] = bundles.scan(store).values()
    assert folder.manifest is None
    assert not folder.foreign
    assert folder.files == {}, "what was uploaded is taken back"
    with pytest.raises(NotFound, match="no model scale, and no other yet"):
        bundles.read_manifest(store, "scale", 1)
    assert bundles.publish(store, DRAFT, FILES).version == 2


@pytest.mark.parametrize(
    "file",
    ["../x", "/x", "a/../../x", "a\\b", "a\0b", "", ".", "a//b", "manifest.json", ".reserved", "a\n"],
)
def test_publish_refuses_file_names_with_tricks(store: DiskStore, file: str, root: Path) -> None:
    with pytest.raises(InvalidInput):
        bundles.publish(store, DRAFT, {"model.scale": b"x", file: b"x"})
    assert not root.exists()


def test_publish_refuses_what_a_manifest_cannot_hold(store: DiskStore) -> None:
    for changes in (
        {"metrics": {"iou": float("nan")}},
        {"artifact": "other.onnx"},
        {"golden": Golden("golden.npz", 1)},
        {"signature": Signature((TensorSpec("x", "COMPLEX64", (1,)),), ())},
    ):
        with pytest.raises(InvalidInput):
            bundles.publish(store, msgspec.structs.replace(DRAFT, **changes), FILES)
    with pytest.raises(InvalidInput, match=r"'model\.scale' is empty"):
        bundles.publish(store, DRAFT, {"model.scale": b""})
    assert [folder for folder in bundles.scan(store).values() if folder.manifest] == []


@pytest.fixture(params=["disk", "remote"])
def published(request: pytest.FixtureRequest, store: DiskStore) -> object:
    """A store with one version, on a disk and where files have to be fetched."""
    chosen = store if request.param == "disk" else open_store("memory:")
    bundles.publish(chosen, DRAFT, FILES)
    return chosen


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ({"extra/weights.bin": None}, "scale/1/extra/weights.bin is missing"),
        ({"model.scale": b""}, "scale/1/model.scale is empty: 0 bytes, the manifest says 13"),
        ({"model.scale": b'{"factor"'}, "scale/1/model.scale is truncated: 9 bytes, the manifest says 13"),
        ({"model.scale": b'{"factor": 2} '}, "scale/1/model.scale is too long"),
        ({"model.scale": b'{"factor": 3}'}, "scale/1/model.scale is corrupt"),
        ({"surprise.py": b"x"}, "scale/1/surprise.py is not in the manifest"),
        ({"manifest.json": b""}, "manifest.json cannot be read"),
        ({"manifest.json": b"[" * 100_000}, "manifest.json cannot be read"),
        ({"manifest.json": b'{"format": 2, "other": 1}'}, "format 2, this rung reads format 1: upgrade rung"),
    ],
)
def test_damage_is_named(published: DiskStore, cache: Path, damage: dict[str, bytes | None], reason: str) -> None:
    for file, data in damage.items():
        if data is None:
            published.delete([f"scale/1/{file}"])
        else:
            published.put(f"scale/1/{file}", data)
    with pytest.raises(BundleError) as caught:
        bundles.fetch(published, "scale", 1, cache)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "version 2 of scale: it lies in the wrong folder"),
        ({"name": "other"}, "version 1 of other: it lies in the wrong folder"),
        ({"name": "../x"}, "cannot name a model"),
        ({"version": -1}, "not a version"),
        ({"files": {"../../etc/passwd": {"sha256": "", "size": 1}}}, "not a relative path"),
        ({"files": {"/etc/passwd": {"sha256": "", "size": 1}}}, "not a relative path"),
        ({"files": {"a\\b": {"sha256": "", "size": 1}}}, "backslash"),
        ({"artifact": "os:system"}, "the artifact 'os:system' is not among its files"),
        ({"artifact": ""}, "the artifact '' is not among its files"),
        ({"signature": 3}, "signature"),
    ],
)
def test_forged_manifests_are_refused(
    store: DiskStore, cache: Path, root: Path, changes: dict[str, object], reason: str
) -> None:
    bundles.publish(store, DRAFT, FILES)
    path = root / "scale/1/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(BundleError) as caught:
        bundles.fetch(store, "scale", 1, cache)
    assert reason in str(caught.value)


@given(st.binary(max_size=300) | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_any_bytes_as_manifest_are_a_bundle_error(data: bytes | str) -> None:
    with pytest.raises(BundleError):
        bundles.decode_manifest(data.encode() if isinstance(data, str) else data, "scale/1")


def test_withdrawing_leaves_only_the_reservation(store: DiskStore) -> None:
    bundles.publish(store, DRAFT, FILES)
    bundles.withdraw(store, "scale", 1)
    assert [blob.key for blob in store.list()] == ["scale/1/.reserved"]
    for _ in range(2):
        with pytest.raises(NotFound):
            bundles.withdraw(store, "scale", 1)


def test_leftovers_of_a_dead_publisher_can_be_withdrawn(store: DiskStore) -> None:
    store.put("scale/1/.reserved", b"x")
    store.put("scale/1/model.scale", b"x")
    bundles.withdraw(store, "scale", 1)
    assert [blob.key for blob in store.list()] == ["scale/1/.reserved"]


def test_folders_of_other_servers_are_not_ours(store: DiskStore) -> None:
    store.put("scale/1/model.scale", b"x")
    with pytest.raises(Conflict, match="rung did not make it"):
        bundles.withdraw(store, "scale", 1)
    assert bundles.publish(store, DRAFT, FILES).version == 2


def test_scan_passes_over_what_is_no_version(store: DiskStore) -> None:
    for key in ("a/1/model", "a/01/model", "a/x/model", "a/config.pbtxt", "A/1/model", "readme.md", "a/²/x", "b/2/c/d"):
        store.put(key, b"x")
    found = bundles.scan(store)
    assert list(found) == [("a", 1), ("b", 2)]
    assert list(found["b", 2].files) == ["c/d"]
    assert list(bundles.scan(store, "b")) == [("b", 2)]


def test_a_digest_is_of_all_bytes() -> None:
    assert bundles.digest_of(DRAFT) != bundles.digest_of(
        msgspec.structs.replace(DRAFT, files={"a": FileDigest("0", 1)})
    )

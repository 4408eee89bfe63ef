import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from rung.catalog import models, releases
from rung.catalog.source import FileSource, FolderSource, RepositorySource, artifact_in, open_source
from rung.domain.errors import BundleError, ConfigurationError, InvalidInput
from rung.domain.models import AspiredVersion
from rung.ports import Blob, Source
from rung.store.blobs import DiskStore, open_store

LATER = 1e12


def offered(source: Source) -> list[tuple[str, int]]:
    return [(version.name, version.version) for version in source.poll()]


def test_a_repository_offers_its_bundles(store: DiskStore, artifact: Path, cache: Path, root: Path) -> None:
    source = RepositorySource(store, cache)
    assert source.poll() == []
    for name in ("b", "a", "b"):
        models.register(store, artifact, name=name)
    assert offered(source) == [("a", 1), ("b", 1), ("b", 2)]
    assert offered(RepositorySource(store, cache, ["b", "absent"])) == [("b", 1), ("b", 2)]
    version = source.poll()[0]
    assert version.digest == hashlib.sha256((root / "a/1/manifest.json").read_bytes()).hexdigest()
    fetched = source.fetch(version)
    assert (fetched.artifact, fetched.inferred, fetched.trusted) == (root / "a/1/model.scale", False, False)
    models.delete(store, "b", 1)
    assert offered(source) == [("a", 1), ("b", 2)]
    with pytest.raises(BundleError, match="no version 1 of b"):
        source.fetch(AspiredVersion("b", 1, "x"))


def test_two_sources_say_the_same(store: DiskStore, artifact: Path, cache: Path) -> None:
    models.register(store, artifact, name="a")
    old = RepositorySource(store, cache)
    old.poll()
    models.register(store, artifact, name="a")
    assert old.poll() == RepositorySource(store, cache).poll()


def test_an_idle_poll_reads_no_manifest_again(store: DiskStore, artifact: Path, cache: Path) -> None:
    read: list[str] = []

    class Counting(DiskStore):
        def get(self, key: str) -> bytes:
            read.append(key)
            return super().get(key)

    models.register(store, artifact, name="a")
    source = RepositorySource(Counting(store.root), cache)
    first = source.poll()
    assert source.poll() == first
    assert read == ["a/1/manifest.json"]
    store.put("a/1/manifest.json", b"changed")
    assert source.poll() != first
    assert len(read) == 2


def test_a_bad_version_does_not_hide_the_others(store: DiskStore, artifact: Path, cache: Path) -> None:
    models.register(store, artifact, name="good")
    store.put("bad/1/manifest.json", b"{")
    store.put("half/1/.reserved", b"")
    store.put("half/1/model.scale", b'{"factor": 2}')
    store.put("Upper/1/model.scale", b'{"factor": 2}')
    source = RepositorySource(store, cache, clock=lambda: LATER)
    bad, good = source.poll()
    assert (bad.name, good.name) == ("bad", "good")
    with pytest.raises(BundleError, match=r"bad/1/manifest\.json cannot be read"):
        source.fetch(bad)
    source.fetch(good)


def test_an_unreadable_manifest_is_offered_and_fails_at_fetch(store: DiskStore, artifact: Path, cache: Path) -> None:
    class Failing(DiskStore):
        def get(self, key: str) -> bytes:
            if key.startswith("bad"):
                raise PermissionError(13, "Permission denied")
            return super().get(key)

    models.register(store, artifact, name="bad")
    models.register(store, artifact, name="good")
    source = RepositorySource(Failing(store.root), cache)
    bad, _ = source.poll()
    assert source.poll()[0] == bad
    with pytest.raises(BundleError, match="Permission denied"):
        source.fetch(bad)


@pytest.mark.parametrize("where", ["disk", "remote"])
def test_folders_of_other_servers_are_served(where: str, store: DiskStore, cache: Path) -> None:
    chosen = store if where == "disk" else open_store("memory:")
    chosen.put("scale/config.pbtxt", b'name: "scale"')
    chosen.put("scale/3/model.scale", b'{"factor": 2}')
    chosen.put("scale/3/sub/notes.txt", b"x")
    source = RepositorySource(chosen, cache)
    assert source.poll() == [], "it may still be copied"
    [version] = source.poll()
    assert (version.name, version.version) == ("scale", 3)
    for _ in range(2):
        fetched = source.fetch(version)
        assert fetched.inferred
        assert not fetched.trusted
        assert (fetched.manifest.runtime, fetched.manifest.version) == ("scale", 3)
        assert Path(fetched.artifact).read_bytes() == b'{"factor": 2}'
        assert fetched.folder is not None
        assert (fetched.folder / "sub/notes.txt").read_bytes() == b"x"


def test_a_half_copied_folder_waits_until_it_settles(store: DiskStore, cache: Path) -> None:
    source = RepositorySource(store, cache)
    for data in (b"{", b'{"factor"', b'{"factor": 2}'):
        store.put("scale/1/model.scale", data)
        assert source.poll() == []
    [version] = source.poll()
    store.put("scale/1/model.scale", b"{")
    assert source.poll() == [version], "what serves is not unloaded because its folder is being rewritten"
    with pytest.raises(BundleError, match="are changing"):
        source.fetch(version)
    [changed] = source.poll()
    assert changed.digest != version.digest


def test_a_folder_at_rest_is_offered_at_first_sight(store: DiskStore, cache: Path) -> None:
    store.put("scale/1/model.scale", b'{"factor": 2}')
    modified = next(iter(store.list())).modified
    assert RepositorySource(store, cache, clock=lambda: modified + 1).poll() == []
    assert len(RepositorySource(store, cache, clock=lambda: modified + 3).poll()) == 1


def test_a_copy_that_keeps_old_times_is_not_at_rest(store: DiskStore, cache: Path, root: Path) -> None:
    store.put("scale/1/model.scale", b'{"factor": 2}')
    os.utime(root / "scale/1/model.scale", (0, 0))
    assert RepositorySource(store, cache).poll() == []


def test_a_folder_without_a_model_says_so_at_fetch(store: DiskStore, cache: Path) -> None:
    store.put("scale/1/readme.md", b"x")
    store.put("two/1/a.scale", b"x")
    store.put("two/1/b.scale", b"x")
    source = RepositorySource(store, cache, clock=lambda: LATER)
    nothing, several = source.poll()
    with pytest.raises(BundleError, match="no model that a runtime here knows"):
        source.fetch(nothing)
    with pytest.raises(BundleError, match=r"several models: a\.scale, b\.scale"):
        source.fetch(several)


def test_loops_of_links_end(root: Path, store: DiskStore, cache: Path) -> None:
    store.put("scale/1/model.scale", b'{"factor": 2}')
    (root / "scale/1/loop").symlink_to(root)
    (root / "linked").mkdir()
    (root / "linked/1").symlink_to(root / "scale/1")
    assert offered(RepositorySource(store, cache, clock=lambda: LATER)) == [("linked", 1), ("scale", 1)]


def test_an_outage_is_raised_and_not_an_empty_list(cache: Path) -> None:
    class Down(DiskStore):
        def list(self, prefix: str = "") -> Iterable[Blob]:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        RepositorySource(Down(Path()), cache).poll()


def test_a_file_is_version_1_and_follows_its_bytes(artifact: Path, cache: Path) -> None:
    source = open_source(str(artifact), "mine", cache)
    [version] = source.poll()
    assert (version.name, version.version) == ("mine", 1)
    fetched = source.fetch(version)
    assert (fetched.artifact, fetched.inferred, fetched.manifest.runtime) == (artifact, True, "scale")
    assert source.poll() == [version]
    artifact.write_text('{"factor": 22}')
    assert source.poll() == [version], "it may still be written"
    [changed] = source.poll()
    assert changed.digest != version.digest
    artifact.unlink()
    assert source.poll() == []
    with pytest.raises(BundleError, match="is gone"):
        source.fetch(changed)


def test_a_class_is_trusted_and_follows_its_file(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pack").mkdir()
    module = tmp_path / "pack" / "mine.py"
    module.write_text("raise SystemExit('imported')")
    source = open_source("pack.mine:MyModel", None, cache)
    [version] = source.poll()
    assert (version.name, version.version) == ("mymodel", 1)
    fetched = source.fetch(version)
    assert (fetched.artifact, fetched.trusted, fetched.folder) == ("pack.mine:MyModel", True, None)
    module.write_text("x = 1")
    source.poll()
    assert source.poll() != [version]
    assert offered(open_source("installed.elsewhere:Model", "other", cache)) == [("other", 1)]


def test_a_bundle_folder_may_lie_anywhere(store: DiskStore, artifact: Path, root: Path, cache: Path) -> None:
    models.register(store, artifact, name="scale")
    models.register(store, artifact, name="scale")
    elsewhere = root.parent / "downloaded copy"
    shutil.copytree(root / "scale/2", elsewhere)
    source = open_source(str(elsewhere), None, cache)
    assert isinstance(source, FolderSource)
    assert offered(source) == [("scale", 2)]
    named = open_source(str(elsewhere), "mine", cache)
    [version] = named.poll()
    assert named.fetch(version).manifest.name == version.name == "mine"
    (elsewhere / "model.scale").write_text("{")
    with pytest.raises(BundleError, match=r"model\.scale is truncated"):
        source.fetch(source.poll()[0])
    (elsewhere / "manifest.json").unlink()
    assert source.poll() == []


def test_a_target_is_told_by_what_it_is(store: DiskStore, artifact: Path, root: Path, cache: Path) -> None:
    models.register(store, artifact, name="scale")
    models.register(store, artifact, name="other")
    assert offered(open_source(str(root), None, cache)) == [("other", 1), ("scale", 1)]
    assert offered(open_source(f"file://{root}", None, cache)) == [("other", 1), ("scale", 1)]
    assert offered(open_source(str(root), "scale", cache)) == [("scale", 1)]
    assert offered(open_source(str(root / "scale"), None, cache)) == [("scale", 1)]
    assert isinstance(open_source(str(root / "scale/1"), None, cache), FolderSource)
    assert isinstance(open_source(str(artifact), None, cache), FileSource)


def test_a_model_s_folder_may_be_called_otherwise(store: DiskStore, artifact: Path, root: Path, cache: Path) -> None:
    models.register(store, artifact, name="scale", version=3)
    source = open_source(str(root / "scale"), "other", cache)
    assert offered(source) == [("other", 3)]
    fetched = source.fetch(source.poll()[0])
    assert (fetched.manifest.name, fetched.manifest.version) == ("other", 3)
    assert source.releases() == []
    releases.release(store, "scale", 3, by="us")
    assert [release.model for release in source.releases()] == ["other"]


def test_what_lies_in_the_folder_of_a_platform(artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "filled"
    (folder / "net" / "1").mkdir(parents=True)
    (folder / "config.pbtxt").touch()
    assert artifact_in(str(folder)) == str(folder / "net")
    assert artifact_in(str(folder / "net")) == str(folder / "net")
    (folder / "further").mkdir()
    assert artifact_in(str(folder)) == str(folder)
    assert artifact_in("s3://bucket/net") == "s3://bucket/net"
    assert artifact_in("module:Class") == "module:Class"
    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(artifact, only)
    assert artifact_in(str(only)) == str(only / artifact.name)


def test_what_cannot_be_served_is_explained(store: DiskStore, artifact: Path, root: Path, cache: Path) -> None:
    models.register(store, artifact, name="scale")
    empty = root.parent / "empty"
    empty.mkdir()
    (root.parent / "notes").mkdir()
    (root.parent / "notes/readme.md").write_text("x")
    (root.parent / "old").mkdir()
    (root.parent / "old/model.pkl").write_text("x")
    (root.parent / "new.bin").write_text("x")
    (root.parent / "Bad/1").mkdir(parents=True)
    (root.parent / "broken").mkdir()
    (root.parent / "broken/manifest.json").write_text("{")
    for target, name, said in [
        ("absent/folder", None, "no file or folder 'absent/folder'"),
        ("", None, "nothing to serve"),
        (str(empty), None, "looked for manifest.json (a bundle), NAME/VERSION/"),
        (str(empty), None, "It holds nothing."),
        (str(root.parent / "notes"), None, "It holds readme.md."),
        (str(root.parent / "old"), None, "model.pkl is a pickle"),
        (str(root.parent / "old/model.pkl"), None, "Export the model to ONNX"),
        (str(root.parent / "new.bin"), None, "no model that a runtime here knows (scale)"),
        (str(artifact.parent), None, "To serve model.scale, give that file"),
        (str(root), "absent", "there is no model in"),
        (f"file://{empty}", None, "looked in NAME/VERSION"),
        (str(root.parent / "broken"), None, "manifest.json cannot be read"),
        ("gopher://x/y", None, "unknown scheme"),
    ]:
        with pytest.raises(ConfigurationError) as caught:
            open_source(target, name, cache)
        assert said in str(caught.value)
    with pytest.raises(InvalidInput):
        open_source(str(root), "../x", cache)


def test_torch_checkpoints_are_refused(tmp_path: Path, cache: Path) -> None:
    import zipfile

    with zipfile.ZipFile(tmp_path / "model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    with pytest.raises(ConfigurationError, match="is a pickle"):
        open_source(str(tmp_path / "model.bin"), None, cache)


def test_a_poll_of_many_models_is_cheap(store: DiskStore, cache: Path) -> None:
    for number in range(100):
        store.put(f"m{number}/1/manifest.json", b"{}")
        store.put(f"m{number}/1/.reserved", b"")
    source = RepositorySource(store, cache)
    first = source.poll()
    assert len(first) == 100
    assert np.array_equal([version.version for version in first], np.ones(100))

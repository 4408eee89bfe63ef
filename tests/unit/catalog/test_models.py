import json
import pickle
from pathlib import Path

import msgspec
import numpy as np
import pytest

from rung.catalog import models
from rung.catalog.bundles import fetch
from rung.catalog.golden import unpack_golden
from rung.domain.errors import BundleError, Conflict, InvalidInput, NotFound
from rung.domain.models import Lineage, Step, Transforms
from rung.store.blobs import DiskStore

HOSTILE = [*json.loads(Path(__file__).with_name("hostile_names.json").read_text()), "a" * 10_000]


def test_registering_publishes_a_version_that_answers_as_it_did(store: DiskStore, artifact: Path, cache: Path) -> None:
    manifest = models.register(
        store,
        artifact,
        name="scale",
        task="regression",
        labels=("a", "b"),
        lineage=Lineage(source="run 1"),
        metrics={"mae": 0.5},
        description="Doubles.",
    )
    assert (manifest.name, manifest.version, manifest.runtime, manifest.artifact) == (
        "scale",
        1,
        "scale",
        "model.scale",
    )
    assert manifest.signature.inputs[0].shape == (-1, 4)
    assert (manifest.task, manifest.labels, manifest.metrics) == ("regression", ("a", "b"), {"mae": 0.5})
    assert set(manifest.files) == {"model.scale", "golden.npz"}
    assert models.show(store, "scale") == models.show(store, "scale", 1) == manifest
    folder = fetch(store, "scale", 1, cache).folder
    assert folder is not None
    examples = unpack_golden((folder / "golden.npz").read_bytes())
    assert len(examples) == 2
    for inputs, outputs in examples:
        assert np.array_equal(outputs["y"], inputs["x"] * 2)
    report = models.verify(store, "scale")
    assert report.ok
    assert (report.version, report.examples, report.files) == (1, 2, 2)


def test_given_examples_become_the_golden_ones(store: DiskStore, artifact: Path) -> None:
    example = {"x": np.ones((3, 4), np.float32)}
    manifest = models.register(store, artifact, name="scale", examples=[example])
    assert manifest.golden is not None
    assert manifest.golden.count == 1
    assert manifest.lineage.source == "model.scale"
    with pytest.raises(InvalidInput, match="shape"):
        models.register(store, artifact, name="scale", examples=[{"x": np.ones((3, 5), np.float32)}])


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_invalid_everywhere(store: DiskStore, artifact: Path, tmp_path: Path, name: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    for call in (
        lambda: models.register(store, artifact, name=name),
        lambda: models.show(store, name),
        lambda: models.show(store, name, 1),
        lambda: models.verify(store, name),
        lambda: models.delete(store, name, 1),
    ):
        with pytest.raises(InvalidInput):
            call()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_hostile_corpus_is_large() -> None:
    assert len(HOSTILE) >= 200


@pytest.mark.parametrize("version", [0, -1, 2**53, 2**70])
def test_versions_are_positive_integers(store: DiskStore, artifact: Path, version: int) -> None:
    for call in (
        lambda: models.show(store, "scale", version),
        lambda: models.verify(store, "scale", version),
        lambda: models.delete(store, "scale", version),
    ):
        with pytest.raises(InvalidInput):
            call()


@pytest.mark.parametrize("factor", ["NaN", "Infinity", "1e39"])
def test_models_that_answer_nan_are_not_registered(store: DiskStore, artifact: Path, factor: str) -> None:
    artifact.write_text(f'{{"factor": {factor}}}')
    with np.errstate(all="ignore"), pytest.raises(BundleError, match="NaN or Infinity in output 'y'"):
        models.register(store, artifact, name="scale")
    assert list(store.list()) == []


def test_what_cannot_be_loaded_is_not_registered(store: DiskStore, artifact: Path, tmp_path: Path) -> None:
    artifact.write_text("{")
    with pytest.raises(BundleError, match="no scale model"):
        models.register(store, artifact, name="scale")
    with pytest.raises(InvalidInput, match="no file or folder"):
        models.register(store, tmp_path / "absent", name="scale")
    artifact.write_text('{"factor": 1}')
    with pytest.raises(BundleError, match="fails on example 1: too large"):
        models.register(store, artifact, name="scale", examples=[{"x": np.full((1, 4), 1e7, np.float32)}])
    with pytest.raises(BundleError, match="nonsense"):
        models.register(store, artifact, name="scale", transforms=Transforms(input=(Step("nonsense"),)))
    assert list(store.list()) == []


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.pkl", b"anything"),
        ("model.joblib", b"anything"),
        ("model.scale", pickle.dumps({"factor": 2})),
        ("model.pth", b"anything"),
    ],
)
@pytest.mark.parametrize("runtime", ["", "scale"])
def test_pickles_are_refused_unopened(store: DiskStore, tmp_path: Path, name: str, data: bytes, runtime: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BundleError, match="is a pickle: opening it would run whatever code it holds"):
        models.register(store, tmp_path / name, name="scale", runtime=runtime)


def test_external_weights_travel_with_the_artifact(store: DiskStore, artifact: Path) -> None:
    artifact.write_text('{"weights": "model.scale.data"}')
    artifact.with_name("model.scale.data").write_text("3")
    artifact.with_name("unrelated.txt").write_text("3")
    manifest = models.register(store, artifact, name="scale")
    assert set(manifest.files) == {"model.scale", "model.scale.data", "golden.npz"}
    assert models.verify(store, "scale").ok


def test_weights_left_behind_are_noticed_at_registration(store: DiskStore, artifact: Path) -> None:
    artifact.write_text('{"weights": "elsewhere.bin"}')
    artifact.with_name("elsewhere.bin").write_text("3")
    with pytest.raises(BundleError, match=r"^model\.scale is no scale model"):
        models.register(store, artifact, name="scale")


def test_the_list_shows_every_version(store: DiskStore, artifact: Path) -> None:
    assert models.list_models(store) == []
    for name in ("b", "a", "b"):
        models.register(store, artifact, name=name)
    store.put("broken/1/manifest.json", b"{")
    store.put("foreign/7/model.scale", b"12345")
    store.put("half/1/.reserved", b"")
    entries = models.list_models(store)
    assert [(entry.name, entry.version) for entry in entries] == [
        ("a", 1), ("b", 1), ("b", 2), ("broken", 1), ("foreign", 7),
    ]  # fmt: skip
    assert all(entry.manifest is not None and entry.digest and entry.size for entry in entries[:3])
    assert "cannot be read" in entries[3].problem
    assert (entries[4].manifest, entries[4].size, entries[4].problem) == (None, 5, "")


def test_verify_says_what_is_wrong(store: DiskStore, artifact: Path) -> None:
    models.register(store, artifact, name="scale")
    key = "scale/1/model.scale"
    for data, problem in ((b'{"factor": 3}', "corrupt"), (b"", "empty"), (b"{", "truncated")):
        store.put(key, data)
        report = models.verify(store, "scale", 1)
        assert not report.ok
        assert problem in report.problem
    store.put("scale/1/manifest.json", b"{}")
    assert "cannot be read" in models.verify(store, "scale", 1).problem
    with pytest.raises(NotFound):
        models.verify(store, "scale", 2)
    with pytest.raises(NotFound, match="no model other"):
        models.verify(store, "other")


def test_verify_notices_other_answers(store: DiskStore, artifact: Path) -> None:
    manifest = models.register(store, artifact, name="scale")
    from rung.catalog import bundles

    data = {file: store.get(f"scale/1/{file}") for file in manifest.files}
    forged = msgspec.structs.replace(manifest, version=0)
    bundles.publish(store, forged, {**data, "model.scale": b'{"factor": 2.5}'})
    report = models.verify(store, "scale", 2)
    assert "golden example 1 is answered differently than at registration: output 'y' differs by" in report.problem
    bundles.publish(store, forged, {**data, "model.scale": b'{"factor": 2, "size": 5}'})
    assert "signature" in models.verify(store, "scale", 3).problem
    bundles.publish(store, forged, {**data, "golden.npz": b"PK"})
    assert "golden examples cannot be read" in models.verify(store, "scale", 4).problem
    bundles.publish(store, msgspec.structs.replace(forged, runtime="nonesuch"), data)
    assert "there is no runtime 'nonesuch'" in models.verify(store, "scale", 5).problem


def test_deleting_keeps_the_last_version_unless_forced(store: DiskStore, artifact: Path) -> None:
    for _ in range(2):
        models.register(store, artifact, name="scale")
    models.delete(store, "scale", 1)
    with pytest.raises(NotFound):
        models.show(store, "scale", 1)
    with pytest.raises(NotFound):
        models.delete(store, "scale", 1)
    with pytest.raises(Conflict, match="only one of scale"):
        models.delete(store, "scale", 2)
    assert models.show(store, "scale").version == 2
    models.delete(store, "scale", 2, force=True)
    assert models.list_models(store) == []
    assert models.register(store, artifact, name="scale").version == 3


def test_deleting_removes_the_manifest_first(store: DiskStore, artifact: Path) -> None:
    models.register(store, artifact, name="scale")
    removed: list[list[str]] = []

    class Watched(DiskStore):
        def delete(self, keys: object) -> None:
            removed.append(sorted(keys))  # type: ignore[call-overload]

    models.delete(Watched(store.root), "scale", 1, force=True)
    assert removed == [["scale/1/manifest.json"], ["scale/1/golden.npz", "scale/1/model.scale"]]

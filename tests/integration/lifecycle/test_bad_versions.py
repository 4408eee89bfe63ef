"""Versions that may not be served, each refused with its reason while the one before answers."""

import asyncio
import shutil
from time import monotonic

import msgspec
import numpy as np
import onnx.parser
import pytest

from rung.catalog import bundles
from rung.catalog import models as catalog
from rung.catalog.golden import pack_golden
from rung.domain.errors import NotReady
from rung.domain.models import Golden, Manifest, VersionState
from rung.domain.predictions import Request
from rung.domain.tensors import Signature, TensorSpec
from rung.serving.policies import Policy
from rung.store.blobs import DiskStore
from rung.testing import models

pytestmark = pytest.mark.asyncio

ONES = np.ones((1, 4), np.float32)


def tampered(change):
    """A second version that was sound when it was registered."""

    def make(root, store, tmp_path):
        catalog.register(store, models.scale(tmp_path / "model.onnx", 3.0), name="m", version=2)
        # In one step, as the manager may look at any time.
        change(root / "m" / "2")

    return make


def truncate(folder):
    path = folder / "model.onnx"
    path.write_bytes(path.read_bytes()[:-7])


def flip(folder):
    path = folder / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def foreign(content):
    """A second version without a manifest, as other servers lay it out."""

    def make(root, store, tmp_path):
        made = tmp_path / "made" / "model.onnx"
        made.parent.mkdir()
        content(made)
        shutil.copytree(made.parent, root / "m" / "2")

    return make


def wrong_opset(path):
    model = onnx.load(models.scale(path, 3.0))
    model.opset_import[0].version = 9999
    onnx.save(model, path)


def published(**changes):
    """A second version whose manifest says what is not so."""

    def make(root, store, tmp_path):
        spec = TensorSpec("x", "FP32", (-1, 4)), TensorSpec("y", "FP32", (-1, 4))
        manifest = Manifest("m", 2, "onnx", Signature(spec[:1], spec[1:]), "model.onnx")
        files = {"model.onnx": models.scale(tmp_path / "model.onnx", 3.0)}
        if "golden" in changes:
            files["golden.npz"] = pack_golden([({"x": ONES}, {"y": changes["golden"]})])
            manifest = msgspec.structs.replace(manifest, golden=Golden("golden.npz", 1))
        if "output" in changes:
            signature = Signature(spec[:1], (changes["output"],))
            manifest = msgspec.structs.replace(manifest, signature=signature)
        if "artifact" in changes:
            files["model.onnx"] = changes["artifact"](tmp_path / "model.onnx")
        bundles.publish(store, manifest, files)

    return make


BAD = {
    "corrupt": (tampered(flip), "model.onnx is corrupt: its sha256"),
    "truncated": (tampered(truncate), "model.onnx is truncated: "),
    "empty": (tampered(lambda folder: (folder / "model.onnx").write_bytes(b"")), "model.onnx is empty"),
    "missing file": (tampered(lambda folder: (folder / "model.onnx").unlink()), "model.onnx is missing"),
    "surplus file": (tampered(lambda folder: (folder / "extra.py").write_text("1")), "extra.py is not in the manifest"),
    "corrupt manifest": (
        tampered(lambda folder: (folder / "manifest.json").write_text('{"name": "m", "ver')),
        "manifest.json cannot be read",
    ),
    "manifest of a later format": (
        tampered(lambda folder: (folder / "manifest.json").write_text('{"format": 99}')),
        "upgrade rung",
    ),
    "wrong opset": (foreign(wrong_opset), "opset"),
    "not ONNX": (foreign(lambda path: path.write_text("hello " * 100)), "cannot be loaded"),
    "NaN-making": (foreign(models.nan_maker), "NaN"),
    "a pickle": (foreign(lambda path: path.with_suffix(".pkl").write_bytes(b"\x80\x04K\x01.")), "is a pickle"),
    "golden answers differ": (published(golden=ONES * 3.1), "answered differently than at registration"),
    "golden answers of another shape": (published(golden=np.ones((1, 5), np.float32)), r"shape \[1, 4\]"),
    "signature differs": (
        published(output=TensorSpec("y", "FP32", (-1, 5))),
        r"does not have the signature that its manifest states.*y:FP32\[-1, 4\].*y:FP32\[-1, 5\]",
    ),
    "NaN-making bundle": (published(golden=ONES * 3, artifact=models.nan_maker), "NaN"),
}


@pytest.mark.parametrize("case", BAD)
async def test_a_bad_version_is_refused_with_a_reason_and_the_old_one_serves(
    manage, root, store, register, tmp_path, case
):
    make, reason = BAD[case]
    register(2.0)
    async with manage(root, policy=Policy(retries=0)) as manager:
        gaps = []

        def refused():
            gaps.extend([] if manager.ready() and manager.versions("m") == [1] else [manager.statuses()])
            return next((s.reason for s in manager.statuses() if s.version == 2 and s.state is VersionState.END), "")

        # Made elsewhere and moved into place, so that no poll sees it half made.
        make(root.parent / "aside", DiskStore(root.parent / "aside"), tmp_path)
        shutil.move(root.parent / "aside" / "m" / "2", root / "m" / "2")
        await manager.until(refused)
        await manager.turns()
        assert "\n" not in refused()
        with pytest.raises(NotReady, match=reason):
            manager.find("m", 2)
        assert await manager.ask() == (1, 2.0)
        assert gaps == []
        assert manager.serves(1)


@pytest.mark.parametrize("case", ["corrupt", "wrong opset", "golden answers differ"])
async def test_a_cold_start_falls_back_from_a_bad_latest_version(manage, root, store, register, tmp_path, case):
    register(2.0)
    make, reason = BAD[case]
    make(root, store, tmp_path)
    async with manage(root) as manager:
        assert await manager.ask() == (1, 2.0)
        assert manager.ready()
        with pytest.raises(NotReady, match=reason):
            manager.find("m", 2)


async def test_a_cold_start_with_nothing_sound_says_why(manage, root, store, tmp_path):
    make, _ = BAD["corrupt"]
    make(root, store, tmp_path)
    async with manage(root) as manager:
        assert not manager.ready()
        assert manager.problems() == ["m: m/2/model.onnx is corrupt: its sha256 is not the manifest's"]


async def test_a_version_is_tried_again_when_its_bytes_change(manage, root, register, tmp_path):
    register(2.0)
    async with manage(root) as manager:
        folder = root / "m" / "2"
        folder.mkdir()
        (folder / "model.onnx").write_bytes(b"broken")
        await manager.until(lambda: manager.states().get(2) is VersionState.END)
        models.scale(tmp_path / "right.onnx", 3.0).replace(folder / "model.onnx")
        # Each version once: the broken bytes are forgotten.
        kept = [(1, VersionState.END), (2, VersionState.AVAILABLE)]
        await manager.until(lambda: [(status.version, status.state) for status in manager.statuses()] == kept)
        assert await manager.ask() == (2, 3.0)


async def test_a_model_that_mixes_rows_never_gets_rows_of_two_callers(manage, tmp_path):
    """It claims a batch, and divides by the sum over it."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    mixes (float[N, 4] x) => (float[N, 4] y) { y = Softmax <axis = 0> (x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "mixes.onnx")
    async with manage(tmp_path / "mixes.onnx") as manager:
        predict = manager.find("mixes").predict
        sent = [Request({"x": ONES * n}, 1, arrived=monotonic()) for n in range(16)]
        answers = await asyncio.gather(*(asyncio.ensure_future(waiting(predict, one)) for one in sent))
        assert all((answer.outputs["y"] == 1).all() for answer in answers)
        assert {answer.batch for answer in answers} == {1}


async def waiting(predict, request):
    return await predict(request)

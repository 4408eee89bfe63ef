"""Versions that come, go and fail, in a manager over real repositories with real models."""

import asyncio
import os
import shutil
import threading
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import msgspec
import numpy as np
import onnx.parser
import psutil
import pytest

from rung.catalog import bundles
from rung.catalog import models as catalog
from rung.catalog.golden import pack_golden
from rung.catalog.source import RepositorySource, open_source
from rung.domain.errors import ConfigurationError, NotFound, NotReady
from rung.domain.models import Golden, Manifest, VersionState
from rung.domain.predictions import Request
from rung.domain.tensors import Signature, TensorSpec
from rung.serving.manager import Manager, ManagerOptions
from rung.serving.policies import Policy
from rung.store.blobs import DiskStore
from rung.testing import models

pytestmark = pytest.mark.asyncio

ONES = np.ones((1, 4), np.float32)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "repository"


@pytest.fixture
def store(root):
    return DiskStore(root)


@pytest.fixture
def register(store, tmp_path):
    """`register(factor, name="m")`: the next version, which multiplies by `factor`."""

    def one(factor, name="m"):
        return catalog.register(store, models.scale(tmp_path / "next.onnx", factor), name=name).version

    return one


@pytest.fixture
def manage(tmp_path):
    """`async with manage(target or source...) -> Manager`, open, looking 50 times a second."""

    @asynccontextmanager
    async def run(*targets, **options):
        sources = [
            open_source(str(target), None, tmp_path / "cache") if isinstance(target, str | Path) else target
            for target in targets
        ]
        manager = Manager(sources, ManagerOptions(**{"poll_seconds": 0.02, **options}))
        try:
            await manager.open()
            yield manager
        finally:
            await manager.close()

    return run


async def ask(manager, name="m", version=None):
    """(version that answered, factor it multiplied by)."""
    response = await manager.find(name, version).predict(Request({"x": ONES}, 1, arrived=monotonic()))
    return response.version, float(response.outputs["y"][0, 0])


async def until(holds, seconds=30.0):
    end = monotonic() + seconds
    while not holds():
        assert monotonic() < end, "it did not come to that"
        await asyncio.sleep(0.01)


def states(manager, name="m"):
    return {status.version: status.state for status in manager.statuses() if status.name == name}


def serves(manager, *versions, name="m"):
    """Whether exactly these are loaded and nothing is on its way."""
    alive = {version: state for version, state in states(manager, name).items() if state is not VersionState.END}
    return alive == dict.fromkeys(versions, VersionState.AVAILABLE)


async def turns(manager, count=5):
    """Let the manager look so many times more."""
    for _ in range(count):
        await manager._turn()


# --- coming and going ---------------------------------------------------------------------------


async def test_a_version_registered_while_serving_takes_over(manage, root, register):
    register(2.0)
    async with manage(root) as manager:
        assert await ask(manager) == (1, 2.0)
        register(3.0)
        await until(lambda: serves(manager, 2))
        assert await ask(manager) == (2, 3.0)
        with pytest.raises(NotFound, match=r"has no version 1 here; there are \[2\]"):
            manager.find("m", 1)


async def test_the_old_version_stays_until_its_last_handle_is_returned(manage, root, register):
    register(2.0)
    async with manage(root) as manager:
        old = manager.find("m")
        old.batcher.inflight += 1
        register(3.0)
        await until(lambda: states(manager).get(1) is VersionState.UNLOADING)
        assert await ask(manager) == (2, 3.0)
        await turns(manager)
        assert states(manager) == {1: VersionState.UNLOADING, 2: VersionState.AVAILABLE}
        response = await old.predict(Request({"x": ONES}, 1, arrived=monotonic()))
        assert (response.version, response.outputs["y"][0, 0]) == (1, 2.0)
        old.batcher.release()
        await until(lambda: serves(manager, 2))


async def test_nobody_notices_swaps(manage, root, register):
    factors = {register(2.0): 2.0}
    async with manage(root) as manager:
        seen = set()
        stop = asyncio.Event()

        async def caller():
            while not stop.is_set():
                version, factor = await ask(manager)
                assert factors[version] == factor
                seen.add(version)
                await asyncio.sleep(0)

        callers = [asyncio.ensure_future(caller()) for _ in range(8)]
        for factor in (3.0, 4.0, 5.0):
            factors[max(factors) + 1] = factor
            number = await asyncio.to_thread(register, factor)
            await until(lambda number=number: serves(manager, number))
        stop.set()
        await asyncio.gather(*callers)
        assert seen == {1, 2, 3, 4}


async def test_deleting_a_version_brings_back_the_one_before(manage, root, store, register):
    register(2.0)
    register(3.0)
    async with manage(root) as manager:
        assert await ask(manager) == (2, 3.0)
        catalog.delete(store, "m", 2)
        await until(lambda: serves(manager, 1))
        assert await ask(manager) == (1, 2.0)


async def test_deleting_the_last_version_of_one_model_leaves_the_other_and_stays_ready(manage, root, store, register):
    register(2.0)
    register(5.0, "n")
    async with manage(root) as manager:
        catalog.delete(store, "m", 1, force=True)
        await until(lambda: not states(manager))
        with pytest.raises(NotFound, match=r"unknown model 'm'; there are \['n'\]"):
            manager.find("m")
        assert await ask(manager, "n") == (1, 5.0)
        assert manager.ready()


async def test_deleting_everything_unloads_it_after_a_while(manage, root, store, register):
    register(2.0)
    async with manage(root, empty_seconds=0.2) as manager:
        catalog.delete(store, "m", 1, force=True)
        await turns(manager, 3)
        assert await ask(manager) == (1, 2.0)
        await until(lambda: not manager.statuses())
        assert not manager.ready()
        assert manager.problems() == ["no model was found"]


async def test_two_models_come_and_go_on_their_own(manage, root, register):
    register(2.0, "a")
    register(3.0, "b")
    async with manage(root) as manager:
        assert await ask(manager, "a") == (1, 2.0)
        assert await ask(manager, "b") == (1, 3.0)
        register(4.0, "b")
        await until(lambda: serves(manager, 2, name="b"))
        assert await ask(manager, "a") == (1, 2.0)
        assert await ask(manager, "b") == (2, 4.0)


async def test_a_model_that_appears_does_not_touch_readiness(manage, root, register):
    register(2.0)
    async with manage(root) as manager:
        bad = root / "other" / "1"
        bad.mkdir(parents=True)
        (bad / "model.onnx").write_bytes(b"not a model")
        unready = []
        async with asyncio.timeout(30):
            while states(manager, "other").get(1) is not VersionState.END:
                unready += [] if manager.ready() else [manager.problems()]
                await asyncio.sleep(0)
        assert unready == []
        with pytest.raises(NotReady, match="other.*not served.*model.onnx cannot be loaded"):
            manager.find("other")


async def test_two_targets_of_one_name_are_refused(manage, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        models.scale(tmp_path / folder / "m.onnx", 2.0)
    with pytest.raises(ConfigurationError, match="two of the things to serve are called 'm'"):
        async with manage(tmp_path / "a" / "m.onnx", tmp_path / "b" / "m.onnx"):
            pass


# --- bad versions -------------------------------------------------------------------------------


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
        await until(refused)
        await turns(manager)
        assert "\n" not in refused()
        with pytest.raises(NotReady, match=reason):
            manager.find("m", 2)
        assert await ask(manager) == (1, 2.0)
        assert gaps == []
        assert serves(manager, 1)


@pytest.mark.parametrize("case", ["corrupt", "wrong opset", "golden answers differ"])
async def test_a_cold_start_falls_back_from_a_bad_latest_version(manage, root, store, register, tmp_path, case):
    register(2.0)
    make, reason = BAD[case]
    make(root, store, tmp_path)
    async with manage(root) as manager:
        assert await ask(manager) == (1, 2.0)
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
        await until(lambda: states(manager).get(2) is VersionState.END)
        models.scale(tmp_path / "right.onnx", 3.0).replace(folder / "model.onnx")
        # Each version once: the broken bytes are forgotten.
        kept = [(1, VersionState.END), (2, VersionState.AVAILABLE)]
        await until(lambda: [(status.version, status.state) for status in manager.statuses()] == kept)
        assert await ask(manager) == (2, 3.0)


# --- policies -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Policy(), [4]),
        (Policy(versions=2), [3, 4]),
        (Policy(keep="all"), [1, 2, 3, 4]),
        (Policy(pin=(1, 3)), [1, 3]),
    ],
    ids=["latest", "latest 2", "all", "pinned"],
)
async def test_versions_kept(manage, root, register, policy, kept):
    for factor in (2.0, 3.0, 4.0, 5.0):
        register(factor)
    async with manage(root, policy=policy) as manager:
        assert manager.versions("m") == kept
        for version in kept:
            assert await ask(manager, version=version) == (version, version + 1.0)
        assert (await ask(manager))[0] == max(kept)


@pytest.mark.parametrize("swap", ["availability", "resources"])
async def test_a_swap_keeps_answers_or_memory(manage, root, register, swap):
    register(2.0)
    async with manage(root, policy=Policy(swap=swap)) as manager:
        register(3.0)
        held, gaps = set(), 0
        async with asyncio.timeout(30):
            while not serves(manager, 2):
                now = [s for s in states(manager).values() if s not in (VersionState.START, VersionState.END)]
                held.add(len(now))
                try:
                    await ask(manager)
                except NotReady:  # never that there is no such model
                    gaps += 1
                await asyncio.sleep(0)
        assert await ask(manager) == (2, 3.0)
        if swap == "resources":
            assert max(held) == 1, "the new one is loaded when the old one has gone"
        else:
            assert gaps == 0


# --- changing files -----------------------------------------------------------------------------


async def test_a_file_that_is_replaced_is_loaded_again(manage, tmp_path):
    served = models.scale(tmp_path / "m.onnx", 2.0)
    async with manage(served) as manager:
        before = manager.find("m").digest
        models.scale(tmp_path / "new.onnx", 3.0).replace(served)
        await until(lambda: manager.find("m").digest != before)
        await until(lambda: serves(manager, 1))
        assert await ask(manager) == (1, 3.0)


async def test_a_file_that_is_copied_over_slowly_is_loaded_when_whole(manage, tmp_path):
    served = models.scale(tmp_path / "m.onnx", 2.0)
    data = models.scale(tmp_path / "new.onnx", 3.0).read_bytes()
    async with manage(served) as manager:
        with served.open("wb") as file:
            for byte in data:
                file.write(bytes([byte]))
                file.flush()
                assert await ask(manager) == (1, 2.0)
                await asyncio.sleep(0.001)
        async with asyncio.timeout(30):
            while await ask(manager) != (1, 3.0):
                await asyncio.sleep(0.01)


async def test_a_file_with_weights_beside_it_survives_both_being_overwritten_in_place(manage, tmp_path):
    def write(folder, factor):
        folder.mkdir(exist_ok=True)
        model = onnx.load(models.scale(tmp_path / "plain.onnx", factor, columns=4096))
        weights = np.full(4096, factor, np.float32)
        model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "factor"))
        path = folder / "m.onnx"
        onnx.save(model, path, save_as_external_data=True, location="m.onnx.data", size_threshold=0)
        return path

    async def factor(manager):
        x = np.ones((1, 4096), np.float32)
        return float((await manager.find("m").predict(Request({"x": x}, 1, arrived=monotonic()))).outputs["y"].max())

    served, new = write(tmp_path / "served", 2.0), write(tmp_path / "new", 3.0)
    async with manage(served) as manager:
        assert await factor(manager) == 2.0
        (served.parent / "m.onnx.data").write_bytes(b"")
        assert await factor(manager) == 2.0
        for file in ("m.onnx.data", "m.onnx"):
            (served.parent / file).write_bytes((new.parent / file).read_bytes())
        async with asyncio.timeout(30):
            while await factor(manager) != 3.0:
                await asyncio.sleep(0.01)


async def test_a_folder_in_the_layout_of_tf_serving_and_triton(manage, root, tmp_path):
    (root / "scale" / "1").mkdir(parents=True)
    models.scale(root / "scale" / "1" / "model.onnx", 2.0)
    (root / "scale" / "config.pbtxt").write_text('name: "scale"\nplatform: "onnxruntime_onnx"\n')
    async with manage(root) as manager:  # just copied: served at once all the same
        assert await ask(manager, "scale") == (1, 2.0)
        (root / "scale" / "7").mkdir()
        models.scale(root / "scale" / "7" / "model.onnx", 3.0)
        await until(lambda: serves(manager, 7, name="scale"))
        models.scale(tmp_path / "again.onnx", 4.0).replace(root / "scale" / "7" / "model.onnx")
        async with asyncio.timeout(30):
            while await ask(manager, "scale") != (7, 4.0):
                await asyncio.sleep(0.01)
        shutil.rmtree(root / "scale" / "7")
        await until(lambda: serves(manager, 1, name="scale"))


# --- repositories in trouble --------------------------------------------------------------------


class Flaky:
    """A store that answers as told."""

    def __init__(self, inner):
        self._inner = inner
        self.error = None

    def __getattr__(self, name):
        if self.error is not None:
            raise self.error
        return getattr(self._inner, name)


@pytest.mark.parametrize("error", [NotReady("the bucket does not answer"), OSError(5, "Input/output error")], ids=repr)
async def test_an_unreadable_repository_takes_nothing_away(manage, store, register, tmp_path, error):
    register(2.0)
    flaky = Flaky(store)
    async with manage(RepositorySource(flaky, tmp_path / "cache")) as manager:
        flaky.error = error
        register(3.0)
        await turns(manager)
        assert await ask(manager) == (1, 2.0)
        assert manager.ready()
        flaky.error = None
        await until(lambda: serves(manager, 2))


async def test_one_unreadable_repository_does_not_hold_up_the_other(manage, store, register, tmp_path):
    register(2.0)
    flaky = Flaky(store)
    other = DiskStore(tmp_path / "other")
    catalog.register(other, tmp_path / "next.onnx", name="n")
    async with manage(RepositorySource(flaky, tmp_path / "cache"), tmp_path / "other") as manager:
        flaky.error = NotReady("the bucket does not answer")
        catalog.register(other, tmp_path / "next.onnx", name="n")
        await until(lambda: serves(manager, 2, name="n"))
        assert await ask(manager) == (1, 2.0)


async def test_a_folder_that_is_moved_away_for_a_moment_takes_nothing_away(manage, root, register):
    register(2.0)
    async with manage(root) as manager:
        root.rename(root.with_name("aside"))
        await turns(manager)
        assert await ask(manager) == (1, 2.0)
        root.with_name("aside").rename(root)
        loaded = manager.find("m")
        await turns(manager)
        assert manager.find("m") is loaded, "nothing was loaded again"


async def test_a_version_whose_bytes_could_not_be_reached_is_tried_again(manage, store, register, tmp_path, monkeypatch):
    monkeypatch.setattr("rung.serving.manager._FORGIVE", 0.3)
    register(2.0)
    source = RepositorySource(store, tmp_path / "cache")
    async with manage(source, policy=Policy(retries=0)) as manager:
        fetch = source.fetch
        broken = Flaky(store)
        broken.error = NotReady("the bucket does not answer")
        source.fetch = RepositorySource(broken, tmp_path / "cache").fetch
        register(3.0)
        await until(lambda: states(manager).get(2) is VersionState.END)
        assert await ask(manager) == (1, 2.0)
        source.fetch = fetch
        await until(lambda: serves(manager, 2))


# --- batches ------------------------------------------------------------------------------------


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


# --- leaving nothing behind ---------------------------------------------------------------------


SLOW = """
import os, time, pathlib
class Slow:
    inputs = {"x": ("FP32", [-1, 4])}
    outputs = {"y": ("FP32", [-1, 4])}
    def load(self):
        pathlib.Path(__file__).with_suffix(".pid").write_text(str(os.getpid()))
        time.sleep(600)
    def predict(self, x):
        return {"y": x}
"""


async def test_closing_does_not_wait_for_a_load(tmp_path, monkeypatch):
    (tmp_path / "slow_class.py").write_text(SLOW)
    monkeypatch.chdir(tmp_path)
    manager = Manager([open_source("slow_class.py:Slow", None, tmp_path)], ManagerOptions(poll_seconds=0.02))
    opening = asyncio.ensure_future(manager.open())
    pid = tmp_path / "slow_class.pid"
    await until(lambda: pid.exists() and pid.read_text())
    assert manager.problems() == ["slow: loading"]
    assert not manager.ready()
    with pytest.raises(NotReady, match="'slow' is being loaded"):
        manager.find("slow")
    opening.cancel()
    async with asyncio.timeout(5):
        await manager.close()
    # Its child goes with this process; here it would outlive the test.
    psutil.Process(int(pid.read_text())).kill()


def held():
    return threading.active_count(), len(os.listdir("/proc/self/fd"))


async def cycle(manage, store, register, count):
    process = psutil.Process()
    register(1.0)
    sizes = []
    async with manage(store.root) as manager:
        for number in range(2, count + 2):
            register(float(number))
            await until(lambda number=number: serves(manager, number))
            assert await ask(manager) == (number, float(number))
            catalog.delete(store, "m", number - 1)
            sizes.append(process.memory_info().rss)
            if number == 6:
                before = held()
        await until(lambda: len(manager.statuses()) == 1)
        await until(lambda: held()[0] <= before[0] and held()[1] <= before[1])
    return sizes


async def test_loading_and_unloading_leaves_no_thread_or_file_open(manage, store, register):
    await cycle(manage, store, register, 8)


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_memory_is_flat_over_a_hundred_cycles(manage, store, register):
    sizes = await cycle(manage, store, register, 100)
    assert sizes[-1] - sizes[20] < 8 << 20, [size >> 20 for size in sizes]

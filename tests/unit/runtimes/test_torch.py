"""PyTorch files: what is recognised, what a signature says, and that nothing in them is run."""

import io
import json
import os
import pickle
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest

from rung.catalog.artifacts import companions, recognise
from rung.domain.errors import BundleError, WorkerDied
from rung.domain.tensors import TensorSpec
from rung.ports import LoadOptions
from rung.runtimes.torch import TorchRuntime
from rung.runtimes.torch_files import check_exported
from rung.testing import models_deep as models

torch = pytest.importorskip("torch")
ROWS = np.arange(12, dtype="<f4").reshape(3, 4)


@pytest.fixture
def load():
    loaded = []

    def load(path, **options):
        model = TorchRuntime().load(path, LoadOptions(**options))
        loaded.append(model)
        return model

    yield load
    for model in loaded:
        model.close()


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return models.exported(tmp_path_factory.mktemp("exported") / "net.pt2")


class Two(torch.nn.Module):
    def forward(self, x):
        return {"sum": x.sum(1), "half": x.to(torch.bfloat16) / 2}


class Pair(torch.nn.Module):
    def forward(self, x):
        return x + 1, x[:1]


def test_names_and_shapes_of_an_exported_program(load, tmp_path):
    model = load(models.exported(tmp_path / "two.pt2", Two()))
    assert model.signature.inputs == (TensorSpec("x", "FP32", (-1, 4)),)
    assert model.signature.outputs == (TensorSpec("sum", "FP32", (-1,)), TensorSpec("half", "BF16", (-1, 4)))
    assert model.signature.batched
    answer = model.predict({"x": ROWS})
    assert answer["sum"].tolist() == [6, 22, 38]
    halves = (answer["half"].astype("<u4") << 16).view("<f4")
    assert halves.tolist() == (ROWS / 2).tolist()


def test_rows_that_are_not_kept_apart_are_no_batch(load, tmp_path):
    model = load(models.exported(tmp_path / "pair.pt2", Pair()))
    assert [spec.name for spec in model.signature.outputs] == ["output_0", "output_1"]
    assert [spec.shape for spec in model.signature.outputs] == [(-1, 4), (1, 4)]
    assert not model.signature.batched


def test_fixed_sizes_stay_fixed(load, tmp_path):
    model = load(models.exported(tmp_path / "fixed.pt2", dynamic=False))
    assert model.signature.inputs == (TensorSpec("x", "FP32", (3, 4)),)
    assert not model.signature.batched


def test_a_signature_beside_torchscript_belongs_to_the_bundle(load, tmp_path):
    path = models.torchscript(tmp_path / "net.pt", "")
    with pytest.raises(BundleError, match=r'\{"inputs": \{"x": .*net\.pt\.signature\.json'):
        load(path)
    beside = tmp_path / "net.pt.signature.json"
    beside.write_text('{"inputs": {"x": ["FP32", [-1, 4]]}}')
    assert companions(path) == {"net.pt": path, "net.pt.signature.json": beside}
    model = load(path)
    assert model.signature.outputs == (TensorSpec("output_0", "FP32", (-1, 4)),)
    assert model.signature.batched
    assert model.predict({"x": ROWS})["output_0"].tolist() == (ROWS * 2).tolist()


@pytest.mark.parametrize(
    ("signature", "words"),
    [
        ("not json", "not JSON"),
        ("[]", "has to be"),
        ("{}", r"inputs has to be a dict"),
        ('{"inputs": {"image": ["FP32", [-1, 4]]}}', r"forward takes \['x'\]"),
        ('{"inputs": {"x": ["float", [-1, 4]]}}', "there are .*FP32"),
        ('{"inputs": {"x": ["FP32", [7]]}}', 'state "outputs"'),
    ],
)
def test_a_wrong_signature_is_refused(load, tmp_path, signature, words):
    with pytest.raises(BundleError, match=words):
        load(models.torchscript(tmp_path / "net.pt", signature))


def test_what_a_file_is_taken_for(tmp_path):
    script = models.torchscript(tmp_path / "script.pt")
    exported = models.exported(tmp_path / "exported.pt2")
    for path in (script, exported):
        assert recognise(path) == ("torch", path)
    checkpoint = tmp_path / "checkpoint.pt2"
    torch.save(models.torch_module().state_dict(), checkpoint)
    with pytest.raises(BundleError, match=r"torch\.export\.save"):
        recognise(checkpoint)
    with pytest.raises(BundleError, match=r"torch\.export\.save"):
        TorchRuntime().load(checkpoint, LoadOptions())


def altered(path, folder, target, change):
    """A copy of an exported program in which one entry is changed, or added."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(entries)).partition("/")[0]
    entries[f"{root}/{target}"] = change(entries.get(f"{root}/{target}", b""))
    bad = folder / f"bad-{path.name}"
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return bad


class Touches:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def in_program(find, replace):
    return lambda data: data.replace(find.encode(), replace.encode())


SIZE = "Symbol('s77', positive=True, integer=True)"
EVIL = "__import__('os').mkdir('MARK')"


@pytest.mark.parametrize(
    ("find", "replace", "words"),
    [
        (SIZE, EVIL, "where a size is expected"),
        (SIZE, "(lambda: 1)()", "where a size is expected"),
        (SIZE, "Symbol('s77').__class__", "where a size is expected"),
        (SIZE, "exec('1')", "where a size is expected"),
        (SIZE, "Symbol('a b')", "where a size is expected"),
        ("torch.ops.aten.mul.Tensor", "torch.os.system", "lets a model call"),
        ("torch.ops.aten.mul.Tensor", "torch.ops.load_library", "lets a model call"),
        ("torch.ops.aten.mul.Tensor", "torch.ops.aten.from_file.default", "lets a model call"),
        ("torch.ops.aten.mul.Tensor", "torch.ops.aten.__class__.mro", "lets a model call"),
        ("torch.ops.aten.mul.Tensor", "_operator.attrgetter", "lets a model call"),
        ('"guards_code": []', f'"guards_code": ["{EVIL}"]', "where a size is expected"),
        ("builtins.dict", "collections.defaultdict default_factory", "defaultdict"),
    ],
)
def test_code_in_an_exported_program_is_found(net, tmp_path, find, replace, words):
    with zipfile.ZipFile(net) as archive:
        name = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        assert find in archive.read(name).decode()
    reader = torch._C.PyTorchFileReader(str(altered(net, tmp_path, "models/model.json", in_program(find, replace))))
    with pytest.raises(BundleError, match=words):
        check_exported(reader.get_all_records(), reader.get_record)


def test_code_in_an_exported_program_is_not_run(load, net, tmp_path):
    evil = EVIL.replace("MARK", str(tmp_path / "mark"))
    with pytest.raises(BundleError, match="where a size is expected"):
        load(altered(net, tmp_path, "models/model.json", in_program(SIZE, evil)))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("place", ["data/sample_inputs/model.pt", "data/weights/model.pt", "data/constants/model.pt"])
def test_pickles_inside_an_exported_program_are_not_opened(load, net, tmp_path, place):
    buffer = io.BytesIO()
    torch.save(Touches(tmp_path / "mark"), buffer)
    with pytest.raises(BundleError):
        load(altered(net, tmp_path, place, lambda _: buffer.getvalue()))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("kind", ["opaque_obj_0", "custom_obj_0"])
def test_objects_inside_an_exported_program_are_refused(kind):
    entry = {"path_name": kind, "is_param": False, "use_pickle": True, "tensor_meta": None}
    config = json.dumps({"config": {"x": entry}}).encode()
    names = ["models/model.json", "data/constants/model_constants_config.json"]
    for hostile in (names, [*names, f"data/constants/{kind}"]):
        with pytest.raises(BundleError, match="pickled object"):
            check_exported(hostile, lambda name: config if "config" in name else b"{}")


def test_machine_code_is_refused():
    names = ["models/model.json", "data/aotinductor/model/model.so"]
    with pytest.raises(BundleError, match="machine code"):
        check_exported(names, lambda _: b"{}")


def test_pickles_inside_torchscript_are_not_run(load, tmp_path):
    path = models.torchscript(tmp_path / "net.pt")
    for place in ("data.pkl", "constants.pkl"):
        with pytest.raises(BundleError):
            load(altered(path, tmp_path, place, lambda _: pickle.dumps(Touches(tmp_path / "mark"))))
        assert not (tmp_path / "mark").exists()


class Saver(torch.nn.Module):
    def forward(self, x):
        return torch.from_file("/etc/passwd", False, 16, dtype=torch.uint8)


def test_torchscript_that_reads_files_is_refused(load, tmp_path):
    path = tmp_path / "reader.pt"
    with pytest.warns(DeprecationWarning, match="jit"):
        torch.jit.script(Saver()).save(str(path))
    with pytest.raises(BundleError, match="reads or writes files"):
        load(path)


def test_the_process_knows_no_secrets_and_comes_back(load, net, monkeypatch):
    monkeypatch.setenv("RUNG_TEST_SECRET", "hush")
    before = children()
    model = load(net)
    (child,) = children() - before
    assert "hush" not in Path("/proc", str(child), "environ").read_text()
    os.kill(child, 9)
    with pytest.raises(WorkerDied, match="SIGKILL"):
        model.predict({"x": ROWS})
    assert model.predict({"x": ROWS})["output_0"].tolist() == (ROWS * 2).tolist()


def children():
    main = Path("/proc/self/task", str(threading.main_thread().native_id), "children").read_text()
    return {int(child) for child in main.split()}

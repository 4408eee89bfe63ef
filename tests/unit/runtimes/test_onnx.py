"""ONNX models beyond the conformance suite: signatures, refusals, external files, memory."""

import gc
import os
import threading
import zlib

import numpy as np
import onnx
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from rung.domain.errors import BundleError, InvalidInput, ModelError
from rung.domain.tensors import DATATYPES, Signature, TensorSpec
from rung.ports import LoadOptions
from rung.runtimes.onnx import OnnxRuntime
from rung.runtimes.onnx_files import external_files, looks_like_onnx
from rung.testing import models

RUNTIME = OnnxRuntime()
OPTIONS = LoadOptions()


def tensor(name, element, shape):
    return helper.make_tensor_value_info(name, element, shape)


def save(path, nodes, inputs, outputs, *, weights=(), opset=17, ir=8, domains=()):
    graph = helper.make_graph(nodes, "graph", inputs, outputs, list(weights))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir)
    path.write_bytes(model.SerializeToString())
    return path


def save_relu(path, shape, out=None, **options):
    ports = [tensor("x", 1, shape)], [tensor("y", 1, shape if out is None else out)]
    return save(path, [helper.make_node("Relu", ["x"], ["y"])], *ports, **options)


def test_the_signature_comes_from_the_graph(tmp_path):
    model = RUNTIME.load(models.add_sub(tmp_path / "m.onnx"), OPTIONS)
    ports = [TensorSpec(name, "INT32", (-1, 16)) for name in ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")]
    assert model.signature == Signature(tuple(ports[:2]), tuple(ports[2:]), batched=True)
    assert model.platform == "onnxruntime_onnx"


@pytest.mark.parametrize("datatype", sorted(set(DATATYPES) - {"BF16"}))
def test_every_datatype(tmp_path, datatype):
    model = RUNTIME.load(models.identity(tmp_path / "m.onnx", datatype, (-1, 2)), OPTIONS)
    assert model.signature.inputs == (TensorSpec("x", datatype, (-1, 2)),)
    values = [[b"1", b"0"]] if datatype == "BYTES" else [[1, 0]]
    x = np.array(values, DATATYPES[datatype])
    y = model.predict({"x": x})["y"]
    assert y.dtype == x.dtype
    assert y.tolist() == x.tolist()


@pytest.mark.parametrize(
    ("shape", "out", "batched"),
    [
        (["N", 4], ["N", 4], True),
        ([None, 4], ["N", 4], True),
        ([None, 4], [None, 4], True),
        (["N", 4], ["M", 4], False),
        ([2, 4], [2, 4], False),
        (["N", 4], [2, 4], False),
        ([], [], False),
        (["N", "H", "W"], ["N", "H", "W"], True),
    ],
)
def test_a_model_is_batched_when_every_first_size_is_the_same_variable(tmp_path, shape, out, batched):
    signature = RUNTIME.load(save_relu(tmp_path / "m.onnx", shape, out), OPTIONS).signature
    assert signature.batched is batched
    assert signature.inputs[0].shape == tuple(size if isinstance(size, int) else -1 for size in shape)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"opset": 999}, "(?i)opset"),
        ({"ir": 99}, "IR version"),
    ],
)
def test_a_model_from_the_future_is_refused(tmp_path, options, words):
    with pytest.raises(BundleError, match=words):
        RUNTIME.load(save_relu(tmp_path / "m.onnx", ["N"], **options), OPTIONS)


def test_operators_that_nobody_registered_are_refused(tmp_path):
    node = helper.make_node("Steal", ["x"], ["y"], domain="evil.example")
    path = save(tmp_path / "m.onnx", [node], [tensor("x", 1, ["N"])], [tensor("y", 1, ["N"])], domains=["evil.example"])
    with pytest.raises(BundleError, match="Steal"):
        RUNTIME.load(path, OPTIONS)


def test_shapes_that_do_not_fit_are_refused(tmp_path):
    node = helper.make_node("MatMul", ["x", "x"], ["y"])
    path = save(tmp_path / "m.onnx", [node], [tensor("x", 1, [2, 3])], [tensor("y", 1, [2, 3])])
    with pytest.raises(BundleError, match="Incompatible dimensions"):
        RUNTIME.load(path, OPTIONS)


def test_a_classifier_with_zipmap_is_refused_with_the_way_out(tmp_path):
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    kind = helper.make_sequence_type_proto(helper.make_map_type_proto(7, helper.make_tensor_type_proto(1, [])))
    ports = [tensor("x", 1, ["N", 2])], [helper.make_value_info("y", kind)]
    with pytest.raises(BundleError, match=r"'y' is seq.*zipmap"):
        RUNTIME.load(save(tmp_path / "m.onnx", [node], *ports, domains=["ai.onnx.ml"]), OPTIONS)


def test_bfloat16_is_refused_with_the_way_out(tmp_path):
    ports = [tensor("x", 16, ["N"])], [tensor("y", 16, ["N"])]
    with pytest.raises(BundleError, match="float32 or float16"):
        RUNTIME.load(save(tmp_path / "m.onnx", [helper.make_node("Identity", ["x"], ["y"])], *ports), OPTIONS)


def test_an_error_is_one_sentence_and_is_not_printed(tmp_path, capfd):
    model = RUNTIME.load(models.poison(tmp_path / "m.onnx"), OPTIONS)
    with pytest.raises(ModelError) as raised:
        model.predict({"x": np.full((1, 4), 2e30, "<f4")})
    assert str(raised.value).startswith("onnxruntime failed: indices element out of data bounds")
    assert capfd.readouterr() == ("", "")


def test_text_that_is_not_utf8_is_the_callers_fault(tmp_path):
    model = RUNTIME.load(models.string_identity(tmp_path / "m.onnx"), OPTIONS)
    with pytest.raises(InvalidInput, match="UTF-8") as raised:
        model.predict({"INPUT0": np.array([[b"\xff"]], object)})
    assert raised.value.field == "INPUT0"
    assert model.predict({"INPUT0": np.empty((0, 3), object)})["OUTPUT0"].shape == (0, 3)


def test_nan_is_an_answer_for_others_to_judge(tmp_path):
    model = RUNTIME.load(models.nan_maker(tmp_path / "m.onnx"), OPTIONS)
    assert np.isnan(model.predict({"x": np.ones((2, 4), "<f4")})["y"]).all()


def test_wide_and_narrow_calls_at_once(tmp_path):
    model = RUNTIME.load(models.segmentation(tmp_path / "m.onnx", 32, 4), LoadOptions(threads=2))
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype("<f4")
    expected = model.predict({"x": x})["y"]
    wrong = []

    def call(threads):
        answers = [model.predict({"x": x}, threads)["y"] for _ in range(10)]
        wrong.extend(threads for answer in answers if not np.allclose(answer, expected, atol=1e-5))

    callers = [threading.Thread(target=call, args=(threads,)) for threads in (1, 2, 2, 1)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_a_folder_with_a_model_and_its_weights(tmp_path):
    model = models.tiny(tmp_path / "whole.onnx")
    folder = tmp_path / "model"
    folder.mkdir()
    loaded = onnx.load(model)
    onnx.save(loaded, folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert RUNTIME.recognises(folder)
    assert external_files(folder / "model.onnx") == [folder.resolve() / "weights.bin"]
    x = {"x": np.ones((1, 16), "<f4")}
    answers = [RUNTIME.load(path, OPTIONS).predict(x)["y"].tolist() for path in (model, folder)]
    assert answers[0] == answers[1]


def save_external(path, location, place):
    weight = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    ports = [tensor("x", 1, [4])], [tensor("y", 1, [4])]
    add = helper.make_node("Add", ["x", "w"], ["y"])
    if place == "initializer":
        return save(path, [add], *ports, weights=[weight])
    constant = helper.make_node("Constant", [], ["w"])
    constant.attribute.add(name="value", type=4).t.CopyFrom(weight)
    if place == "constant":
        return save(path, [constant, add], *ports)
    # A branch of an If: a graph within a node.
    branch = helper.make_graph([constant], "branch", [], [tensor("w", 1, [4])])
    choose = helper.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch)
    truth = helper.make_tensor("c", TensorProto.BOOL, [], [True])
    return save(path, [choose, add], *ports, weights=[truth])


@pytest.mark.parametrize("place", ["initializer", "constant", "branch"])
@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("SECRET", "not a path inside"),
        ("../secret.bin", "not a path inside"),
        ("./x/../../secret.bin", "not a path inside"),
        ("..\\secret.bin", "not a path inside"),
        ("", "not a path inside"),
        ("symbolic.bin", "symbolic link"),
        ("linked/secret.bin", "symbolic link"),
        ("hard.bin", "hard link"),
        ("absent.bin", "not there"),
        (".", "not there"),
    ],
)
def test_files_outside_the_models_folder_are_never_read(tmp_path, place, location, words):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(4, dtype="<f4").tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "symbolic.bin").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    os.link(secret, folder / "hard.bin")
    path = save_external(folder / "m.onnx", location.replace("SECRET", str(secret)), place)
    with pytest.raises(BundleError, match=words):
        RUNTIME.load(path, OPTIONS)


@pytest.mark.parametrize("place", ["initializer", "constant"])
def test_files_inside_the_models_folder_are_read(tmp_path, place):
    (tmp_path / "w.bin").write_bytes(np.arange(4, dtype="<f4").tobytes())
    model = RUNTIME.load(save_external(tmp_path / "m.onnx", "w.bin", place), OPTIONS)
    assert model.predict({"x": np.zeros(4, "<f4")})["y"].tolist() == [0, 1, 2, 3]


def test_a_file_without_a_suffix_is_recognised_by_its_bytes(tmp_path):
    path = models.tiny(tmp_path / "artifact")
    assert RUNTIME.recognises(path)
    path.write_bytes(path.read_bytes()[:-1])
    assert not RUNTIME.recognises(path)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_answered_without_a_crash(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("bytes") / "artifact"
    path.write_bytes(data + b"location")
    assert looks_like_onnx(path) in {True, False}
    try:
        external_files(path)
    except BundleError as error:
        assert "artifact" in str(error)  # noqa: PT017 - either way is right


def test_every_cut_of_a_model_is_refused_or_still_whole(tmp_path):
    whole = models.tiny(tmp_path / "whole.onnx").read_bytes()
    for size in range(0, len(whole), 97):
        path = tmp_path / f"{zlib.crc32(whole[:size])}.onnx"
        path.write_bytes(whole[:size])
        with pytest.raises(BundleError, match="onnx"):
            RUNTIME.load(path, OPTIONS)


def test_memory_is_flat_over_100_loads(tmp_path):
    path = models.segmentation(tmp_path / "m.onnx", 64, 16)
    x = {"x": np.ones((1, 3, 64, 64), "<f4")}

    def cycle():
        model = RUNTIME.load(path, LoadOptions(threads=2))
        model.predict(x)
        model.predict(x, 2)
        model.close()

    def resident():
        gc.collect()
        return psutil.Process().memory_info().rss

    for _ in range(10):
        cycle()
    before = resident()
    for _ in range(100):
        cycle()
    assert resident() - before < 8 << 20

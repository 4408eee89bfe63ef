"""Channels go for real: shapes shrink, answers stay near; what has to stay whole stays, and why is said."""

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from rung.domain.errors import ConfigurationError
from rung.testing.models import half_plus_two, segmentation
from rung.training.compress.channels import chain_of, layers
from rung.training.compress.freeze import freeze
from rung.training.compress.graph import Weights, outputs_of, read
from rung.training.compress.prune import prune, sparsify

WIDTH = 384


def test_matrices_shrink_and_the_metric_holds(digits):
    frozen = freeze(digits.model)
    pruned = prune(frozen, 0.5, digits.rows)

    half = WIDTH // 2
    assert shapes(frozen) == [(64, WIDTH), (WIDTH,), (WIDTH, WIDTH), (1, WIDTH), (10, WIDTH), (10,)]
    assert shapes(pruned.model) == [(64, half), (half,), (half, half), (1, half), (10, half), (10,)]
    assert pruned.removed == WIDTH
    assert len(pruned.model.SerializeToString()) < 0.45 * len(frozen.SerializeToString())
    assert digits.right(pruned.model) >= digits.right(digits.model) - 0.02
    onnx.checker.check_model(pruned.model)


def test_batch_normalisation_between_layers_is_cut_too(digits):
    pruned = prune(digits.model, 0.25, digits.rows)
    weights = Weights(pruned.model)
    assert {weights[name].shape for name in ("b0", "scale", "shift", "mean", "var")} == {(WIDTH * 3 // 4,)}
    assert any("Mul joins them" in note for note in pruned.notes), "one is no constant before it is folded"
    assert digits.right(pruned.model) >= digits.right(digits.model) - 0.02


def test_the_others_take_over_what_was_removed(digits):
    frozen = freeze(digits.model)
    with_rows, without = prune(frozen, 0.9, digits.rows), prune(frozen, 0.9, ())
    assert digits.right(with_rows.model) > digits.right(without.model) + 0.1


def test_a_channel_that_says_nothing_new_is_removed_without_a_trace():
    # Channel 2 is always twice channel 0: it goes, and nothing changes.
    rng = np.random.default_rng(0)
    first = rng.normal(size=(3, 8)).astype(np.float32)
    first[:, 2] = 2 * first[:, 0]
    model = _chain(first, rng.normal(size=(8, 2)).astype(np.float32))
    rows = [{"x": rng.normal(size=(64, 3)).astype(np.float32)}]
    pruned = prune(model, 0.1, rows)
    assert pruned.removed == 1
    before, after = outputs_of(model, rows)["y"][0], outputs_of(pruned.model, rows)["y"][0]
    np.testing.assert_allclose(before, after, atol=5e-3)


@given(share=st.floats(0.05, 0.95), seed=st.integers(0, 5))
@settings(max_examples=15)
def test_any_share_gives_a_graph_that_runs(share, seed):
    rng = np.random.default_rng(seed)
    model = _chain(rng.normal(size=(3, 12)).astype(np.float32), rng.normal(size=(12, 2)).astype(np.float32))
    rows = [{"x": rng.normal(size=(40, 3)).astype(np.float32)}]
    try:
        pruned = prune(model, share, rows)
    except ConfigurationError:
        assert round(12 * (1 - share)) == 12
        return
    kept = Weights(pruned.model)["w"].shape[1]
    assert kept == max(4, round(12 * (1 - share)))
    assert np.isfinite(outputs_of(pruned.model, rows)["y"][0]).all()


def test_convolutions_shrink_through_pools_and_concatenations(tmp_path):
    model = read(segmentation(tmp_path / "model.onnx", 32, 8))
    rng = np.random.default_rng(0)
    rows = [{"x": rng.random((1, 3, 32, 32), np.float32)} for _ in range(4)]

    pruned = prune(model, 0.5, rows)

    assert pruned.removed == sum(Weights(model)[node.input[1]].shape[0] for node in _convolutions(model)[:-1]) // 2
    assert [note for note in pruned.notes if "stays whole" in note] == [
        f"{layers(model)[-1]} stays whole: they are answered to the caller"
    ]
    before, after = (np.array(outputs_of(one, rows)["y"]) for one in (model, pruned.model))
    guessed = np.array(outputs_of(prune(model, 0.5, ()).model, rows)["y"])
    assert np.abs(after - before).mean() < np.abs(guessed - before).mean()


def test_flattened_pictures_lose_whole_blocks():
    rng = np.random.default_rng(0)
    model = _convolution("Reshape", rng)
    rows = [{"x": rng.random((4, 2, 6, 6), np.float32)}]
    pruned = prune(model, 0.5, rows)
    assert Weights(pruned.model)["k"].shape == (4, 2, 3, 3)
    assert Weights(pruned.model)["w"].shape == (4 * 16, 3)
    # What is left is what the graph says without the removed channels' weights, were they taken over by nobody.
    assert outputs_of(pruned.model, rows)["y"][0].shape == (4, 3)


@pytest.mark.parametrize(
    ("kind", "why"),
    [("residual", "joins them"), ("group", "depends on all of them"), ("answered", "answered to the caller")],
)
def test_what_ties_channels_together_keeps_a_layer_whole(kind, why):
    model = _convolution(kind, np.random.default_rng(0))
    found = chain_of(model, "c")
    assert isinstance(found, str)
    assert why in found
    with pytest.raises(ConfigurationError, match="nothing can be pruned"):
        prune(model, 0.5, ())


def test_a_graph_without_layers_is_refused(tmp_path):
    model = read(half_plus_two(tmp_path / "model.onnx"))
    with pytest.raises(ConfigurationError, match="no layers"):
        prune(model, 0.5, ())
    with pytest.raises(ConfigurationError, match="no layers"):
        sparsify(model, 0.5)


def test_sparse_weights_are_zero_and_the_file_is_as_large(digits):
    sparse, share = sparsify(digits.model, 0.6)
    assert share == pytest.approx(0.6, abs=0.001)
    weights = Weights(sparse)
    assert (weights["w1"] == 0).mean() == pytest.approx(0.6, abs=0.001)
    assert len(sparse.SerializeToString()) == len(digits.model.SerializeToString())


def shapes(model: Any) -> list[tuple[int, ...]]:
    weights = Weights(model)
    return [weights[name].shape for node in model.graph.node if node.op_type == "Gemm" for name in node.input[1:]]


def _chain(first: Any, second: Any) -> Any:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("LeakyRelu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "v", "b"], ["y"]),
    ]
    return _model(nodes, {"w": first, "v": second, "b": np.ones(2)}, ["n", 3], ["n", 2])


def _convolution(kind: str, rng: Any) -> Any:
    constants = {"k": rng.normal(size=(8, 2, 3, 3)), "w": rng.normal(size=(8 * 16, 3))}
    nodes = [helper.make_node("Conv", ["x", "k"], ["c"])]
    if kind == "residual":
        constants["k2"] = rng.normal(size=(8, 2, 3, 3))
        nodes += [helper.make_node("Conv", ["x", "k2"], ["d"]), helper.make_node("Add", ["c", "d"], ["a"])]
    elif kind == "group":
        constants |= {"s": np.ones(8), "o": np.zeros(8)}
        nodes.append(helper.make_node("InstanceNormalization", ["c", "s", "o"], ["a"]))
    else:
        nodes.append(helper.make_node("Relu", ["c"], ["a"]))
    if kind == "answered":
        nodes[-1] = helper.make_node("Identity", ["c"], ["y"])
        return _model(nodes, {"k": constants["k"]}, ["n", 2, 6, 6], ["n", 8, 4, 4])
    nodes.append(helper.make_node("Reshape", ["a", "flat"], ["f"]))
    nodes.append(helper.make_node("MatMul", ["f", "w"], ["y"]))
    return _model(nodes, constants, ["n", 2, 6, 6], ["n", 3], flat=np.array([-1, 128], np.int64))


def _model(nodes: Any, constants: Any, takes: Any, gives: Any, **exact: Any) -> Any:
    tensors = [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in constants.items()]
    tensors += [numpy_helper.from_array(array, name) for name, array in exact.items()]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, takes)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, gives)],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _convolutions(model: Any) -> list[Any]:
    return [node for node in model.graph.node if node.op_type == "Conv"]

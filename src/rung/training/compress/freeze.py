"""A trained graph made ready to be run and nothing else: constants worked out, what only training needs taken out.

onnxruntime's own optimiser does it, at the level whose results any other runtime of ONNX reads as well: dropout and
identities go, batch normalisation is folded into the weights before it, constant branches become constants. The levels
above make nodes that only onnxruntime has, for the processor that it runs on; a replica does that when it loads.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rung.domain.errors import BundleError
from rung.training.compress.graph import Weights

__all__ = ["freeze"]

_NO_MESSAGES = 4


def freeze(model: Any) -> Any:
    """The graph, folded. Its answers are those of `model` but for rounding.

    Raises:
        BundleError: onnxruntime cannot load it.
    """
    import onnx
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = _NO_MESSAGES
    with tempfile.TemporaryDirectory(prefix="rung-freeze-") as folder:
        path = Path(folder, "model.onnx")
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise BundleError(f"the graph cannot be frozen: {error}") from error
        frozen = onnx.load(str(path))
    # Shapes as they were before folding: other tools trust them and stumble.
    del frozen.graph.value_info[:]
    _fold_normalisation(frozen)
    _keep_used_opsets(frozen)
    _drop_unused(frozen)
    return frozen


def _fold_normalisation(model: Any) -> None:
    """Put batch normalisation into the weights of the Gemm before it, as onnxruntime does for convolutions alone."""
    weights = Weights(model)
    uses = Counter(name for node in _all_nodes(model.graph) for name in node.input)
    uses.update(output.name for output in model.graph.output)
    makers = {node.output[0]: node for node in model.graph.node}
    for node in [one for one in model.graph.node if one.op_type == "BatchNormalization"]:
        before, attributes = makers.get(node.input[0]), {one.name: one for one in node.attribute}
        constants = [*node.input[1:5], *(before.input[1:3] if before is not None else ())]
        if (
            before is None
            or before.op_type != "Gemm"
            or len(before.input) < 3
            or uses[node.input[0]] != 1
            or any(name not in weights or uses[name] != 1 for name in constants)
            or any(one.name in ("alpha", "beta") and one.f != 1 for one in before.attribute)
            or ("training_mode" in attributes and attributes["training_mode"].i)
        ):
            continue
        scale, shift, mean, variance = (weights[name].astype(np.float64) for name in node.input[1:5])
        factor = scale / np.sqrt(variance + (attributes["epsilon"].f if "epsilon" in attributes else 1e-5))
        across = any(one.name == "transB" and one.i for one in before.attribute)
        matrix, bias = weights[before.input[1]], weights[before.input[2]]
        if bias.shape[-1] != len(factor):
            continue
        weights[before.input[1]] = matrix * (factor[:, None] if across else factor)
        weights[before.input[2]] = (bias - mean) * factor + shift
        before.output[0] = node.output[0]
        model.graph.node.remove(node)


def _keep_used_opsets(model: Any) -> None:
    """Only the operator sets that a node is of: another runtime may not know the others."""
    used = {node.domain for node in _all_nodes(model.graph)} | {""}
    used |= {node.domain for function in model.functions for node in function.node}
    kept = [one for one in model.opset_import if (one.domain if one.domain != "ai.onnx" else "") in used]
    imports = [(one.domain, one.version) for one in kept]
    del model.opset_import[:]
    for domain, version in imports:
        entry = model.opset_import.add()
        entry.domain, entry.version = domain, version


def _drop_unused(model: Any) -> None:
    used = {name for node in _all_nodes(model.graph) for name in node.input}
    used |= {output.name for output in model.graph.output}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    if len(kept) < len(model.graph.initializer):
        import onnx

        copies = []
        for tensor in kept:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            copies.append(copy)
        del model.graph.initializer[:]
        model.graph.initializer.extend(copies)


def _all_nodes(graph: Any) -> Any:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)
            for inner in attribute.graphs:
                yield from _all_nodes(inner)

"""A trained graph made ready to be run and nothing else: constants worked out, what only training needs taken out.

onnxruntime's own optimiser does it, at the level whose results any other runtime of ONNX reads as well: dropout and
identities go, batch normalisation is folded into the weights before it, constant branches become constants. The levels
above make nodes that only onnxruntime has, for the processor that it runs on; a replica does that when it loads.
"""

import tempfile
from pathlib import Path
from typing import Any

from rung.domain.errors import BundleError

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
    _keep_used_opsets(frozen)
    _drop_unused(frozen)
    return frozen


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

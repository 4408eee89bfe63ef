"""An ONNX graph in memory: read, written as one file, run, counted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rung.domain.errors import BundleError, ConfigurationError, MissingDependency
from rung.domain.tensors import Array, Tensors
from rung.runtimes.onnx_files import external_files

__all__ = ["Weights", "nodes_of", "outputs_of", "read", "save", "session"]

_LIMIT = 2 << 30
"""Bytes that one protobuf may have; what is larger keeps its weights in files beside it."""
_NO_MESSAGES = 4


def read(artifact: Path) -> Any:
    """The `ModelProto` of a file, or of the `model.onnx` of a folder, with all weights in it.

    Raises:
        MissingDependency: the package onnx is not installed.
        ConfigurationError: it is larger than one file can be.
        BundleError: it reaches for files outside its folder.
    """
    try:
        import onnx
    except ImportError:
        raise MissingDependency("compressing takes the package onnx: pip install 'rung[train]'") from None
    path = artifact / "model.onnx" if artifact.is_dir() else artifact
    beside = external_files(path)
    if sum(file.stat().st_size for file in (path, *beside)) >= _LIMIT:
        raise ConfigurationError(f"{path.name} has 2 GiB or more: that is too large to compress here")
    model = onnx.load(str(path))
    # What a training framework wrote for itself: shapes that will be stale, and notes on its sources.
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
    return model


def save(model: Any, path: Path) -> int:
    """Write it as one file; its bytes."""
    return path.write_bytes(model.SerializeToString())


def nodes_of(model: Any) -> int:
    """How many nodes the graph has."""
    return len(model.graph.node)


def session(model: Any, *, threads: int = 1) -> Any:
    """A session of onnxruntime, set up as a replica sets up its own.

    Raises:
        BundleError: it cannot load the graph.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _NO_MESSAGES
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    data = model if isinstance(model, bytes) else model.SerializeToString()
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise BundleError(f"onnxruntime cannot load the graph: {error}") from error


def outputs_of(model: Any, rows: Sequence[Tensors], names: Sequence[str] = ()) -> dict[str, list[Array]]:
    """What the graph, or the tensors of these names within it, give for each batch of rows."""
    import onnx

    if names:
        shown = onnx.ModelProto()
        shown.CopyFrom(model)
        del shown.graph.output[:]
        shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        model = shown
    opened = session(model)
    wanted = [output.name for output in opened.get_outputs()]
    found: dict[str, list[Array]] = {name: [] for name in wanted}
    for batch in rows:
        for name, array in zip(wanted, opened.run(wanted, dict(batch)), strict=True):
            found[name].append(array)
    return found


class Weights:
    """The constants of a graph by name, as arrays; what is set is written back."""

    def __init__(self, model: Any) -> None:
        from onnx import numpy_helper

        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                value = next((one for one in node.attribute if one.name == "value"), None)
                if value is not None:
                    self._tensors[node.output[0]] = value.t
        self._to_array = numpy_helper.to_array
        self._from_array = numpy_helper.from_array

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Array:
        return np.asarray(self._to_array(self._tensors[name]))

    def __setitem__(self, name: str, array: Array) -> None:
        tensor = self._tensors[name]
        written = self._from_array(np.ascontiguousarray(array.astype(self[name].dtype)), tensor.name)
        tensor.CopyFrom(written)

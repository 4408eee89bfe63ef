"""The process in which TensorFlow runs a SavedModel."""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rung.domain.errors import BundleError
from rung.domain.tensors import Array, Signature, Tensors, TensorSpec
from rung.processes import attach
from rung.runtimes.isolated_child import Declared, Predict, answer, check_fits, sandbox, summary

__all__ = ["main"]

_CHOICE = "signature.json"
_DEFAULT = "serving_default"
_INTERNAL = "__saved_model_init_op"
_NAMES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8",
    "int16": "INT16", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
    "bfloat16": "BF16", "string": "BYTES",
}  # fmt: skip
_FORBIDDEN = frozenset({
    "ReadFile", "WriteFile", "MatchingFiles", "PyFunc", "PyFuncStateless", "EagerPyFunc", "WholeFileReader",
    "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2", "FixedLengthRecordReader", "FixedLengthRecordReaderV2",
    "TextLineDataset", "FixedLengthRecordDataset", "FixedLengthRecordDatasetV2", "TFRecordReader", "TFRecordReaderV2",
    "TFRecordDataset", "TFRecordDatasetV2", "DebugIdentity", "DebugIdentityV2", "DebugIdentityV3", "PrintV2",
})  # fmt: skip
"""Operators that reach beyond the tensors: files, Python, the log."""


def main() -> None:
    """Run `python -m rung.runtimes.tensorflow_child FOLDER THREADS`."""
    channel = attach()
    sandbox()
    folder, threads = sys.argv[1:]
    answer(channel, lambda: _load(Path(folder), int(threads)), summary)


def _load(folder: Path, threads: int) -> tuple[Declared, Predict]:
    tf = _import()
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    try:
        _check_operators(folder)
        loaded = tf.saved_model.load(str(folder))
    except BundleError:
        raise
    except Exception as error:
        raise BundleError(_sentence(error)) from error
    function = _chosen(folder, {name: f for name, f in loaded.signatures.items() if name != _INTERNAL})
    inputs = tuple(_spec(name, spec) for name, spec in sorted(function.structured_input_signature[1].items()))
    outputs = tuple(_spec(name, spec) for name, spec in sorted(function.structured_outputs.items()))
    if not inputs or not outputs:
        raise BundleError("its signature takes or gives no tensors, so it cannot be served")
    signature = Signature(inputs, outputs, batched=all(spec.shape[:1] == (-1,) for spec in inputs + outputs))

    def predict(given: Tensors, _threads: int) -> Tensors:
        # Not a closure over `function` alone: the variables live as long as `loaded` does.
        assert loaded is not None
        tensors = {spec.name: _tensor(tf, given[spec.name], spec.datatype) for spec in inputs}
        named = {name: _array(value) for name, value in function(**tensors).items()}
        return check_fits(named, signature, given)

    return Declared(signature), predict


def _import() -> Any:
    """TensorFlow, without what it and its libraries write when they start."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import tensorflow as tf
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
    return tf


def _check_operators(folder: Path) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    file = folder / "saved_model.pb"
    if not file.is_file():
        raise BundleError("its graph is written as text: save it again, as saved_model.pb")
    saved = saved_model_pb2.SavedModel()
    saved.ParseFromString(file.read_bytes())
    for graph in saved.meta_graphs:
        functions = [function.node_def for function in graph.graph_def.library.function]
        for nodes in (graph.graph_def.node, *functions):
            for node in nodes:
                if node.op in _FORBIDDEN:
                    raise BundleError(f"it uses the operator {node.op}, which reaches beyond its tensors: remove it")


def _chosen(folder: Path, signatures: Mapping[str, Any]) -> Any:
    names = sorted(signatures)
    if not names:
        raise BundleError("it has no signatures: save it with tf.saved_model.save(model, folder, signatures=...)")
    file = folder / _CHOICE
    if file.is_file():
        try:
            wanted = json.loads(file.read_bytes())["signature"]
        except (ValueError, TypeError, KeyError):
            raise BundleError(f'{_CHOICE} has to be {{"signature": "{names[0]}"}}') from None
        if wanted not in signatures:
            raise BundleError(f"{_CHOICE} chooses the signature {wanted!r}; there are {names}")
        return signatures[wanted]
    if _DEFAULT in signatures or len(names) == 1:
        return signatures.get(_DEFAULT) or signatures[names[0]]
    raise BundleError(
        f"it has the signatures {names} and none is {_DEFAULT}: choose one by a file {_CHOICE} in its folder that says "
        f'{{"signature": "{names[0]}"}}'
    )


def _spec(name: str, spec: Any) -> TensorSpec:
    if spec.dtype.name not in _NAMES:
        raise BundleError(f"{name!r} is a tensor of {spec.dtype.name}, which cannot be served; cast it to float32")
    datatype = _NAMES[spec.dtype.name]
    if spec.shape.rank is None:
        # What parses serialized examples states no shape and means one text per row.
        if datatype != "BYTES":
            raise BundleError(f"{name!r} has no shape: give it one with tf.TensorSpec or tf.ensure_shape")
        return TensorSpec(name, datatype, (-1,))
    return TensorSpec(name, datatype, tuple(-1 if size is None else int(size) for size in spec.shape.as_list()))


def _tensor(tf: Any, array: Array, datatype: str) -> Any:
    if datatype == "BF16":
        # numpy has no bfloat16: the bits travel as integers.
        return tf.bitcast(tf.constant(array), tf.bfloat16)
    return tf.constant(array)


def _array(value: Any) -> Array:
    array: Array = value.numpy()
    if value.dtype.name == "bfloat16":
        return array.view("<u2")
    if value.dtype.name == "string":
        import numpy as np

        # A scalar comes as `bytes`.
        return np.asarray(array, object)
    return array


def _sentence(error: Exception) -> str:
    said = str(error)
    custom = re.search(r"Op type not registered '([^']+)'", said)
    if custom:
        return f"it uses the operator {custom[1]}, which TensorFlow does not have: custom operators cannot be served"
    if "variables" in said and ("NotFound" in type(error).__name__ or "No such file" in said):
        return f"its variables are missing or damaged: copy the folder variables/ again ({summary(error)[:200]})"
    return summary(error)


if __name__ == "__main__":
    main()

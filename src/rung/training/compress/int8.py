"""Weights of one byte, by onnxruntime's quantisation.

`static` also has activations of one byte, whose ranges are read off rows of the training split, written as pairs of
QuantizeLinear and DequantizeLinear that other runtimes read as well. `dynamic` finds the range of the activations at
each call: it needs no rows, but takes the range over all rows of the call, so that the answer of a row moves with
those that share its batch. The report says by how much.

Weights take 7 of the 8 bits. On processors without VNNI, sums of 8-bit products would run over, and a version would
answer differently there than on the machine that judged it.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from rung.domain.errors import BundleError, ConfigurationError
from rung.domain.tensors import Tensors
from rung.training.compress.graph import session

__all__ = ["MODES", "Mode", "batch_effect", "quantise"]

Mode = Literal["dynamic", "static"]
MODES: tuple[Mode, ...] = get_args(Mode)

_LEAST_OPSET = 13
"""The first whose quantised weights may have a scale for each channel."""
_LEFT_ALONE = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
"""Their answers lie between 0 and 1, mostly near the ends: 256 steps would be seen, and nothing is saved."""
_PREPARED = "onnx.quant.pre_process"
"""The mark by which onnxruntime knows a graph that need not be prepared: `freeze` has done it."""


def quantise(model: Any, mode: Mode, rows: Sequence[Tensors]) -> Any:
    """The graph with weights of one byte.

    Args:
        model: the graph.
        mode: what becomes of the activations; see above.
        rows: batches of inputs for `static`, as the graph takes them.

    Raises:
        ConfigurationError: `static` without rows, or nothing in the graph that could be quantised.
        BundleError: onnxruntime cannot do it.
    """
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.registry import QDQRegistry

    if mode == "static" and not rows:
        raise ConfigurationError("static int8 takes rows of the training split to find ranges by: use --int8 dynamic")
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    if next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0) < _LEAST_OPSET:
        prepared = version_converter.convert_version(prepared, _LEAST_OPSET)
    # Shapes that are known here are not taken at their word there.
    del prepared.graph.value_info[:]
    _flatten_biases(prepared)
    mark = prepared.metadata_props.add()
    mark.key, mark.value = _PREPARED, "onnxruntime.quant"
    options: dict[str, Any] = {"per_channel": True, "reduce_range": True, "weight_type": QuantType.QInt8}
    with tempfile.TemporaryDirectory(prefix="rung-int8-") as folder:
        path = Path(folder, "model.onnx")
        try:
            if mode == "dynamic":
                quantize_dynamic(prepared, str(path), **options)
            else:
                quantize_static(
                    prepared,
                    str(path),
                    _reader(rows),
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QUInt8,
                    op_types_to_quantize=sorted(set(QDQRegistry) - _LEFT_ALONE),
                    **options,
                )
        except Exception as error:
            raise BundleError(f"onnxruntime cannot quantise this graph: {error}") from error
        made = onnx.load(str(path))
    known = {one.key: one.value for one in model.metadata_props}
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, known)
    del made.graph.value_info[:]
    if not any(
        tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) for tensor in made.graph.initializer
    ):
        raise ConfigurationError(
            "there is nothing in this graph that int8 would make smaller: it has no matrix weights"
        )
    return made


def batch_effect(model: Any, rows: Sequence[Tensors], output: str) -> float:
    """Largest change of a row's answer by the rows that share its batch, as a share of the range of all answers."""
    opened = session(model)
    together = {name: np.concatenate([batch[name] for batch in rows]) for name in rows[0]}
    count = len(next(iter(together.values())))
    whole = np.asarray(opened.run([output], together)[0], np.float64)
    alone = [
        opened.run([output], {name: array[row : row + 1] for name, array in together.items()})[0]
        for row in range(count)
    ]
    span = float(np.ptp(whole)) or 1.0
    return float(np.abs(np.concatenate(alone) - whole).max()) / span


def _flatten_biases(model: Any) -> None:
    """Biases of Gemm as [n]: onnxruntime stumbles over [1, n], which means the same."""
    users: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for tensor in model.graph.initializer:
        takers = users.get(tensor.name, [])
        biases = all(node.op_type == "Gemm" and list(node.input[:2]).count(tensor.name) == 0 for node in takers)
        if takers and biases and len(tensor.dims) == 2 and tensor.dims[0] == 1:
            del tensor.dims[0]


def _reader(rows: Sequence[Tensors]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self._left = iter(rows)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else dict(batch)

    return Reader()

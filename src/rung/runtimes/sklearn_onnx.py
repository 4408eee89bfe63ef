"""A scikit-learn estimator as an ONNX graph, kept only where it answers the same and sooner."""

import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import structlog

from rung.domain.tensors import DATATYPES, Array, Tensors
from rung.ports import LoadOptions
from rung.runtimes.onnx import OnnxModel, OnnxRuntime
from rung.runtimes.sklearn_estimators import Reading
from rung.runtimes.sklearn_files import parts

__all__ = ["Converted", "faster"]

_LARGEST = 16 << 20
"""Bytes of a file up to which it is converted: conversion takes seconds for each 100,000 nodes of a forest."""
_OPSETS = {"": 18, "ai.onnx.ml": 3}
_ROWS = 64
_SIZES = (1, 32)
_RTOL, _ATOL = 1e-5, 1e-6
_PATIENCE = 0.02
"""Seconds to time each side at each size."""
_log = structlog.get_logger("rung.runtimes")


class Converted:
    """The graph, in front of the estimator's tensors."""

    def __init__(self, model: OnnxModel, folder: "tempfile.TemporaryDirectory[str]", reading: Reading) -> None:
        self._model = model
        self._folder = folder
        self._outputs = reading.signature.outputs
        ports = model.signature
        self._inputs = [
            (port.name, spec.name, DATATYPES[port.datatype])
            for port, spec in zip(ports.inputs, reading.signature.inputs, strict=True)
        ]
        self._answers = [port.name for port in ports.outputs]

    def predict(self, inputs: Tensors, threads: int = 1) -> dict[str, Array]:
        """Compute. Raises `ModelError`, or `InvalidInput` for text that is not UTF-8."""
        # scikit-learn's trees see float32 too, whatever they are given.
        given = {port: inputs[name].astype(dtype, copy=False) for port, name, dtype in self._inputs}
        answers = self._model.predict(given, threads)
        outputs: dict[str, Array] = {}
        for port, spec in zip(self._answers, self._outputs, strict=False):
            answer = answers[port]
            answer = answer.reshape(answer.shape[0], *spec.shape[1:])
            outputs[spec.name] = answer.astype(DATATYPES[spec.datatype], copy=False)
        return outputs

    def close(self) -> None:
        """Drop the graph and its file."""
        self._model.close()
        self._folder.cleanup()


def faster(path: Path, estimator: Any, reading: Reading, options: LoadOptions) -> Converted | None:
    """Convert, compare on made-up rows, time both, and return the graph if it is the one to keep."""
    if path.stat().st_size > _LARGEST or any(hasattr(part, "build_analyzer") for part in parts(estimator)):
        # A graph splits text into words by other rules.
        return None
    rows = _made_up(estimator, reading)
    why = "skl2onnx and onnx are not installed"
    for element in ("DoubleTensorType", "FloatTensorType"):
        converted = None
        try:
            converted = _convert(estimator, reading, element, options)
            why = _difference(estimator, reading, converted, rows)
        except ImportError:
            break
        except Exception as error:  # noqa: BLE001 - whatever a converter cannot do, the estimator itself can
            why = f"it cannot be converted: {str(error).partition(chr(10))[0][:200]}"
        if converted is not None and not why:
            return _keep_faster(path, estimator, reading, converted, rows)
        if converted is not None:
            converted.close()
    _log.info(f"kept scikit-learn itself: {why}", action="chose", artifact=path.name, platform="sklearn")
    return None


def _convert(estimator: Any, reading: Reading, element: str, options: LoadOptions) -> Converted:
    import skl2onnx
    from skl2onnx.common import data_types
    from sklearn.base import is_classifier

    number, text = getattr(data_types, element), data_types.StringTensorType
    types = [
        (spec.name, (text if spec.datatype == "BYTES" else number)([None, *spec.shape[1:]]))
        for spec in reading.signature.inputs
    ]
    folder = tempfile.TemporaryDirectory(prefix="rung-sklearn-")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            convert = partial(skl2onnx.convert_sklearn, estimator, initial_types=types, target_opset=_OPSETS)
            try:
                graph = convert(options={"zipmap": False} if is_classifier(estimator) else None)
            except NameError:
                # A classifier without probabilities has no such option.
                graph = convert()
        file = Path(folder.name, "model.onnx")
        file.write_bytes(graph.SerializeToString())
        model = OnnxRuntime().load(file, options)
    except BaseException:
        folder.cleanup()
        raise
    return Converted(model, folder, reading)


def _difference(estimator: Any, reading: Reading, converted: Converted, rows: Tensors) -> str:
    """Where the graph answers otherwise, or nothing."""
    native, graph = reading.answer(estimator, reading.rows(rows)), converted.predict(rows)
    for name, array in native.items():
        if array.dtype.kind == "f":
            same = np.allclose(graph[name], array, rtol=_RTOL, atol=_ATOL)
        else:
            same = bool(np.array_equal(graph[name], array))
        if not same:
            return f"as ONNX its output {name!r} differs"
    return ""


def _keep_faster(path: Path, estimator: Any, reading: Reading, converted: Converted, rows: Tensors) -> Converted | None:
    spent: list[tuple[float, float]] = []
    for size in _SIZES:
        few = {name: array[:size] for name, array in rows.items()}
        native = _fastest(lambda few=few: reading.answer(estimator, reading.rows(few)))
        spent.append((native, _fastest(lambda few=few: converted.predict(few))))
    # Both sizes count alike, whatever they cost.
    gain = np.prod([native / graph for native, graph in spent])
    kept = "sklearn_onnx" if gain > 1 else "sklearn"
    _log.info(
        f"kept {'its ONNX form' if gain > 1 else 'scikit-learn itself'}, the faster of the two",
        action="chose",
        artifact=path.name,
        platform=kept,
        sklearn_ms={str(size): round(native * 1e3, 3) for size, (native, _) in zip(_SIZES, spent, strict=True)},
        onnx_ms={str(size): round(graph * 1e3, 3) for size, (_, graph) in zip(_SIZES, spent, strict=True)},
    )
    if gain > 1:
        return converted
    converted.close()
    return None


def _fastest(call: Any) -> float:
    least, until = float("inf"), perf_counter() + _PATIENCE
    while True:
        started = perf_counter()
        call()
        ended = perf_counter()
        least = min(least, ended - started)
        if ended > until:
            return least


def _made_up(estimator: Any, reading: Reading) -> dict[str, Array]:
    """Rows of several magnitudes, some of them on the very edges of its trees; texts that encoders know."""
    rng = np.random.default_rng(0)
    rows: dict[str, Array] = {}
    for position, spec in enumerate(reading.signature.inputs):
        column = reading.columns[position] if reading.columns else None
        if column is not None and column.values and (column.text or column.strict):
            values = np.empty(len(column.values), object)
            values[:] = [value.encode() if column.text else value for value in column.values]
            drawn = rng.choice(values, (_ROWS, 1))
            rows[spec.name] = drawn if column.text else drawn.astype("<f8")
        elif spec.datatype == "BYTES":
            rows[spec.name] = np.full((_ROWS, *spec.shape[1:]), b"word", object)
        else:
            scales = rng.choice([0.1, 1.0, 10.0, 100.0], (_ROWS, 1))
            rows[spec.name] = np.abs(rng.standard_normal((_ROWS, *spec.shape[1:]))) * scales
    if not reading.columns:
        matrix = rows[reading.signature.inputs[0].name]
        for row, (feature, edge) in zip(matrix[::2], _edges(estimator), strict=False):
            if feature < len(row):
                row[feature] = edge
    return rows


def _edges(estimator: Any) -> Iterator[tuple[int, float]]:
    for part in parts(estimator):
        tree = getattr(part, "tree_", None)
        if tree is not None and tree.children_left[0] != -1:
            yield int(tree.feature[0]), float(tree.threshold[0])

"""LiteRT (TensorFlow Lite) models, run in this process by ai-edge-litert."""

import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rung.domain.errors import BundleError, MissingDependency, ModelError
from rung.domain.tensors import DATATYPES, Array, Signature, Tensors, TensorSpec
from rung.ports import LoadOptions

__all__ = ["LiteRTModel", "LiteRTRuntime"]

_IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of every such file."""
_ROWS = 2
_NAMES = {dtype: name for name, dtype in DATATYPES.items() if name not in {"BF16", "BYTES"}}


class _Lane:
    """One interpreter, for one thread at a time."""

    def __init__(self, data: bytes, threads: int, places: tuple[list[int], list[int]]) -> None:
        self._interpreter = _interpreter(data, threads)
        self._inputs, self._outputs = places
        self._shapes: list[tuple[int, ...]] = []

    def call(self, arrays: list[Array]) -> list[Array]:
        """Compute; as many outputs as there are places for."""
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            self._shapes = []
            for place, shape in zip(self._inputs, shapes, strict=True):
                self._interpreter.resize_tensor_input(place, shape)
            self._interpreter.allocate_tensors()
            self._shapes = shapes
        for place, array in zip(self._inputs, arrays, strict=True):
            self._interpreter.set_tensor(place, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(place) for place in self._outputs]


class LiteRTModel:
    """Interpreters that share the bytes of one file; a call takes a free one, or makes one."""

    platform = "litert"
    lanes = 0
    inline = True

    def __init__(self, data: bytes, signature: Signature, places: tuple[list[int], list[int]], threads: int) -> None:
        self.signature = signature
        self._data: bytes | None = data
        self._places = places
        self._threads = threads
        self._free: dict[int, list[_Lane]] = {1: [], threads: []}
        self._lock = threading.Lock()

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        """Run the graph on this thread, or on the pool of an interpreter with several.

        Raises:
            ModelError: LiteRT could not compute an answer.
        """
        width = 1 if threads == 1 else self._threads
        try:
            lane = self._take(width)
            # What fails may leave an interpreter half-allocated: it is not put back.
            outputs = lane.call([inputs[spec.name] for spec in self.signature.inputs])
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"LiteRT failed: {_sentence(error)}") from error
        with self._lock:
            if self._data is not None:
                self._free[width].append(lane)
        return {spec.name: array for spec, array in zip(self.signature.outputs, outputs, strict=True)}

    def close(self) -> None:
        """Drop the interpreters; calls in progress end first, on the one that they hold."""
        with self._lock:
            self._data = None
            self._free = {1: [], self._threads: []}

    def _take(self, width: int) -> _Lane:
        with self._lock:
            data = self._data
            if data is None:
                raise ModelError("the model was closed")
            if self._free[width]:
                return self._free[width].pop()
        return _Lane(data, width, self._places)


class LiteRTRuntime:
    """Loads `.tflite` files."""

    name = "litert"

    def recognises(self, path: Path) -> bool:
        """By the suffix, else by the identifier of the format."""
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return path.suffix == ".tflite" or file.read(8)[4:] == _IDENTIFIER

    def load(self, artifact: Path | str, options: LoadOptions) -> LiteRTModel:
        """Read the file and find out whether it takes any number of rows.

        Raises:
            BundleError: it is missing, damaged, needs operators that LiteRT lacks, or has tensors of an unknown type.
            MissingDependency: ai-edge-litert is not installed.
        """
        path = Path(artifact)
        if find_spec("ai_edge_litert") is None:
            raise MissingDependency(f'{path.name} needs LiteRT: pip install "rung[litert]"')
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path.name} cannot be read: {error.strerror}") from None
        if data[4:8] != _IDENTIFIER:
            raise BundleError(
                f"{path.name} is no LiteRT model: write one with tf.lite.TFLiteConverter or ai-edge-torch"
            )
        try:
            signature, places = _signature(data)
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"{path.name} cannot be loaded: {_sentence(error)}") from None
        return LiteRTModel(data, signature, places, max(1, options.threads))


def _interpreter(data: bytes, threads: int) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    # From memory: a mapped file that is overwritten in place would end the process by SIGBUS.
    return Interpreter(model_content=data, num_threads=threads)


def _signature(data: bytes) -> tuple[Signature, tuple[list[int], list[int]]]:
    interpreter = _interpreter(data, 1)
    interpreter.allocate_tensors()
    sides = interpreter.get_input_details(), interpreter.get_output_details()
    names = _stated_names(interpreter)
    specs = [[_spec(names.get(one["index"], one["name"]), one) for one in side] for side in sides]
    places = [one["index"] for one in sides[0]], [one["index"] for one in sides[1]]
    inputs, outputs = specs
    if not inputs or not outputs:
        raise BundleError("the model takes or gives no tensors, so it cannot be served")
    everything = inputs + outputs
    if all(spec.shape[:1] in {(-1,), (1,)} for spec in everything) and _takes_rows(data, inputs, places):
        inputs, outputs = ([_any_rows(spec) for spec in side] for side in (inputs, outputs))
        return Signature(tuple(inputs), tuple(outputs), batched=True), places
    return Signature(tuple(inputs), tuple(outputs), batched=False), places


def _stated_names(interpreter: Any) -> dict[int, str]:
    """Tensor -> the name that the file's one signature gives it, not what the converter made of it."""
    keys = list(interpreter.get_signature_list())
    if len(keys) != 1:
        return {}
    runner = interpreter.get_signature_runner(keys[0])
    details = {**runner.get_input_details(), **runner.get_output_details()}
    return {one["index"]: name for name, one in details.items()}


def _spec(name: str, details: dict[str, Any]) -> TensorSpec:
    datatype = _NAMES.get(np.dtype(details["dtype"]))
    if datatype is None:
        raise BundleError(f"the tensor {name!r} is of {np.dtype(details['dtype'])}, which cannot be served")
    stated = details["shape_signature"] if len(details["shape_signature"]) else details["shape"]
    return TensorSpec(name, datatype, tuple(int(size) for size in stated))


def _takes_rows(data: bytes, inputs: list[TensorSpec], places: tuple[list[int], list[int]]) -> bool:
    """Whether two rows at once are answered like each alone: a graph of one row may have that number built in."""
    rng = np.random.default_rng(0)
    rows = []
    for spec in inputs:
        shape = (_ROWS, *(16 if size == -1 else size for size in spec.shape[1:]))
        dtype = DATATYPES[spec.datatype]
        rows.append((rng.random(shape) if dtype.kind == "f" else rng.integers(0, 10, shape)).astype(dtype))
    lane = _Lane(data, 1, places)
    try:
        together = lane.call(rows)
        alone = [lane.call([array[number : number + 1] for array in rows]) for number in range(_ROWS)]
    except (RuntimeError, ValueError):
        return False
    return all(
        whole.shape[:1] == (_ROWS,)
        and all(
            np.allclose(whole[number], alone[number][place][0], 1e-3, 1e-4, equal_nan=True) for number in range(_ROWS)
        )
        for place, whole in enumerate(together)
    )


def _any_rows(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, spec.datatype, (-1, *spec.shape[1:]))


def _sentence(error: Exception) -> str:
    """What went wrong, without the place in LiteRT's own source and what follows from it."""
    text = " ".join(str(error).split())
    if "custom op" in text:
        name = text.partition("custom op: ")[2].split(".")[0].split(" ")[0]
        return f"it uses the custom operator {name}, which LiteRT does not have: convert it without custom operators"
    return text[:300] or type(error).__name__

"""ONNX models, run by onnxruntime."""

import contextlib
import ctypes
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from rung.domain.errors import BundleError, InvalidInput, ModelError
from rung.domain.tensors import DATATYPES, Array, Signature, Tensors, TensorSpec
from rung.ports import LoadOptions
from rung.runtimes.onnx_files import external_files, looks_like_onnx

__all__ = ["OnnxModel", "OnnxRuntime"]

_FILE = "model.onnx"
"""What an artifact is called that is a folder."""

_TYPES = {
    "tensor(float)": "FP32",
    "tensor(float16)": "FP16",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
    "tensor(bool)": "BOOL",
} | {f"tensor({sign}int{bits})": f"{sign}int{bits}".upper() for sign in ("", "u") for bits in (8, 16, 32, 64)}

_NO_MESSAGES = 4
"""onnxruntime's log level FATAL: what fails is raised, and said once, by us."""


class OnnxModel:
    """A graph in memory. Calls run on the caller's thread; `threads` > 1 uses a second session with a pool."""

    platform = "onnxruntime_onnx"
    lanes = 0
    inline = True

    def __init__(self, path: Path, beside: list[Path], narrow: Any, signature: Signature, threads: int) -> None:
        self.signature = signature
        self._path = path
        self._beside = beside
        self._threads = threads
        self._narrow = narrow
        self._wide: Any = None
        self._opening = threading.Lock()
        self._outputs = [spec.name for spec in signature.outputs]
        self._text_inputs = [spec.name for spec in signature.inputs if spec.datatype == "BYTES"]
        self._text_outputs = [spec.name for spec in signature.outputs if spec.datatype == "BYTES"]

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        """Run the graph.

        Raises:
            InvalidInput: an element of a BYTES tensor is not UTF-8.
            ModelError: onnxruntime could not compute an answer.
        """
        if self._text_inputs:
            inputs = self._decoded(inputs)
        try:
            session = self._narrow if threads == 1 or self._threads == 1 else self._open_wide()
            answers = session.run(self._outputs, inputs)
        except Exception as error:
            if self._narrow is None:
                raise ModelError("the model was closed") from None
            raise ModelError(f"onnxruntime failed: {_sentence(error)}") from error
        outputs = dict(zip(self._outputs, answers, strict=True))
        for name in self._text_outputs:
            outputs[name] = _encoded(outputs[name])
        return outputs

    def close(self) -> None:
        """Drop the sessions; calls in progress end first, on the sessions that they hold."""
        with self._opening:
            self._narrow = self._wide = None
        _return_memory()

    def _open_wide(self) -> Any:
        # Made on first need: it holds a second copy of the weights.
        if self._wide is None:
            with self._opening:
                if self._wide is None and self._narrow is not None:
                    self._wide = _session(self._path, self._beside, self._threads)
        return self._wide

    def _decoded(self, inputs: Tensors) -> dict[str, Array]:
        changed = dict(inputs)
        for name in self._text_inputs:
            array = inputs[name]
            # onnxruntime takes str; bytes would silently become their representation, "b'...'".
            try:
                text = [element.decode() for element in array.ravel()]
            except UnicodeDecodeError as error:
                raise InvalidInput(
                    f"input {name!r} holds bytes that are not UTF-8 text, which is all that this model takes: {error}",
                    field=name,
                ) from None
            changed[name] = np.array(text, DATATYPES["BYTES"]).reshape(array.shape)
        return changed


class OnnxRuntime:
    """Loads `.onnx` files, and folders with a `model.onnx` and the files that it refers to."""

    name = "onnx"

    def recognises(self, path: Path) -> bool:
        """By the name, else by whether every byte belongs to a field of an ONNX model."""
        if path.is_dir():
            return (path / _FILE).is_file()
        return path.suffix == ".onnx" or (path.is_file() and looks_like_onnx(path))

    def load(self, artifact: Path | str, options: LoadOptions) -> OnnxModel:
        """Read the file, check what it refers to, and open the session that runs on the caller's thread.

        Raises:
            BundleError: it is missing, damaged, reaches outside its folder, needs operators that this
                onnxruntime lacks, or has inputs or outputs that are not tensors of a known type.
        """
        path = Path(artifact)
        if path.is_dir():
            path = path / _FILE
        beside = external_files(path)
        try:
            session = _session(path, beside, 1)
        except Exception as error:
            raise BundleError(f"{path.name} cannot be loaded: {_sentence(error)}") from error
        return OnnxModel(path, beside, session, _signature(path.name, session), max(1, options.threads))


def _session(path: Path, beside: list[Path], threads: int) -> Any:
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _NO_MESSAGES
    # Measured: the same latency for half of the processor time, which belongs to the other lanes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # onnxruntime would map these files, and the process would die by SIGBUS when one is overwritten in place.
    weights = [file.read_bytes() for file in beside]
    names = [file.relative_to(path.resolve().parent).as_posix() for file in beside]
    options.add_external_initializers_from_files_in_memory(names, weights, [len(data) for data in weights])
    cuda = "CUDAExecutionProvider" in ort.get_available_providers()
    providers = [*(["CUDAExecutionProvider"] if cuda else []), "CPUExecutionProvider"]
    return ort.InferenceSession(str(path), options, providers=providers)


def _signature(file: str, session: Any) -> Signature:
    nodes = session.get_inputs(), session.get_outputs()
    inputs, outputs = (tuple(_spec(file, node) for node in side) for side in nodes)
    # Rows are independent as far as a graph can say so: every first size varies, under one name where it has one.
    first = [node.shape[0] if node.shape else 1 for side in nodes for node in side]
    batched = not any(isinstance(size, int) for size in first) and len(set(first) - {None}) <= 1
    return Signature(inputs, outputs, batched=batched)


def _spec(file: str, node: Any) -> TensorSpec:
    if node.type not in _TYPES:
        hint = "export it as a tensor"
        if node.type.startswith("seq(map"):
            hint = "export the classifier with options={'zipmap': False}"
        elif "bfloat16" in node.type or "float8" in node.type:
            hint = "export it as float32 or float16"
        raise BundleError(f"{file}: {node.name!r} is {node.type}, which cannot be served; {hint}")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    return TensorSpec(node.name, _TYPES[node.type], shape)


def _encoded(array: Array) -> Array:
    flat = [text.encode() for text in array.ravel()]
    return np.array(flat, DATATYPES["BYTES"]).reshape(array.shape)


def _sentence(error: Exception) -> str:
    """What went wrong, without error codes and places in onnxruntime's own source."""
    text = str(error).replace("\n", " ").rpartition("Status Message: ")[2]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from \S* (failed: ?)?", "", text)
    text = re.sub(r"\S*/onnxruntime\S*:\d+ .*?\) ", "", text)
    return text.strip()[:300] or type(error).__name__


def _return_memory() -> None:
    # glibc keeps freed weights: measured over 300 loads of a 1 MB model, 80 to 110 MB without this, 58 MB with it.
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)

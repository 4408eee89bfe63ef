"""Small models of PyTorch, TensorFlow and LiteRT to test with.

Each is the same function: `x` FP32 [N, 4] -> `y` = 2 x, and fails if the first column of any row is over 1e30.
The frameworks are imported inside the functions: they belong to extras. Every builder takes its path first and
returns it.
"""

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rung.domain.tensors import Array

__all__ = ["exported", "litert", "saved_model", "torch_module", "torchscript"]


def torch_module() -> Any:
    """The function as a `torch.nn.Module`."""
    import torch

    class Double(torch.nn.Module):
        table: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.tensor([2.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # The factor is looked up in a table of one entry, so a bad row asks for an entry that is not there.
            index = torch.where(x[:, :1] > 1e30, 1000, 0)
            return self.table[index] * x

    return Double()


def exported(path: Path, module: Any = None, *, dynamic: bool = True) -> Path:
    """Write the function, or a module of one input [N, 4], by `torch.export.save`; without `dynamic`, N is 3."""
    import torch

    shapes = ({0: torch.export.Dim("rows")},) if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module or torch_module(), (torch.ones(3, 4),), dynamic_shapes=shapes)
        torch.export.save(program, path)
    return path


def torchscript(path: Path, signature: str = '{"inputs": {"x": ["FP32", [-1, 4]]}}') -> Path:
    """Write the function by `torch.jit.save`, with `signature` inside unless it is empty; its output is `output_0`."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(torch_module(), torch.ones(3, 4))  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(path), _extra_files={"signature.json": signature} if signature else {})
    return path


_SAVED_MODEL = """
import sys
import tensorflow as tf

SPEC = [tf.TensorSpec([None, 4], tf.float32, name="x")]

class Double(tf.Module):
    def __init__(self):
        super().__init__()
        self.factor = tf.Variable(2.0)

    @tf.function(input_signature=SPEC)
    def double(self, x):
        with tf.control_dependencies([tf.debugging.assert_less(x[:, 0], 1e30, message="too large")]):
            return {"y": x * self.factor}

@tf.function(input_signature=SPEC)
def text(x):
    return {"text": tf.strings.as_string(x[:, 0], precision=1)}

@tf.function(input_signature=SPEC)
def file(x):
    return {"file": tf.io.read_file("/etc/hostname")[None]}

model = Double()
functions = {"double": model.double, "text": text, "file": file}
named = dict(pair.split("=") for pair in sys.argv[2:])
tf.saved_model.save(model, sys.argv[1], signatures={name: functions[which] for name, which in named.items()})
print(model.double(tf.reshape(tf.range(12.0), [3, 4]))["y"].numpy().ravel().tolist())
"""


def saved_model(path: Path, **signatures: str) -> tuple[Path, Array]:
    """Write the function as a SavedModel; return its folder, and what TensorFlow answers to 0..11 as FP32 [3, 4].

    `signatures` maps names to `double` (the function), `text` (x -> its first column as BYTES [N]) or `file` (reads
    one); `serving_default="double"` if none. TensorFlow runs in a process of its own: it takes over the one it is in.
    """
    named = [f"{name}={which}" for name, which in (signatures or {"serving_default": "double"}).items()]
    command = [sys.executable, "-c", _SAVED_MODEL, str(path), *named]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)  # noqa: S603
    answer = done.stdout.strip().rpartition("\n")[2]
    return path, np.array([float(number) for number in answer.strip("[]").split(",")], "<f4").reshape(3, 4)


def litert(path: Path, rows: int = -1, *, custom: str = "", int8: bool = False) -> Path:
    """Write the function as a LiteRT model of so many rows (-1: any).

    `custom` names an operator that nobody has; with `int8`, x and y are INT8 and y = x, quantised with scale 0.5.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    graph = _LiteRT(schema, rows)
    kind = schema.TensorType
    element = kind.INT8 if int8 else kind.FLOAT32
    x = graph.tensor("x", element, [1, 4], [rows, 4], quantised=int8)
    y = graph.tensor("y", element, [1, 4], [rows, 4], quantised=int8)
    operator = schema.BuiltinOperator
    if custom:
        graph.operator(operator.CUSTOM, [x], [y], custom=custom)
    elif int8:
        shape = graph.constant("shape", kind.INT32, np.array([-1, 4], "<i4"))
        graph.operator(operator.RESHAPE, [x, shape], [y])
    else:
        limit = graph.constant("limit", kind.FLOAT32, np.array([1e30, 3e38, 3e38, 3e38], "<f4"))
        table = graph.constant("table", kind.FLOAT32, np.array([2.0], "<f4"))
        bad = graph.tensor("bad", kind.BOOL, [1, 4], [rows, 4])
        index = graph.tensor("index", kind.INT32, [1, 4], [rows, 4])
        factor = graph.tensor("factor", kind.FLOAT32, [1, 4], [rows, 4])
        graph.operator(operator.GREATER, [x, limit], [bad])
        graph.operator(operator.CAST, [bad], [index])
        # A table of one entry: whoever is over the limit asks for the second.
        graph.operator(operator.GATHER, [table, index], [factor])
        graph.operator(operator.MUL, [x, factor], [y], options=(schema.BuiltinOptions.MulOptions, schema.MulOptionsT()))
    builder = flatbuffers.Builder(1024)
    builder.Finish(graph.model([x], [y]).Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


class _LiteRT:
    """Collects the tensors and operators of one model."""

    def __init__(self, schema: Any, rows: int) -> None:
        self._schema = schema
        self._rows = rows
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]
        self._operators: list[Any] = []
        self._codes: list[Any] = []

    def tensor(
        self, name: str, kind: int, shape: list[int], signature: list[int] | None = None, *, quantised: bool = False
    ) -> int:
        tensor = self._schema.TensorT()
        rows = 1 if self._rows < 0 else self._rows
        tensor.name, tensor.type = name, kind
        tensor.shape = [rows, *shape[1:]] if signature else shape
        tensor.shapeSignature = signature if signature and self._rows < 0 else None
        tensor.hasRank = True
        tensor.buffer = 0
        if quantised:
            tensor.quantization = self._schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [0.5], [0]
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(self, name: str, kind: int, value: Array) -> int:
        place = self.tensor(name, kind, list(value.shape))
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(value.tobytes(), np.uint8)
        self._buffers.append(buffer)
        self._tensors[place].buffer = len(self._buffers) - 1
        return place

    def operator(
        self, kind: int, inputs: list[int], outputs: list[int], *, custom: str = "", options: Any = None
    ) -> None:
        code = self._schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = kind, min(kind, 127), 1
        code.customCode = custom or None
        self._codes.append(code)
        operator = self._schema.OperatorT()
        operator.opcodeIndex = len(self._codes) - 1
        operator.inputs, operator.outputs = inputs, outputs
        if options:
            operator.builtinOptionsType, operator.builtinOptions = options
        self._operators.append(operator)

    def model(self, inputs: list[int], outputs: list[int]) -> Any:
        graph = self._schema.SubGraphT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self._tensors, self._operators, inputs, outputs
        graph.name = "main"
        model = self._schema.ModelT()
        model.version, model.description = 3, "a test"
        model.operatorCodes, model.subgraphs, model.buffers = self._codes, [graph], self._buffers
        return model

"""Small ONNX models to test with, written with fixed weights so that every run sees the same numbers.

The `onnx` package is imported inside the functions: it belongs to the `dev` extra, not to a replica.
Every builder writes one file, takes its path first and returns it.
"""

from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "add_sub",
    "half_plus_two",
    "identity",
    "nan_maker",
    "poison",
    "scale",
    "segmentation",
    "string_identity",
    "tiny",
]

_OPSET = 17
_IR_VERSION = 8
"""Old enough for every onnxruntime that rung supports."""

_ELEMENTS = {
    "FP32": 1,
    "UINT8": 2,
    "INT8": 3,
    "UINT16": 4,
    "INT16": 5,
    "INT32": 6,
    "INT64": 7,
    "BYTES": 8,
    "BOOL": 9,
    "FP16": 10,
    "FP64": 11,
    "UINT32": 12,
    "UINT64": 13,
}
"""Datatype name -> element type number of ONNX."""


def tiny(path: Path) -> Path:
    """A classifier of 16 features: `x` FP32 [N, 16] -> `y` FP32 [N, 3], rows of `y` add up to 1."""
    graph = _Graph()
    graph.node("Gemm", ["x", graph.weight("w1", 16, 16), graph.weight("b1", 16)], "h0")
    graph.node("Relu", ["h0"], "h1")
    graph.node("Gemm", ["h1", graph.weight("w2", 16, 3), graph.weight("b2", 3)], "l")
    graph.node("Softmax", ["l"], "y", axis=1)
    return graph.save(path, {"x": ("FP32", (-1, 16))}, {"y": ("FP32", (-1, 3))})


def segmentation(path: Path, size: int = 128, channels: int = 24) -> Path:
    """A U-Net of two levels: `x` FP32 [N, 3, size, size] -> `y` FP32 [N, 1, size, size] within 0..1.

    `size` has to be a multiple of 4. 24 channels at 128 pixels cost some 10 ms on one core; 4 are enough
    where only the shape matters.
    """
    graph = _Graph()
    graph.constant("scales", np.array([1, 1, 2, 2], np.float32))
    c = channels
    full = _conv(graph, _conv(graph, "x", 3, c), c, c)
    half = _conv(graph, _conv(graph, _halve(graph, full), c, 2 * c), 2 * c, 2 * c)
    quarter = _conv(graph, _conv(graph, _halve(graph, half), 2 * c, 4 * c), 4 * c, 4 * c)
    rising = _conv(graph, _conv(graph, _double(graph, quarter, half), 6 * c, 2 * c), 2 * c, 2 * c)
    top = _conv(graph, _conv(graph, _double(graph, rising, full), 3 * c, c), c, c)
    graph.node("Sigmoid", [_conv(graph, top, c, 1, kernel=1, relu=False)], "y")
    return graph.save(path, {"x": ("FP32", (-1, 3, size, size))}, {"y": ("FP32", (-1, 1, size, size))})


def half_plus_two(path: Path) -> Path:
    """TF Serving's toy model: `x` FP32 [N] -> `y` = x / 2 + 2."""
    graph = _Graph()
    graph.node("Mul", ["x", graph.constant("a", np.array([0.5], np.float32))], "half")
    graph.node("Add", ["half", graph.constant("b", np.array([2.0], np.float32))], "y")
    return graph.save(path, {"x": ("FP32", (-1,))}, {"y": ("FP32", (-1,))})


def identity(
    path: Path, datatype: str = "FP32", shape: tuple[int, ...] = (-1, 4), names: tuple[str, str] = ("x", "y")
) -> Path:
    """The first of `names` -> the second, both of this datatype and shape, unchanged; -1 is a size that varies."""
    graph = _Graph()
    graph.node("Identity", [names[0]], names[1])
    return graph.save(path, {names[0]: (datatype, shape)}, {names[1]: (datatype, shape)})


def add_sub(path: Path, datatype: str = "INT32") -> Path:
    """Triton's `simple`: INPUT0, INPUT1 [N, 16] -> OUTPUT0 their sum, OUTPUT1 their difference."""
    graph = _Graph()
    graph.node("Add", ["INPUT0", "INPUT1"], "OUTPUT0")
    graph.node("Sub", ["INPUT0", "INPUT1"], "OUTPUT1")
    tensor = (datatype, (-1, 16))
    return graph.save(path, {"INPUT0": tensor, "INPUT1": tensor}, {"OUTPUT0": tensor, "OUTPUT1": tensor})


def string_identity(path: Path) -> Path:
    """`INPUT0` -> `OUTPUT0`, BYTES [N, M], unchanged."""
    graph = _Graph()
    graph.node("Identity", ["INPUT0"], "OUTPUT0")
    return graph.save(path, {"INPUT0": ("BYTES", (-1, -1))}, {"OUTPUT0": ("BYTES", (-1, -1))})


def nan_maker(path: Path) -> Path:
    """`x` FP32 [N, 4] -> `y` FP32 [N, 4], NaN whatever goes in."""
    graph = _Graph()
    graph.node("Mul", ["x", graph.constant("zero", np.zeros(1, np.float32))], "nothing")
    graph.node("Div", ["nothing", "nothing"], "y")
    return graph.save(path, {"x": ("FP32", (-1, 4))}, {"y": ("FP32", (-1, 4))})


def poison(path: Path) -> Path:
    """`x` FP32 [N, 4] -> `y` = 2 x; the whole call fails if the first column of any row is over 1e30."""
    graph = _Graph()
    graph.constant("first", np.array([0], np.int64))
    graph.constant("limit", np.array([1e30], np.float32))
    graph.constant("outside", np.array([1000], np.int64))
    graph.constant("inside", np.array([0], np.int64))
    graph.constant("table", np.array([2.0], np.float32))
    graph.node("Gather", ["x", "first"], "column", axis=1)
    graph.node("Greater", ["column", "limit"], "bad")
    graph.node("Where", ["bad", "outside", "inside"], "index")
    # The factor is looked up in a table of one entry, so a bad row asks for an entry that is not there.
    graph.node("Gather", ["table", "index"], "factor", axis=0)
    graph.node("Mul", ["x", "factor"], "y")
    return graph.save(path, {"x": ("FP32", (-1, 4))}, {"y": ("FP32", (-1, 4))})


def scale(path: Path, factor: float, columns: int = 4) -> Path:
    """`x` FP32 [N, columns] -> `y` = factor x: models that can be told apart by their answers."""
    graph = _Graph()
    graph.node("Mul", ["x", graph.constant("factor", np.array([factor], np.float32))], "y")
    return graph.save(path, {"x": ("FP32", (-1, columns))}, {"y": ("FP32", (-1, columns))})


def _conv(graph: "_Graph", x: str, inputs: int, outputs: int, *, kernel: int = 3, relu: bool = True) -> str:
    name = graph.fresh("conv")
    weight = graph.weight(f"{name}.w", outputs, inputs, kernel, kernel)
    bias = graph.constant(f"{name}.b", np.zeros(outputs, np.float32))
    graph.node("Conv", [x, weight, bias], name, kernel_shape=[kernel, kernel], pads=[kernel // 2] * 4)
    return graph.node("Relu", [name], f"{name}.relu") if relu else name


def _halve(graph: "_Graph", x: str) -> str:
    return graph.node("MaxPool", [x], graph.fresh("pool"), kernel_shape=[2, 2], strides=[2, 2])


def _double(graph: "_Graph", x: str, skip: str) -> str:
    name = graph.fresh("up")
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    graph.node("Resize", [x, "", "scales"], name, **attributes)
    return graph.node("Concat", [name, skip], f"{name}.joined", axis=1)


class _Graph:
    """Collects the nodes and weights of one model."""

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}
        self._rng = np.random.default_rng(0)

    def node(self, operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        self._weights[name] = value
        return name

    def weight(self, name: str, *shape: int) -> str:
        """Normal numbers scaled by the fan-in, so that answers stay of order one."""
        fan_in = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
        return self.constant(name, (self._rng.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32))

    def fresh(self, stem: str) -> str:
        return f"{stem}{len(self._nodes)}"

    def save(self, path: Path, inputs: "_Ports", outputs: "_Ports") -> Path:
        from onnx import checker, helper, numpy_helper, save

        graph = helper.make_graph(
            self._nodes,
            path.stem,
            [_port(name, *port) for name, port in inputs.items()],
            [_port(name, *port) for name, port in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in self._weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
        checker.check_model(model)
        save(model, str(path))
        return path


_Ports = dict[str, tuple[str, tuple[int, ...]]]


def _port(name: str, datatype: str, shape: tuple[int, ...]) -> Any:
    from onnx import helper

    # The first varying size is the rows: one name for it across tensors says that they agree.
    sizes = [size if size >= 0 else ("N" if axis == 0 else f"D{axis}") for axis, size in enumerate(shape)]
    return helper.make_tensor_value_info(name, _ELEMENTS[datatype], sizes)

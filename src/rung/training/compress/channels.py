"""Which channels of a graph can be taken out, and everything that has to be cut with them.

A layer's output channels may go when all that they reach, through nodes that treat each channel for itself, are layers
with weights of their own: there the weights of those channels go, too. Where channels are added to those of another
branch, reshaped, normalised in groups, or answered to the caller, the layer stays whole, and the reason is kept.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from rung.training.compress.graph import Weights

__all__ = ["Chain", "Cut", "Place", "Taker", "chain_of", "layers", "shapes_of"]

_EACH = frozenset(
    {
        *("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Softplus"),
        *("Softsign", "Clip", "Identity", "Dropout", "Gelu", "Erf", "Abs", "Neg", "Mish", "Cast", "Exp", "Sqrt"),
    }
)
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize", "Upsample", "Pad"})
_TWO = frozenset({"Add", "Sub", "Mul", "Div", "PRelu"})
_DENSE = frozenset({"Gemm", "MatMul"})
_CONV = frozenset({"Conv", "ConvTranspose"})

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor -> its shape; -1 where a size varies."""


class Place(NamedTuple):
    """Where the channels lie in a tensor: `count` times `block` entries of `axis` from `first` on."""

    axis: int
    first: int = 0
    block: int = 1
    """Entries that one channel has become, where a picture was flattened."""


class Cut(NamedTuple):
    """A constant that loses the entries of removed channels."""

    name: str
    axis: int
    place: Place


class Taker(NamedTuple):
    """A layer that takes the channels in: its weights for them go."""

    node: Any
    place: Place
    axis: int
    """Of its weights, along which its inputs lie."""


class Chain(msgspec.Struct):
    """A layer whose output channels may be removed."""

    node: Any
    width: int
    """Output channels."""
    cuts: list[Cut] = []
    takers: list[Taker] = []
    flattened: list[Any] = []
    """Reshapes that name a size that will be smaller."""
    grouped: list[Any] = []
    """Depthwise convolutions, whose number of groups will be smaller."""


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that can be known."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(bare).graph
    found = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            found[value.name] = tuple(one.dim_value if one.HasField("dim_value") else -1 for one in dims)
    return found


def layers(model: Any) -> list[str]:
    """Layers with weights, by the name of what they give, in order."""
    weights = Weights(model)
    return [node.output[0] for node in model.graph.node if _weighs(node, weights)]


def chain_of(model: Any, layer: str) -> Chain | str:
    """What depends on the output channels of a layer, or why they have to stay."""
    weights, shapes = Weights(model), shapes_of(model)
    node = next(one for one in model.graph.node if one.output[0] == layer)
    rank = len(shapes.get(layer, ()))
    if not rank:
        return "the shape of its output is not known"
    axis = 1 if node.op_type in _CONV else rank - 1
    out = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}.get(node.op_type, 0 if _attribute(node, "transB", 0) else 1)
    width = weights[node.input[1]].shape[out]
    chain = Chain(node, width, [Cut(node.input[1], out, Place(axis))])
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in weights or weights[node.input[2]].shape[-1:] not in ((width,), (1,)):
            return "its bias is not a constant of one number for each channel"
        bias = weights[node.input[2]]
        if bias.size == width:
            chain.cuts.append(Cut(node.input[2], bias.ndim - 1, Place(axis)))
    problem = _Walk(model, weights, shapes, chain).go(layer, Place(axis))
    shared = _shared(model, chain)
    if not problem and shared:
        problem = f"the weights {shared} are used by several nodes"
    if not problem and not chain.takers:
        problem = "no layer takes its output"
    return problem or chain


def _weighs(node: Any, weights: Weights) -> bool:
    if node.op_type not in _DENSE | _CONV or len(node.input) < 2 or node.input[1] not in weights:
        return False
    if node.op_type == "MatMul" and weights[node.input[1]].ndim != 2:
        return False
    return bool(_attribute(node, "group", 1) == 1 and not _attribute(node, "transA", 0))


class _Walk:
    """Follows channels from a layer to those that take them in."""

    def __init__(self, model: Any, weights: Weights, shapes: Shapes, chain: Chain) -> None:
        self._weights, self._shapes, self._chain = weights, shapes, chain
        self._given = {output.name for output in model.graph.output}
        self._users: dict[str, list[Any]] = {}
        for node in model.graph.node:
            for name in dict.fromkeys(node.input):
                self._users.setdefault(name, []).append(node)
        self._seen: dict[str, Place] = {}

    def go(self, tensor: str, place: Place) -> str:
        """Why the channels have to stay; empty when they may go."""
        left = [(tensor, place)]
        meet: list[tuple[str, Place, str]] = []
        while left:
            tensor, place = left.pop()
            if tensor in self._seen:
                if self._seen[tensor] != place:
                    return f"its channels meet in {tensor}"
                continue
            self._seen[tensor] = place
            if tensor in self._given:
                return "they are answered to the caller"
            for node in self._users.get(tensor, []):
                found = self._through(node, tensor, place)
                if isinstance(found, str):
                    return found
                if found is not None:
                    left.append((node.output[0], found))
                    meet += [
                        (name, place, node.op_type)
                        for name in node.input
                        if node.op_type in _TWO and name != tensor and name not in self._weights
                    ]
        for name, there, kind in meet:
            if self._seen.get(name) != there:
                return f"{kind} joins them with those of another branch"
        return ""

    def _through(self, node: Any, tensor: str, place: Place) -> Place | str | None:
        """Where the channels are behind a node; None behind a layer that takes them in; text: why it cannot be."""
        kind = node.op_type
        if kind in _EACH:
            return place
        if kind in _TWO:
            return self._with_constants(node, tensor, place)
        if kind in _POOLS and place.axis == 1 and node.input[0] == tensor:
            before, after = self._shapes.get(tensor, ()), self._shapes.get(node.output[0], ())
            known = len(before) > 1 and len(after) > 1 and before[1] == after[1] > 0
            return place if known else f"{kind} may mix them"
        if kind == "BatchNormalization" and node.input[0] == tensor and place.axis == 1:
            if any(name not in self._weights for name in node.input[1:5]):
                return "batch normalisation has no constant parameters"
            self._chain.cuts += [Cut(name, 0, place) for name in node.input[1:5]]
            return place
        if kind in ("Flatten", "Reshape") and node.input[0] == tensor:
            return self._flat(node, tensor, place)
        if kind == "Concat" and _attribute(node, "axis", 0) in (
            place.axis,
            place.axis - len(self._shapes.get(tensor, ())),
        ):
            return self._beside(node, tensor, place)
        if _weighs(node, self._weights) and node.input[0] == tensor and tensor not in node.input[1:]:
            return self._taken(node, tensor, place)
        if kind == "Conv" and node.input[0] == tensor and place == Place(1):
            return self._depthwise(node, place)
        return f"{kind} depends on all of them together"

    def _with_constants(self, node: Any, tensor: str, place: Place) -> Place | str:
        rank = len(self._shapes.get(tensor, ()))
        total = self._shapes[tensor][place.axis] if rank else -1
        for name in node.input:
            if name == tensor or name not in self._weights:
                continue
            shape = self._weights[name].shape
            from_end = rank - place.axis
            if len(shape) > rank:
                return f"{node.op_type} adds a dimension"
            if len(shape) < from_end or shape[-from_end] == 1:
                continue
            if shape[-from_end] != total:
                return f"{node.op_type} with a constant of another size"
            self._chain.cuts.append(Cut(name, len(shape) - from_end, place))
        return place

    def _flat(self, node: Any, tensor: str, place: Place) -> Place | str:
        before, after = self._shapes.get(tensor, ()), self._shapes.get(node.output[0], ())
        if len(before) < 2 or place.axis != 1 or len(after) != 2 or min(before[1:]) < 1:
            return f"{node.op_type} moves them about"
        block = 1
        for size in before[2:]:
            block *= size
        if after[1] != before[1] * block:
            return f"{node.op_type} moves them about"
        if node.op_type == "Reshape":
            self._chain.flattened.append(node)
        return Place(1, place.first * block, place.block * block)

    def _beside(self, node: Any, tensor: str, place: Place) -> Place | str:
        first = place.first
        if list(node.input).count(tensor) > 1:
            return "Concat takes them twice"
        for name in node.input:
            if name == tensor:
                return place._replace(first=first)
            size = self._shapes.get(name, ())
            if len(size) <= place.axis or size[place.axis] < 1:
                return "Concat puts them beside a tensor of unknown size"
            first += size[place.axis]
        return "Concat does not name them"

    def _taken(self, node: Any, tensor: str, place: Place) -> str | None:
        rank = len(self._shapes.get(tensor, ()))
        if place.axis != (1 if node.op_type in _CONV else rank - 1):
            return f"{node.op_type} takes them along another axis"
        axis = {"Conv": 1, "ConvTranspose": 0, "MatMul": 0}.get(node.op_type, 1 if _attribute(node, "transB", 0) else 0)
        self._chain.takers.append(Taker(node, place, axis))
        self._chain.cuts.append(Cut(node.input[1], axis, place))
        return None

    def _depthwise(self, node: Any, place: Place) -> Place | str:
        groups = _attribute(node, "group", 1)
        width = self._chain.width
        if node.input[1] not in self._weights or groups != width or self._weights[node.input[1]].shape[0] != width:
            return "a convolution in groups depends on several of them together"
        self._chain.cuts.append(Cut(node.input[1], 0, place))
        if len(node.input) > 2 and node.input[2]:
            self._chain.cuts.append(Cut(node.input[2], 0, place))
        self._chain.grouped.append(node)
        return place


def _shared(model: Any, chain: Chain) -> str:
    """A constant to be cut that another node, or a second cut, uses as well."""
    names = [cut.name for cut in chain.cuts]
    for name in names:
        users = sum(list(node.input).count(name) for node in model.graph.node)
        if users > 1 or names.count(name) > 1:
            return name
    return ""


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), default)

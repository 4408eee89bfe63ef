"""Whole channels and neurons removed, so that matrices shrink; and, apart from that, single weights set to zero.

Which ones, and what becomes of the others, is the optimal brain surgeon's answer (Hassibi and Stork, 1993), for whole
channels at once: with G the second moments of what a layer takes in, read off rows of the training split, removing
channel q costs |W_q|^2 / (G^-1)_qq, and the weights that are left take over what the others can say of it:
W -= (G^-1)_q / (G^-1)_qq W_q. The cheapest one goes, again and again. That is least squares on the rows, without any
training. Without rows G is 1, and the channels of the smallest weights go.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from rung.domain.errors import ConfigurationError
from rung.domain.tensors import Array, Tensors
from rung.training.compress.channels import Chain, Place, Taker, chain_of, layers
from rung.training.compress.graph import Weights, outputs_of

__all__ = ["Pruned", "prune", "sparsify"]

_SAMPLES = 20_000
"""Rows, or pixels, of which moments are taken."""
_RIDGE = 1e-4
"""Added to the moments, as a share of their mean: channels that always agree have no inverse without it."""
_LEAST = 4
"""Channels that a layer keeps at least."""


class Pruned(msgspec.Struct):
    """A smaller graph, and what was done to it."""

    model: Any
    removed: int
    """Channels, of all layers."""
    notes: list[str]
    """For people: how many channels of each layer, or why it stays whole."""


def prune(model: Any, share: float, rows: Sequence[Tensors]) -> Pruned:
    """Remove a share of the output channels of every layer that allows it, the last one excepted.

    Args:
        model: the graph; it is not changed.
        share: above 0 and below 1.
        rows: batches of inputs as the graph takes them; may be empty.

    Raises:
        ConfigurationError: no layer allows it; the message says why not.
    """
    import onnx

    pruned = onnx.ModelProto()
    pruned.CopyFrom(model)
    notes: list[str] = []
    refusals: list[str] = []
    removed = 0
    for layer in layers(pruned):
        chain = chain_of(pruned, layer)
        if isinstance(chain, str):
            refusals.append(f"{layer} stays whole: {chain}")
            continue
        keep = max(min(_LEAST, chain.width), round(chain.width * (1 - share)))
        if keep >= chain.width:
            continue
        kept = _choose(pruned, chain, keep, rows)
        _cut(pruned, chain, kept)
        removed += chain.width - keep
        notes.append(f"{layer}: {chain.width} channels became {keep}")
    if not removed:
        raise ConfigurationError(
            f"nothing can be pruned in this graph: {'; '.join(refusals[:3]) or 'it has no layers'}"
        )
    del pruned.graph.value_info[:]
    return Pruned(pruned, removed, notes + refusals)


def sparsify(model: Any, share: float) -> tuple[Any, float]:
    """Set the smallest weights of every layer to zero: the graph, and the share of its weights that is zero then.

    The file and the time stay what they are: the zeros are stored and multiplied like any other number. It helps where
    a compressed file travels, or where a runtime of sparse matrices follows.
    """
    import onnx

    sparse = onnx.ModelProto()
    sparse.CopyFrom(model)
    weights = Weights(sparse)
    names = {node.input[1] for node in sparse.graph.node if node.output[0] in set(layers(sparse))}
    zero = total = 0
    for name in sorted(names):
        array = weights[name].copy()
        count = int(array.size * share)
        if count:
            array.ravel()[np.argpartition(np.abs(array).ravel(), count - 1)[:count]] = 0
            weights[name] = array
        zero, total = zero + int((array == 0).sum()), total + array.size
    if not total:
        raise ConfigurationError("nothing can be pruned in this graph: it has no layers")
    return sparse, zero / total


# --- which channels go ---------------------------------------------------------------------------------


class _System:
    """One taking layer: the inverse moments of its inputs, and its weights for them."""

    def __init__(self, weights: Weights, taker: Taker, width: int, values: Array | None) -> None:
        self._weights, self._taker, self._width = weights, taker, width
        whole = np.moveaxis(weights[taker.node.input[1]].astype(np.float64), taker.axis, 0)
        first, block = taker.place.first, taker.place.block
        self._shape = whole[first : first + width * block].shape
        self.weights = whole[first : first + width * block].reshape(width, -1)
        self._before = self.weights.copy()
        self.inverse, self._means = np.eye(width), None
        if values is not None:
            means = values.mean(axis=0)
            # Where a bias can take it up, only what varies has to be made up for.
            self._means = means if self._has_bias() else None
            centred = values - means if self._means is not None else values
            moments = centred.T @ centred / len(values)
            ridge = _RIDGE * float(np.trace(moments)) / width + 1e-12
            self.inverse = np.linalg.inv(moments + ridge * np.eye(width))

    def costs(self) -> Array:
        """[channels], what removing each would cost."""
        costs: Array = np.einsum("ij,ij->i", self.weights, self.weights) / np.diag(self.inverse)
        return costs

    def remove(self, channel: int) -> None:
        """Let the others take over."""
        row, pivot = self.inverse[channel].copy(), self.inverse[channel, channel]
        self.weights -= np.outer(row / pivot, self.weights[channel])
        self.inverse -= np.outer(row, row) / pivot
        self.inverse[channel, channel] = 1.0  # out of the game; never looked at again

    def write(self) -> None:
        """Put the new weights, and the bias that makes up for the means, into the graph."""
        node, axis = self._taker.node, self._taker.axis
        whole = np.moveaxis(self._weights[node.input[1]].copy(), axis, 0)
        first, count = self._taker.place.first, self._shape[0]
        whole[first : first + count] = self.weights.reshape(self._shape)
        self._weights[node.input[1]] = np.moveaxis(whole, 0, axis)
        if self._means is not None:
            lost = (self._means @ (self._before - self.weights)).reshape(self._shape[1:])
            bias = self._weights[node.input[2]]
            # What is left of a convolution's weights after its inputs: outputs, then the places of the kernel.
            self._weights[node.input[2]] = bias + lost.reshape(lost.shape[0], -1).sum(axis=1).reshape(bias.shape)

    def _has_bias(self) -> bool:
        node = self._taker.node
        if self._taker.place.block > 1 or len(node.input) < 3 or node.input[2] not in self._weights:
            return False
        if node.op_type == "Conv":
            # At a padded edge the mean is not what the kernel sees.
            padded = any(one.name == "pads" and any(one.ints) for one in node.attribute)
            automatic = any(one.name == "auto_pad" and one.s not in (b"NOTSET", b"VALID") for one in node.attribute)
            return not padded and not automatic
        if node.op_type != "Gemm" or any(one.name in ("alpha", "beta") and one.f != 1.0 for one in node.attribute):
            return False
        return bool(self._weights[node.input[2]].size == self._shape[1])


def _choose(model: Any, chain: Chain, keep: int, rows: Sequence[Tensors]) -> Array:
    """Numbers of the channels that stay; the weights of those that take them in are made to fit."""
    weights = Weights(model)
    tensors = [taker.node.input[0] for taker in chain.takers]
    values = _values(model, tensors, chain, rows)
    systems = [_System(weights, taker, chain.width, found) for taker, found in zip(chain.takers, values, strict=True)]
    left = np.ones(chain.width, bool)
    for _ in range(chain.width - keep):
        costs = np.sum([system.costs() for system in systems], axis=0)
        goes = int(np.argmin(np.where(left, costs, np.inf)))
        left[goes] = False
        for system in systems:
            system.remove(goes)
    for system in systems:
        system.weights[~left] = 0
        system.write()
    return np.flatnonzero(left)


def _values(model: Any, tensors: list[str], chain: Chain, rows: Sequence[Tensors]) -> list[Array | None]:
    """Of each taker, what comes in: [samples, channels]."""
    if not rows:
        return [None] * len(tensors)
    found = outputs_of(model, rows, list(dict.fromkeys(tensors)))
    rng = np.random.default_rng(0)
    values: list[Array | None] = []
    for name, taker in zip(tensors, chain.takers, strict=True):
        samples = np.concatenate([_samples(array, taker.place, chain.width) for array in found[name]])
        if len(samples) > _SAMPLES:
            samples = samples[rng.choice(len(samples), _SAMPLES, replace=False)]
        values.append(samples.astype(np.float64))
    return values


def _samples(array: Array, place: Place, width: int) -> Array:
    """[samples, channels] of a tensor, each pixel a sample."""
    flat = np.moveaxis(array, place.axis, -1)[..., place.first : place.first + width * place.block]
    split = flat.reshape(-1, width, place.block)
    samples: Array = np.moveaxis(split, 1, -1).reshape(-1, width)
    return samples


def _cut(model: Any, chain: Chain, kept: Array) -> None:
    """Take the removed channels out of every constant that has them."""
    from onnx import helper

    weights = Weights(model)
    for cut in chain.cuts:
        array = weights[cut.name]
        first, block = cut.place.first, cut.place.block
        gone = np.setdiff1d(np.arange(chain.width), kept)
        entries = (first + gone[:, None] * block + np.arange(block)).ravel()
        weights[cut.name] = np.delete(array, entries, axis=cut.axis)
    for node in chain.flattened:
        # It named the old size; what follows takes whatever there is.
        name = node.output[0]
        node.CopyFrom(helper.make_node("Flatten", [node.input[0]], [name], name=node.name, axis=1))
    for node in chain.grouped:
        for attribute in node.attribute:
            if attribute.name == "group":
                attribute.i = len(kept)

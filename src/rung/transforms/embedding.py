"""The head of an encoder: one vector for each item."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rung.domain.errors import ConfigurationError, ModelError
from rung.domain.tensors import Array, Signature, Tensors
from rung.transforms.steps import has_bulk, named, pick, real

__all__ = ["vector"]

_POOLINGS = ("none", "mean", "cls")
_NORMS = ("l2", "none")


def _bulk(
    signature: Signature,
    context_labels: tuple[str, ...],
    *,
    normalize: str = "l2",
    pooling: str = "none",
    mask: str = "attention_mask",
    output: str = "",
) -> Callable[[Tensors, Tensors], list[Any]]:
    _check(normalize, pooling)
    spec = pick(signature, output, "embedding.vector")
    wanted = 2 if pooling == "none" else 3
    if len(spec.shape) != wanted:
        shape = "[rows, size]" if wanted == 2 else "[rows, tokens, size]"
        raise ConfigurationError(
            f"embedding.vector with the pooling {pooling!r} takes {shape}; "
            f"the output {spec.name!r} is {list(spec.shape)}"
        )

    def vectors(outputs: Tensors, inputs: Tensors) -> list[Any]:
        return list(_vectors(outputs[spec.name], inputs.get(mask), normalize, pooling))

    return vectors


@has_bulk(_bulk)
def vector(
    value: Any,
    context: dict[str, Any],
    *,
    normalize: str = "l2",
    pooling: str = "none",
    mask: str = "attention_mask",
    output: str = "",
) -> Array:
    """Give the item's vector as a list of numbers, of length 1 unless told otherwise.

    A vector of zeros stays as it is.

    Args:
        value: float [size], or [tokens, size] with a pooling; or such arrays by output name.
        context: `mask`, int [tokens], where there is one.
        normalize: `l2` for vectors of length 1, `none`.
        pooling: what becomes of [tokens, size]: `mean` over the tokens of the mask, `cls` for the first token;
            `none` where the model gives one vector.
        mask: name of the model's input that is 1 where a token counts and 0 for padding; if there is none, all count.
        output: which output; not needed where only one holds real numbers.

    Raises:
        ModelError: the vector holds NaN or Infinity.
        ConfigurationError: an unknown way to normalize or pool, or one that does not fit the output.
    """
    _check(normalize, pooling)
    weights = context.get("mask")
    array = named(value, output, "embedding.vector")
    single: Array = _vectors(array[None], None if weights is None else weights[None], normalize, pooling)[0]
    return single


def _check(normalize: str, pooling: str) -> None:
    if normalize not in _NORMS or pooling not in _POOLINGS:
        raise ConfigurationError(
            f"embedding.vector knows normalize {' and '.join(_NORMS)}, and pooling {', '.join(_POOLINGS)}; "
            f"not {normalize!r} and {pooling!r}"
        )


def _vectors(array: Array, mask: Array | None, normalize: str, pooling: str) -> Array:
    result = real(array)
    if pooling == "cls":
        result = result[:, 0]
    elif pooling == "mean" and mask is None:
        result = result.mean(axis=1)
    elif pooling == "mean":
        assert mask is not None
        # Chosen, not multiplied: what a model gives for padding may be NaN.
        weights = mask.astype(bool)[:, :, None]
        result = np.where(weights, result, 0).sum(axis=1) / np.maximum(weights.sum(axis=1), 1).astype(result.dtype)
    finite = np.isfinite(result).all(axis=1)
    if not finite.all():
        raise ModelError(f"the model gave a vector that is not finite for row {int(finite.argmin())}")
    if normalize == "l2":
        # By the largest first, so that the squares neither overflow nor vanish.
        largest = np.abs(result).max(axis=1, keepdims=True, initial=0)
        result = result / np.where(largest > 0, largest, 1)
        length = np.sqrt((result * result).sum(axis=1, keepdims=True))
        result = result / np.where(length > 0, length, 1)
    return np.ascontiguousarray(result)

"""The head of a classifier: which classes are likely, and how likely."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rung.domain.errors import ConfigurationError, ModelError
from rung.domain.tensors import Array, Signature, Tensors
from rung.transforms.steps import has_bulk, named, pick, real

__all__ = ["top_k"]

_ACTIVATIONS = ("none", "softmax", "sigmoid")


class _Ranking:
    """The parameters of `top_k`, checked."""

    def __init__(
        self, k: int, names: tuple[str, ...], activation: str, threshold: float | None, classes: int = -1
    ) -> None:
        self._k = k
        self._names = names
        self._activation = activation
        self._threshold = threshold
        self._classes = classes

    def check(self) -> "_Ranking":
        """Raises `ConfigurationError` for parameters that do not go together."""
        if self._activation not in _ACTIVATIONS:
            known = ", ".join(_ACTIVATIONS)
            raise ConfigurationError(f"classification.top_k knows the activations {known}, not {self._activation!r}")
        if isinstance(self._k, bool) or not isinstance(self._k, int) or self._k < 1:
            raise ConfigurationError(f"classification.top_k takes a k from 1, not {self._k!r}")
        if self._threshold is not None and not isinstance(self._threshold, int | float):
            raise ConfigurationError(f"classification.top_k takes a number as threshold, not {self._threshold!r}")
        if self._classes > 0:
            self._check_names(2 if self._classes == 1 else self._classes)
        return self

    def _check_names(self, classes: int) -> None:
        if self._names and len(self._names) != classes:
            raise ConfigurationError(
                f"there are {len(self._names)} labels ({', '.join(self._names)[:200]}) for a model of {classes} classes"
            )

    def rank(self, outputs: Array) -> list[list[dict[str, Any]]]:
        """Rank the classes of each row of [N, C], [N] or [N, 1]."""
        scores = self._scores(outputs)
        self._check_names(scores.shape[1])
        # Stable: of classes with equal scores the first comes first.
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self._k]
        best = np.take_along_axis(scores, order, axis=1)
        names: Sequence[Any] = self._names or range(scores.shape[1])
        # Elements of an array, not Python floats: a float32 is then written in its own few digits.
        pairs = [
            {"label": names[index], "score": score}
            for index, score in zip(order.ravel().tolist(), best.ravel(), strict=True)
        ]
        counts = [best.shape[1]] * len(best)
        if self._threshold is not None:
            counts = (best >= self._threshold).sum(axis=1).tolist()
        starts = range(0, len(pairs), best.shape[1])
        return [pairs[start : start + count] for start, count in zip(starts, counts, strict=True)]

    def likeliest(self, outputs: Array) -> dict[str, tuple[Array, Array]]:
        """The class of each row and its score, known where it reaches the threshold: the first of `rank`."""
        scores = self._scores(outputs)
        self._check_names(scores.shape[1])
        best = scores.argmax(axis=1)
        names = np.array(self._names or [str(place) for place in range(scores.shape[1])], object)
        score = np.take_along_axis(scores, best[:, None], axis=1)[:, 0]
        known = np.full(len(score), fill_value=True) if self._threshold is None else score >= self._threshold
        return {"label": (names[best], known), "score": (score, known)}

    def _scores(self, outputs: Array) -> Array:
        scores = real(outputs).reshape(len(outputs), -1)
        finite = np.isfinite(scores).all(axis=1)
        if not finite.all() or not scores.shape[1]:
            raise ModelError(f"the model gave scores that are not finite numbers for row {int(finite.argmin())}")
        if self._activation == "softmax":
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = scores / scores.sum(axis=1, keepdims=True)
        elif self._activation == "sigmoid":
            with np.errstate(over="ignore"):
                scores = 1 / (1 + np.exp(-scores))
        if scores.shape[1] == 1:
            # One number is the probability of the second of two classes.
            scores = np.concatenate([1 - scores, scores], axis=1)
        return scores


def _ranking(
    signature: Signature,
    context_labels: tuple[str, ...],
    *,
    k: int = 5,
    labels: Sequence[str] = (),
    activation: str = "none",
    threshold: float | None = None,
    output: str = "",
) -> tuple[str, _Ranking]:
    spec = pick(signature, output, "classification.top_k")
    sizes = [size for size in spec.shape[1:] if size != 1]
    if len(sizes) > 1:
        raise ConfigurationError(
            f"classification.top_k takes scores [rows, classes]; the output {spec.name!r} is {list(spec.shape)}"
        )
    classes = sizes[0] if sizes else 1
    return spec.name, _Ranking(k, tuple(labels) or context_labels, activation, threshold, classes).check()


def _bulk(
    signature: Signature, context_labels: tuple[str, ...], /, **params: Any
) -> Callable[[Tensors, Tensors], list[Any]]:
    name, ranking = _ranking(signature, context_labels, **params)
    return lambda outputs, inputs: ranking.rank(outputs[name])


def _columns(
    signature: Signature, context_labels: tuple[str, ...], /, **params: Any
) -> Callable[[Tensors], dict[str, tuple[Array, Array]]]:
    name, ranking = _ranking(signature, context_labels, **params)
    return lambda outputs: ranking.likeliest(outputs[name])


@has_bulk(_bulk, columns=_columns)
def top_k(
    value: Any,
    context: dict[str, Any],
    *,
    k: int = 5,
    labels: Sequence[str] = (),
    activation: str = "none",
    threshold: float | None = None,
    output: str = "",
) -> list[dict[str, Any]]:
    """Name the `k` likeliest classes, best first: `[{"label": "cat", "score": 0.93}, ...]`.

    Classes with equal scores stay in the model's order. Without labels a class is called by its number.
    A model that gives one number per item has two classes, and the number belongs to the second.

    Args:
        value: scores [C] of one item, or arrays by output name.
        context: `labels` of the manifest.
        k: how many classes at most.
        labels: names of all classes, in the model's order; those of the manifest when empty.
        activation: `softmax` (one of the classes is right) or `sigmoid` (each for itself) when the model gives
            logits, `none` when it gives probabilities.
        threshold: leaves out classes with a lower score, for items that may have several classes or none.
        output: which output holds the scores; not needed where only one holds real numbers.

    Raises:
        ModelError: a score is not a finite number.
        ConfigurationError: the parameters do not fit the model.
    """
    names = tuple(labels) or tuple(context.get("labels", ()))
    ranking = _Ranking(k, names, activation, threshold).check()
    return ranking.rank(named(value, output, "classification.top_k")[None])[0]

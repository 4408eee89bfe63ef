"""Which output step a task gets when a bundle names none: a table of pure functions of the signature.

Whether a model gives logits or probabilities is read off answers that it gave, since no signature says so.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rung.domain.models import Step
from rung.domain.tensors import Signature, Tensors, TensorSpec
from rung.transforms.steps import row_wise

__all__ = ["TASKS", "default_output"]

_FLOATS = ("FP16", "FP32", "FP64")
_Specs = tuple[TensorSpec, ...]
_Labels = tuple[str, ...]
_Chooser = Callable[[_Specs, _Labels, Sequence[Tensors]], Step | None]


def default_output(
    task: str, signature: Signature, labels: tuple[str, ...] = (), answers: Sequence[Tensors] = ()
) -> tuple[Step, ...]:
    """Choose the output steps for a task; none where the task is unknown or no step fits the outputs.

    Args:
        task: a key of `TASKS`; what stands before its last `-` does not matter, as in `text-classification`.
        signature: of the model.
        labels: names of the classes; their number tells outputs apart.
        answers: outputs that the model gave to examples.
    """
    choose = TASKS.get(task.rpartition("-")[2])
    step = choose(row_wise(signature).outputs, labels, answers) if choose else None
    if step is None:
        return ()
    # One output needs no name.
    params = {name: value for name, value in step.params.items() if name != "output" or len(signature.outputs) > 1}
    return (Step(step.name, params),)


def _classification(
    outputs: tuple[TensorSpec, ...], labels: tuple[str, ...], answers: Sequence[Tensors]
) -> Step | None:
    rows = [spec for spec in _real(outputs) if len(spec.shape) == 2]
    counted = [spec for spec in rows if spec.shape[1] in (len(labels), -1, 1 if len(labels) == 2 else -1)]
    spec = _only(counted if labels else rows)
    if spec is None:
        return None
    return Step("classification.top_k", {"activation": _activation(spec, answers, "softmax"), "output": spec.name})


def _segmentation(outputs: _Specs, labels: _Labels, answers: Sequence[Tensors]) -> Step | None:
    spec = _only([spec for spec in _real(outputs) if len(spec.shape) == 4])
    if spec is None or (labels and spec.shape[1] > 0 and max(1, spec.shape[1] - 1) - len(labels) not in (0, -1)):
        return None
    return Step("segmentation.mask", {"activation": _activation(spec, answers, "sigmoid"), "output": spec.name})


def _detection(outputs: _Specs, labels: _Labels, answers: Sequence[Tensors]) -> Step | None:
    boxes = _only([spec for spec in _real(outputs) if "box" in spec.name.lower() and spec.shape[-1] == 4])
    scores = _only([spec for spec in _real(outputs) if "score" in spec.name.lower() and len(spec.shape) in (2, 3)])
    classes = [
        spec for spec in outputs if spec.name.lower() in ("classes", "labels", "class_ids") and spec is not scores
    ]
    if boxes is None or scores is None:
        return None
    params: dict[str, Any] = {"boxes": boxes.name, "scores": scores.name}
    if len(classes) == 1:
        params["classes"] = classes[0].name
    found = [answer[boxes.name] for answer in answers if boxes.name in answer and answer[boxes.name].size]
    # Fractions of the picture reach a little over its edges; pixels go far over 2.
    params["normalized"] = bool(found) and max(float(np.abs(array).max()) for array in found) <= 2
    return Step("detection.boxes", params)


def _regression(outputs: _Specs, labels: _Labels, answers: Sequence[Tensors]) -> Step | None:
    spec = _only([spec for spec in _real(outputs) if spec.shape[1:] in ((), (1,))])
    return Step("regression.value", {"output": spec.name}) if spec else None


def _embedding(outputs: _Specs, labels: _Labels, answers: Sequence[Tensors]) -> Step | None:
    # Encoders that give a vector for each token often give one for the whole text besides.
    whole, tokens = (_only([spec for spec in _real(outputs) if len(spec.shape) == size]) for size in (2, 3))
    if whole is not None:
        return Step("embedding.vector", {"output": whole.name})
    return Step("embedding.vector", {"output": tokens.name, "pooling": "mean"}) if tokens else None


TASKS: dict[str, _Chooser] = {
    "classification": _classification,
    "segmentation": _segmentation,
    "detection": _detection,
    "regression": _regression,
    "embedding": _embedding,
}
"""Task -> what chooses its output step."""


def _real(outputs: _Specs) -> list[TensorSpec]:
    return [spec for spec in outputs if spec.datatype in _FLOATS]


def _only(specs: list[TensorSpec]) -> TensorSpec | None:
    return specs[0] if len(specs) == 1 else None


def _activation(spec: TensorSpec, answers: Sequence[Tensors], otherwise: str) -> str:
    arrays = [answer[spec.name] for answer in answers if spec.name in answer]
    within = bool(arrays) and all(array.size and array.min() >= 0 and array.max() <= 1 for array in arrays)
    if otherwise == "softmax" and spec.shape[1] == 1:
        otherwise = "sigmoid"
    return "none" if within else otherwise

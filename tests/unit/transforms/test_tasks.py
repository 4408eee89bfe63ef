"""The output step that a task gets when none is named."""

import numpy as np
import pytest

from rung.domain.models import Step
from rung.domain.tensors import Signature, TensorSpec
from rung.transforms.tasks import default_output

X = (TensorSpec("x", "FP32", (-1, 4)),)


def chosen(task, *outputs, labels=(), answers=(), batched=True):
    specs = tuple(TensorSpec(name, datatype, shape) for name, datatype, shape in outputs)
    return default_output(task, Signature(X, specs, batched), labels, answers)


SCORES = ("y", "FP32", (-1, 3))


@pytest.mark.parametrize(
    ("task", "outputs", "labels", "step"),
    [
        ("classification", [SCORES], ("a", "b", "c"), Step("classification.top_k", {"activation": "softmax"})),
        ("text-classification", [SCORES], (), Step("classification.top_k", {"activation": "softmax"})),
        (
            "classification",
            [("label", "INT64", (-1,)), ("p", "FP32", (-1, -1))],
            ("a", "b"),
            Step("classification.top_k", {"activation": "softmax", "output": "p"}),
        ),
        (
            "classification",
            [("y", "FP32", (-1, 1))],
            ("a", "b"),
            Step("classification.top_k", {"activation": "sigmoid"}),
        ),
        ("classification", [SCORES], ("a", "b"), None),
        ("classification", [SCORES, ("z", "FP32", (-1, 3))], (), None),
        ("classification", [("label", "INT64", (-1,))], (), None),
        ("regression", [("y", "FP32", (-1, 1))], (), Step("regression.value")),
        ("regression", [("y", "FP64", (-1,))], (), Step("regression.value")),
        ("regression", [("y", "FP32", (-1, 4))], (), None),
        ("segmentation", [("y", "FP32", (-1, 1, 8, 8))], ("n",), Step("segmentation.mask", {"activation": "sigmoid"})),
        ("image-segmentation", [("y", "FP32", (-1, 3, 8, 8))], ("a", "b", "c", "d"), None),
        (
            "detection",
            [("boxes", "FP32", (-1, -1, 4)), ("scores", "FP32", (-1, -1)), ("labels", "INT64", (-1, -1))],
            (),
            Step("detection.boxes", {"boxes": "boxes", "scores": "scores", "classes": "labels", "normalized": False}),
        ),
        ("object-detection", [("y", "FP32", (-1, 84, 8400))], (), None),
        ("embedding", [("y", "FP32", (-1, 8))], (), Step("embedding.vector")),
        ("embedding", [("y", "FP32", (-1, -1, 8))], (), Step("embedding.vector", {"pooling": "mean"})),
        (
            "embedding",
            [("tokens", "FP32", (-1, -1, 8)), ("pooled", "FP32", (-1, 8))],
            (),
            Step("embedding.vector", {"output": "pooled"}),
        ),
        ("", [SCORES], (), None),
        ("forecasting", [SCORES], (), None),
    ],
)
def test_the_step_follows_from_task_and_outputs(task, outputs, labels, step):
    assert chosen(task, *outputs, labels=labels) == (() if step is None else (step,))


def test_probabilities_are_known_by_the_answers():
    for values, activation in ([[0.2, 0.3, 0.5]], "none"), ([[0.9, 0.9, 0.1]], "none"), ([[2, 1, 0]], "softmax"):
        (step,) = chosen("classification", SCORES, answers=[{"y": np.array(values, np.float32)}])
        assert step.params["activation"] == activation
    maps = ("y", "FP32", (-1, 1, 2, 2))
    (step,) = chosen("segmentation", maps, answers=[{"y": np.full((1, 1, 2, 2), 0.5, np.float32)}])
    assert step.params["activation"] == "none"


def test_boxes_within_one_are_fractions():
    outputs = [("boxes", "FP32", (-1, 5, 4)), ("scores", "FP32", (-1, 5))]
    for largest, normalized in ((1.1, True), (640, False)):
        (step,) = chosen("detection", *outputs, answers=[{"boxes": np.full((1, 5, 4), largest, np.float32)}])
        assert step.params["normalized"] is normalized


def test_a_model_that_is_not_batched_has_the_same_steps():
    assert chosen("classification", ("y", "FP32", (3,)), batched=False)[0].name == "classification.top_k"

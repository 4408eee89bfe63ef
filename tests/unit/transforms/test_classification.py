"""The head of a classifier: the right classes, in a stable order, in every form that models give scores in."""

import numpy as np
import orjson
import pytest

from rung.domain.errors import BundleError, ConfigurationError, ModelError
from rung.domain.models import Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Signature, TensorSpec
from rung.testing.models_tasks import DIGITS_STEPS, digit_png
from rung.transforms.classification import top_k
from rung.transforms.pipeline import Pipeline

SCORES = (TensorSpec("y", "FP32", (-1, 3)),)


def pipeline(outputs=SCORES, labels=("a", "b", "c"), batched=True, **params):
    shape = (-1, 3) if batched else (3,)
    signature = Signature((TensorSpec("x", "FP32", shape),), tuple(outputs), batched)
    return Pipeline.of(Transforms(output=(Step("classification.top_k", params),)), signature, labels)


def answer(pipeline, outputs):
    rows = len(next(iter(outputs.values())))
    prepared = pipeline.prepare(Payload("rows", [[0, 0, 0]] * rows))
    return orjson.loads(pipeline.render(pipeline.finish(outputs, prepared), "application/json"))["predictions"]


def test_best_first_with_labels():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]], np.float32)
    assert answer(pipeline(k=2), {"y": scores}) == [
        [{"label": "b", "score": 0.7}, {"label": "c", "score": 0.2}],
        [{"label": "a", "score": 0.5}, {"label": "b", "score": 0.25}],
    ]


def test_one_item_is_answered_as_many_are():
    scores = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    spec = [TensorSpec("y", "FP32", (-1, 6))]
    for params in ({}, {"activation": "softmax"}, {"activation": "sigmoid", "threshold": 0.5}, {"k": 1}):
        together = pipeline(spec, (), **params)
        prepared = together.prepare(Payload("tensors", {"x": np.zeros((20, 3), np.float32)}))
        results = together.finish({"y": scores}, prepared)
        assert results == [top_k(row, {}, **params) for row in scores]


@pytest.mark.parametrize("params", [{}, {"activation": "softmax"}, {"activation": "sigmoid", "threshold": 0.6}])
def test_as_columns_it_says_what_comes_first_one_by_one(params):
    scores = np.random.default_rng(1).standard_normal((20, 3)).astype(np.float32).round(1)
    for labels in (("a", "b", "c"), ()):
        found = pipeline(labels=labels, k=2, **params).columns({"y": scores})
        for row, (label, score, *known) in enumerate(
            zip(found["label"][0], found["score"][0], found["label"][1], found["score"][1], strict=True)
        ):
            first = [(str(one["label"]), one["score"]) for one in top_k(scores[row], {"labels": labels}, **params)][:1]
            assert [(label, score)] * all(known) == first


def test_equal_scores_stay_in_the_models_order():
    scores = np.full(50, 0.02, np.float32)
    assert [item["label"] for item in top_k(scores, {}, k=50)] == list(range(50))


def test_softmax_adds_up_to_one_and_does_not_overflow():
    best = top_k(np.array([1000.0, 1001.0, 0.0], np.float32), {"labels": ("a", "b", "c")}, activation="softmax")
    assert sum(item["score"] for item in best) == pytest.approx(1)
    assert best[0]["label"] == "b"
    assert best[0]["score"] == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-6)


def test_several_classes_may_be_right_or_none():
    params = {"activation": "sigmoid", "threshold": 0.5}
    found = top_k(np.array([3.0, -1.0, 0.5], np.float32), {"labels": ("a", "b", "c")}, **params)
    assert [item["label"] for item in found] == ["a", "c"]
    assert top_k(np.array([-3.0, -1.0], np.float32), {}, **params) == []


def test_one_number_belongs_to_the_second_of_two_classes():
    one = pipeline([TensorSpec("y", "FP32", (-1, 1))], ("ham", "spam"), activation="sigmoid")
    assert answer(one, {"y": np.array([[2.0]], np.float32)})[0][0]["label"] == "spam"
    flat = pipeline([TensorSpec("y", "FP32", (-1,))], ("ham", "spam"))
    assert answer(flat, {"y": np.array([0.25], np.float32)}) == [
        [{"label": "ham", "score": 0.75}, {"label": "spam", "score": 0.25}]
    ]


def test_the_output_is_found_beside_the_label():
    outputs = [TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3))]
    scores = {"label": np.array([1]), "probabilities": np.array([[0.0, 1, 0]], np.float32)}
    assert answer(pipeline(outputs), scores)[0][0] == {"label": "b", "score": 1}


def test_a_model_that_is_not_batched():
    single = pipeline([TensorSpec("y", "FP32", (3,))], batched=False, k=1)
    prepared = single.prepare(Payload("tensors", {"x": np.zeros(3, np.float32)}))
    assert single.finish({"y": np.array([0, 0, 1], np.float32)}, prepared) == [[{"label": "c", "score": 1}]]


def test_nan_is_the_models_failure_and_named():
    with pytest.raises(ModelError, match="row 1"):
        answer(pipeline(), {"y": np.array([[1, 0, 0], [np.nan, 0, 1]], np.float32)})


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"labels": ["a", "b"]}, "2 labels .* 3 classes"),
        ({"activation": "tanh"}, "knows the activations"),
        ({"k": 0}, "k from 1"),
        ({"output": "z"}, "gives 'y'"),
        ({"top": 3}, "top"),
    ],
)
def test_what_does_not_fit_is_found_when_the_bundle_is_loaded(params, reason):
    with pytest.raises(BundleError, match=reason):
        pipeline(**params)


def test_maps_and_several_outputs_need_a_word():
    with pytest.raises(BundleError, match="rows, classes"):
        pipeline([TensorSpec("y", "FP32", (-1, 3, 8, 8))])
    two = [TensorSpec("y", "FP32", (-1, 3)), TensorSpec("z", "FP32", (-1, 3))]
    with pytest.raises(BundleError, match="'y', 'z'"):
        pipeline(two)
    with pytest.raises(ConfigurationError, match="needs `output`"):
        top_k({"y": np.zeros(3), "z": np.zeros(3)}, {})


def test_digits_are_read_from_pictures(digits_model):
    model, signature = digits_model
    steps = Pipeline.of(DIGITS_STEPS, signature)
    prepared = steps.prepare(Payload("image", [digit_png(number) for number in range(10)]))
    results = steps.finish(model.predict(prepared.inputs), prepared)
    assert [result[0]["label"] for result in results] == list(range(10))

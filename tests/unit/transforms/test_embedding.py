"""The head of an encoder."""

import numpy as np
import orjson
import pytest

from rung.domain.errors import BundleError, ModelError
from rung.domain.models import Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Signature, TensorSpec
from rung.testing.models_tasks import WORDS_STEPS
from rung.transforms.embedding import vector
from rung.transforms.pipeline import Pipeline


def vectors(output, shape, inputs=None, **params):
    inputs = inputs or {"x": np.zeros((len(output), 1), np.float32)}
    specs = tuple(
        TensorSpec(name, "FP32" if array.dtype == np.float32 else "INT64", (-1, -1)) for name, array in inputs.items()
    )
    signature = Signature(specs, (TensorSpec("y", "FP32", shape),))
    pipeline = Pipeline.of(Transforms(output=(Step("embedding.vector", params),)), signature)
    prepared = pipeline.prepare(Payload("tensors", inputs))
    return orjson.loads(pipeline.render(pipeline.finish({"y": output}, prepared), "application/json"))["predictions"]


def test_vectors_have_length_one_unless_told_otherwise():
    given = np.array([[3, 4], [0, 0], [1e30, 0], [1e-30, 0]], np.float32)
    np.testing.assert_allclose(vectors(given, (-1, 2)), [[0.6, 0.8], [0, 0], [1, 0], [1, 0]], rtol=1e-6)
    assert vectors(given[:2], (-1, 2), normalize="none") == [[3, 4], [0, 0]]


def test_tokens_are_pooled_without_the_padding():
    tokens = np.array([[[1, 0], [3, 0], [np.nan, 5]], [[2, 2], [9, 9], [9, 9]]], np.float32)
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    params = {"shape": (-1, -1, 2), "normalize": "none"}
    assert vectors(tokens, inputs={"attention_mask": mask}, pooling="mean", **params) == [[2, 0], [2, 2]]
    assert vectors(tokens, inputs={"counts": mask}, pooling="mean", mask="counts", **params) == [[2, 0], [2, 2]]
    assert vectors(tokens, pooling="cls", **params) == [[1, 0], [2, 2]]
    assert vectors(tokens[1:], pooling="mean", **params)[0] == pytest.approx([20 / 3, 20 / 3])


def test_one_by_one_gives_the_same():
    tokens = np.array([[1, 0], [3, 0], [5, 5]], np.float32)
    assert vector(tokens, {"mask": np.array([1, 1, 0])}, pooling="mean", normalize="none").tolist() == [2, 0]
    assert vector(np.array([0, 2.0]), {}).tolist() == [0, 1]


def test_padding_does_not_change_a_text(words_model):
    model, signature = words_model
    pipeline = Pipeline.of(WORDS_STEPS, signature)

    def embed(texts):
        prepared = pipeline.prepare(Payload("text", texts))
        return pipeline.finish(model.predict(prepared.inputs), prepared)

    together = embed(["dog", "the cats running a car!"])
    np.testing.assert_allclose(together[0], embed(["dog"])[0], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), [1, 1], rtol=1e-5)


def test_what_is_not_finite_is_the_models_failure():
    with pytest.raises(ModelError, match="row 1"):
        vectors(np.array([[1, 2], [np.inf, 0]], np.float32), (-1, 2))


@pytest.mark.parametrize(
    ("params", "shape", "reason"),
    [
        ({}, (-1, -1, 2), "with the pooling 'none' takes"),
        ({"pooling": "mean"}, (-1, 2), "tokens, size"),
        ({"pooling": "max"}, (-1, 2), "pooling none, mean, cls"),
        ({"normalize": "l1"}, (-1, 2), "normalize l2 and none"),
    ],
)
def test_what_does_not_fit_is_found_when_the_bundle_is_loaded(params, shape, reason):
    with pytest.raises(BundleError, match=reason):
        vectors(np.zeros((1, 1), np.float32), shape, **params)

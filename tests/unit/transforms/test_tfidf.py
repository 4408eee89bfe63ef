"""Texts to the weights of their words, as scikit-learn has them."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.domain.errors import BundleError, ConfigurationError, InvalidData, InvalidInput
from rung.domain.models import Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Signature, TensorSpec
from rung.transforms.fitting import apply, are_texts, fit_text
from rung.transforms.pipeline import Pipeline
from rung.transforms.tfidf import terms_of, tfidf

OUT = (TensorSpec("y", "FP32", (-1, 2)),)
TEXTS = [
    "Free entry! Text WIN to 80086 now, free free prize",
    "See you at the station at nine",
    "You have WON a prize. Text CLAIM to 80086",
    "ok, at nine then; I'll text you from the station",
    "",
    "Ünï-code ça va? ça va",
]
WORDS = st.lists(st.sampled_from(["win", "a", "free", "Prize", "at", "the", "ça", "x1", "80086", "!", "\n", "_b"]))


def matrix_of(width: int, datatype: str = "FP32") -> Signature:
    return Signature((TensorSpec("x", datatype, (-1, width)),), OUT)


def pipeline_of(step: Step, datatype: str = "FP32") -> Pipeline:
    return Pipeline.of(Transforms((step,)), matrix_of(len(step.params["idf"]), datatype))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ngrams": (1, 1), "least": 1},
        {"ngrams": (2, 3), "least": 1},
        {"most": 5},
        {"most": 7, "least": 1},
        {"sublinear": True},
        {"lowercase": False, "least": 1},
    ],
    ids=str,
)
def test_equals_scikit_learn(options):
    text = pytest.importorskip("sklearn.feature_extraction.text")
    step = fit_text(TEXTS, **options)
    judge = text.TfidfVectorizer(
        ngram_range=options.get("ngrams", (1, 2)),
        min_df=options.get("least", 2),
        max_features=options.get("most"),
        lowercase=options.get("lowercase", True),
        sublinear_tf=options.get("sublinear", False),
    ).fit(TEXTS)

    if "most" in options:
        # Of equally frequent terms scikit-learn keeps whichever its sort leaves in front.
        judge = text.TfidfVectorizer(
            ngram_range=(1, 2), vocabulary=step.params["vocabulary"], lowercase=True, sublinear_tf=False
        ).fit(TEXTS)
        assert len(step.params["vocabulary"]) == options["most"]
    assert step.params["vocabulary"] == list(judge.get_feature_names_out())
    unseen = ["Free free PRIZE at the station", "nothing known here", "va ça va nine, nine"]
    for texts in (TEXTS, unseen):
        np.testing.assert_allclose(apply(step, {"text": texts}), judge.transform(texts).toarray(), rtol=0, atol=1e-6)


def test_the_most_frequent_terms_are_kept():
    step = fit_text(["dd cc aa a", "cc aa", "bb bb bb"], most=2, ngrams=(1, 1), least=1)
    assert step.params["vocabulary"] == ["aa", "bb"]


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=6))
def test_a_row_is_the_same_alone_among_others_and_in_training(texts):
    step = fit_text([*TEXTS, *texts])
    step = Step(step.name, json.loads(json.dumps(step.params)))  # as the manifest gives it back
    trained = apply(step, {"text": texts})
    pipeline = pipeline_of(step)
    together = pipeline.prepare(Payload("text", texts)).inputs["x"]
    assert trained.dtype == np.float32
    assert trained.tobytes() == together.tobytes()
    double = pipeline_of(step, "FP64").prepare(Payload("text", texts)).inputs["x"]
    assert double.tobytes() == trained.astype(np.float64).tobytes()
    for row, text in enumerate(texts):
        for kind, value in (("text", text), ("rows", [{"text": text}]), ("rows", {"text": [text]})):
            alone = pipeline.prepare(Payload(kind, value)).inputs["x"]
            assert alone.tobytes() == trained[row].tobytes()
        assert tfidf(text, {}, **step.params).tobytes() == trained[row].tobytes()
    lengths = np.linalg.norm(trained, axis=1)
    assert np.all((np.abs(lengths - 1) < 1e-6) | (lengths == 0))


def test_terms():
    assert list(terms_of("Go to the U.S. now", (1, 2))) == [
        "go", "to", "the", "now", "go to", "to the", "the now",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("texts", "options", "error", "words"),
    [
        (["one two", None], {}, InvalidData, "row 1 of the training texts is None"),
        (["a b", "c"], {}, InvalidData, "no term of 1 to 2 words occurs in 2 of the 2"),
        ([], {}, InvalidData, "no term"),
        (TEXTS, {"most": 0}, ConfigurationError, "most"),
        (TEXTS, {"ngrams": (2, 1)}, ConfigurationError, "ngrams"),
        (TEXTS, {"ngrams": (0, 1)}, ConfigurationError, "ngrams"),
    ],
)
def test_what_cannot_be_fitted_is_said(texts, options, error, words):
    with pytest.raises(error, match=words):
        fit_text(texts, **options)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"idf": [1.0]}, "a weight in idf for each term"),
        ({"vocabulary": [], "idf": []}, "a weight in idf for each term"),
        ({"vocabulary": ["one", "one"]}, "twice"),
        ({"idf": [1.0, -1.0]}, "above 0"),
        ({"ngrams": [1]}, "ngrams"),
        ({"stemming": True}, "stemming"),
    ],
)
def test_parameters_that_contradict_themselves_are_refused_at_loading(changed, words):
    params = {"vocabulary": ["one", "two"], "idf": [1.0, 2.0], **changed}
    with pytest.raises(BundleError, match=words):
        Pipeline.of(Transforms((Step("text.tfidf", params),)), matrix_of(2))


@pytest.mark.parametrize("signature", [matrix_of(3), matrix_of(2, "INT64"), matrix_of(2, "BYTES")])
def test_a_model_that_takes_something_else_is_refused_at_loading(signature):
    step = Step("text.tfidf", {"vocabulary": ["one", "two"], "idf": [1.0, 2.0]})
    with pytest.raises(BundleError, match="one matrix of real numbers with 2 columns"):
        Pipeline.of(Transforms((step,)), signature)


@pytest.mark.parametrize("value", [[1], [None], ["ok", 3], [{"text": ["a"]}]])
def test_what_is_no_text_is_refused(value):
    pipeline = pipeline_of(fit_text(TEXTS))
    with pytest.raises(InvalidInput, match="a text is expected"):
        pipeline.prepare(Payload("rows", value))


def test_texts_and_categories_are_told_apart():
    assert are_texts(["call me at nine", "see you", None, "on my way"])
    assert are_texts([f"message {number}" for number in range(300)] * 4)
    assert not are_texts(["ham", "spam"] * 10)
    assert not are_texts([None, None])

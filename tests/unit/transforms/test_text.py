"""Texts to tensors."""

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import BundleError, InvalidInput, UnsupportedMedia
from rung.domain.models import Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Signature, TensorSpec
from rung.testing.models_tasks import MESSAGES_STEPS, WORDS, WORDS_STEPS
from rung.transforms.pipeline import Pipeline
from rung.transforms.text import WordPiece, encode, wordpiece

OUT = (TensorSpec("y", "FP32", (-1, 2)),)
TEXT = Signature((TensorSpec("text", "BYTES", (-1, 1)),), OUT)


def ids(*, shape=(-1, -1), names=("input_ids", "attention_mask"), datatype="INT64"):
    return Signature(tuple(TensorSpec(name, datatype, shape) for name in names), OUT)


def pieces(text, **params):
    made = wordpiece(text, {}, vocabulary=list(WORDS), **params)["input_ids"]
    return [WORDS[number] for number in made]


def test_messages_are_told_apart(messages_model):
    model, signature = messages_model
    pipeline = Pipeline.of(MESSAGES_STEPS, signature, ("ham", "spam"))
    prepared = pipeline.prepare(Payload("text", ["WIN a free prize, text NOW", "see you at the station"]))
    results = pipeline.finish(model.predict(prepared.inputs), prepared)
    assert [result[0]["label"] for result in results] == ["spam", "ham"]
    assert all(0.5 < result[0]["score"] < 1 for result in results)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("text", ["Ünï ©", "b"]),
        ("rows", ["Ünï ©", "b"]),
        ("rows", [{"text": "Ünï ©"}, {"text": "b"}]),
        ("rows", [["Ünï ©"], ["b"]]),
        ("rows", {"text": ["Ünï ©", "b"]}),
    ],
)
def test_a_text_in_any_wrapping_becomes_utf_8(kind, value):
    pipeline = Pipeline.of(Transforms((Step("text.encode", {"lowercase": True}),)), TEXT)
    assert pipeline.prepare(Payload(kind, value)).inputs["text"].tolist() == [["ünï ©".encode()], [b"b"]]


def test_one_text_alone_and_a_model_of_plain_rows():
    flat = Signature((TensorSpec("text", "BYTES", (-1,)),), OUT)
    pipeline = Pipeline.of(Transforms((Step("text.encode", {"max_length": 3}),)), flat)
    assert pipeline.prepare(Payload("text", "words")).inputs["text"].tolist() == [b"wor"]
    assert encode("Words", {}, lowercase=True)[()] == b"words"


@pytest.mark.parametrize("value", [[1], ["a", None], [{"text": 5}], [{"a": "b", "c": "d"}], ["a", "\ud800"], []])
def test_what_is_no_text_is_refused(value):
    pipeline = Pipeline.of(Transforms((Step("text.encode"),)), TEXT)
    with pytest.raises(InvalidInput, match=r"text|no items"):
        pipeline.prepare(Payload("rows", value))
    with pytest.raises(UnsupportedMedia):
        pipeline.prepare(Payload("image", b""))


def test_words_fall_into_the_longest_pieces():
    assert pieces("The cats running!") == ["[CLS]", "the", "cat", "##s", "run", "##ning", "!", "[SEP]"]
    assert pieces("cart CARS") == ["[CLS]", "[UNK]", "car", "##s", "[SEP]"]
    assert pieces("") == ["[CLS]", "[SEP]"]
    assert pieces("a!a") == ["[CLS]", "a", "!", "a", "[SEP]"]


def test_accents_case_and_what_does_not_show():
    assert pieces("Cät\u200b \u00a0DOG\x00") == ["[CLS]", "cat", "dog", "[SEP]"]
    assert pieces("Cat cat", lowercase=False) == ["[CLS]", "[UNK]", "cat", "[SEP]"]
    assert pieces("猫cat") == ["[CLS]", "[UNK]", "cat", "[SEP]"]
    assert pieces("x" * 5000) == ["[CLS]", "[UNK]", "[SEP]"]


def test_long_texts_are_cut_and_short_ones_padded():
    assert pieces("cat dog cat dog", max_length=4) == ["[CLS]", "cat", "dog", "[SEP]"]
    pipeline = Pipeline.of(Transforms(WORDS_STEPS.input), ids())
    inputs = pipeline.prepare(Payload("text", ["the cat!", "dog"])).inputs
    assert inputs["input_ids"].tolist() == [[2, 10, 4, 11, 3], [2, 5, 3, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]


def test_a_model_of_fixed_length_and_of_three_inputs():
    names = ("input_ids", "token_type_ids", "attention_mask")
    pipeline = Pipeline.of(Transforms(WORDS_STEPS.input), ids(shape=(-1, 6), names=names, datatype="INT32"))
    inputs = pipeline.prepare(Payload("text", "cat " * 9)).inputs
    assert list(inputs) == list(names)
    assert inputs["input_ids"].tolist() == [[2, 4, 4, 4, 4, 3]]
    assert inputs["input_ids"].dtype == np.int32
    assert inputs["token_type_ids"].tolist() == [[0] * 6]


@pytest.mark.parametrize(
    ("params", "signature", "reason"),
    [
        ({"vocabulary": ["a", "[PAD]", "[UNK]"]}, ids(), r"has no \[CLS\], \[SEP\]"),
        ({"vocabulary": list(WORDS), "max_length": 1}, ids(), "max_length from 2"),
        ({"vocabulary": list(WORDS)}, TEXT, "the model takes text"),
        ({"vocabulary": list(WORDS)}, ids(names=("input_ids", "pixels")), "pixels"),
        ({}, ids(), "vocabulary"),
    ],
)
def test_what_does_not_fit_is_found_when_the_bundle_is_loaded(params, signature, reason):
    with pytest.raises(BundleError, match=reason):
        Pipeline.of(Transforms((Step("text.wordpiece", params),)), signature)
    with pytest.raises(BundleError, match=r"text\.encode needs"):
        Pipeline.of(Transforms((Step("text.encode"),)), ids())


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4), st.integers(2, 12))
def test_any_text_becomes_ids_between_begin_and_end(texts, limit):
    made = WordPiece.of(WORDS, lowercase=True, max_length=limit).encode(texts, limit)
    for numbers, mask in zip(made["input_ids"], made["attention_mask"], strict=True):
        length = int(mask.sum())
        assert numbers[0] == 2
        assert numbers[length - 1] == 3
        assert 2 <= length <= limit
        assert not numbers[length:].any()


def test_the_describing_json_of_a_text_model(messages_model):
    _, signature = messages_model
    pipeline = Pipeline.of(MESSAGES_STEPS, signature, ("ham", "spam"))
    assert pipeline.accepts == ("text", "rows", "tensors")
    assert pipeline.media == ("application/json",)
    assert orjson.loads(pipeline.render([[{"label": "ham", "score": 1.0}]], "application/json"))

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    ModelError,
    NotReady,
    Overloaded,
)
from rung.domain.records import (
    FeedbackRecord,
    MarkRecord,
    PackedTensor,
    PredictionRecord,
    ShadowRecord,
    ShedRecord,
    blame_of,
    decode,
    encode,
    event_id,
)

texts, numbers = st.text(max_size=20), st.floats(allow_nan=False)
json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
records = st.one_of(
    st.builds(
        PredictionRecord,
        texts,
        numbers,
        texts,
        st.integers(1, 2**53),
        unit=texts,
        flags=st.integers(0, 3),
        output_summary=st.dictionaries(texts, st.tuples(numbers, numbers, numbers), max_size=2),
        body=st.none() | st.binary(max_size=30),
    ),
    st.builds(ShadowRecord, texts, numbers, texts, st.integers(1, 9), st.integers(1, 9), equal=st.booleans()),
    st.builds(FeedbackRecord, texts, texts, numbers, numbers, st.sampled_from(["label", "mask", "score"]), json),
    st.builds(ShedRecord, numbers, texts, st.integers(0, 2**40), texts),
    st.builds(MarkRecord, numbers, texts, st.sampled_from(["open", "close"]), st.booleans()),
)


@given(records)
def test_what_was_encoded_comes_back(record):
    assert decode(encode(record)) == record


def test_tensors_come_back_as_lists_that_convert():
    record = PredictionRecord("i", 1.0, "m", 1, outputs={"y": PackedTensor("FP32", (1, 2), b"12345678")})
    found = decode(encode(record)).outputs["y"]
    assert msgspec.convert(found, PackedTensor) == PackedTensor("FP32", (1, 2), b"12345678")


def test_a_record_of_an_older_rung_has_todays_defaults_and_a_newer_ones_further_fields_are_passed_over():
    short = msgspec.msgpack.encode([1, "i", 1.0, "m", 2])
    assert decode(short) == PredictionRecord("i", 1.0, "m", 2)
    full = msgspec.msgpack.decode(encode(PredictionRecord("i", 1.0, "m", 2)))
    assert decode(msgspec.msgpack.encode([*full, "a field to come"])) == PredictionRecord("i", 1.0, "m", 2)


@pytest.mark.parametrize("data", [b"", b"\x00", msgspec.msgpack.encode([9999, 1]), msgspec.msgpack.encode([1, 2, 3])])
def test_what_is_no_record_is_a_decode_error(data):
    with pytest.raises(msgspec.DecodeError):
        decode(data)


@pytest.mark.parametrize(
    ("error", "blame"),
    [
        (InvalidInput("x"), "client"),
        (Cancelled(), "client"),
        (Overloaded(), "server"),
        (DeadlineExceeded(), "server"),
        (ModelError(), "server"),
        (NotReady(), "server"),
        (ZeroDivisionError(), "server"),
    ],
)
def test_blame_goes_to_who_can_act(error, blame):
    assert blame_of(error) == blame


def test_the_same_content_is_the_same_event_whatever_the_order_of_its_fields():
    assert event_id("i", {"a": 1, "b": 2}) == event_id("i", {"b": 2, "a": 1})
    assert event_id("i", {"a": 1}) != event_id("i", {"a": 2})
    assert event_id("i", {"a": 1}) != event_id("j", {"a": 1})

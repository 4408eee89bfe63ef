import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rung.domain.models import Manifest, Step, Transforms
from rung.domain.packing import digest_of, unpack
from rung.domain.records import CONSTANT, NOT_FINITE, FeedbackRecord, PredictionRecord, decode
from rung.domain.tensors import Signature, TensorSpec
from rung.serving.log_encoding import LogPolicy, RecordEncoder

SPECS = (TensorSpec("y", "FP32", (-1, 3)), TensorSpec("label", "BYTES", (-1,)), TensorSpec("half", "BF16", (-1, 2)))


def encoder(**policy) -> RecordEncoder:
    made = RecordEncoder()
    made.know(Manifest("m", 1, "onnx", Signature((TensorSpec("x", "FP32", (-1, 2)),), SPECS), ""), LogPolicy(**policy))
    return made


def answer(outputs, **fields) -> PredictionRecord:
    return PredictionRecord("i", 1.0, "m", 1, outputs=outputs, **fields)


def encoded(records, **policy):
    return [decode(data) for data in encoder(**policy)(records)]


floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(st.lists(arrays.arrays(np.float32, st.sampled_from([(1, 3), (2, 3), (1, 3, 2), (3,)]), elements=floats)))
def test_summaries_and_flags_are_those_of_each_answer_alone(outputs):
    for output, record in zip(outputs, encoded([answer({"y": one}) for one in outputs]), strict=True):
        kept = output[np.isfinite(output)].astype(np.float64)
        mean, least, greatest = record.output_summary["y"]
        if kept.size:
            assert math.isclose(mean, kept.mean(), rel_tol=1e-6, abs_tol=1e-30)
            assert (least, greatest) == (kept.min(), kept.max())
        assert bool(record.flags & NOT_FINITE) == (kept.size < output.size)
        assert bool(record.flags & CONSTANT) == (kept.size == output.size and kept.min() == kept.max())
        assert record.outputs is None


def test_large_answers_are_summed_up_too():
    large = np.random.default_rng(1).random((1, 64, 64), dtype=np.float32)
    (record,) = encoded([answer({"y": large})])
    assert record.output_summary["y"] == pytest.approx((large.mean(dtype=np.float64), large.min(), large.max()))


def test_several_outputs_and_those_that_cannot_vary():
    outputs = {"y": np.ones((1, 3), np.float32), "n": np.array([7]), "label": np.array([b"cat"], object)}
    varied = outputs | {"y": np.array([[1, 2, 3]], np.float32)}
    constant, other, single = encoded([answer(outputs), answer(varied), answer({"n": np.array([7])})])
    assert constant.output_summary == {"y": (1.0, 1.0, 1.0), "n": (7.0, 7.0, 7.0)}
    assert (constant.flags, other.flags, single.flags) == (CONSTANT, 0, 0)


def test_bfloat_is_read_as_numbers():
    halves = (np.array([[1.5, -2.0]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    (record,) = encoded([answer({"half": halves})], outputs="tensors")
    assert record.output_summary["half"] == (-0.25, -2.0, 1.5)
    assert record.outputs["half"][0] == "BF16"


@pytest.mark.parametrize("policy", ["off", "digest", "summary", "tensors"])
def test_policies_of_outputs(policy):
    y = np.array([[1, 2, np.nan]], np.float32)
    (record,) = encoded([answer({"y": y})], outputs=policy)
    assert record.flags == NOT_FINITE  # a trip-wire looks at it, whatever is kept
    assert bool(record.output_summary) == (policy in ("summary", "tensors"))
    assert record.output_digest == (digest_of({"y": y}) if policy in ("digest", "tensors") else b"")
    if policy == "tensors":
        assert np.array_equal(unpack(record.outputs)["y"], y, equal_nan=True)
    else:
        assert record.outputs is None


@pytest.mark.parametrize("policy", ["digest", "tensors", "body", "both"])
def test_policies_of_inputs(policy):
    x = np.array([[1, 2]], np.float32)
    fields = {} if policy == "body" else {"inputs": {"x": x}}
    body = {"body": b"[[1, 2]]"} if policy in ("body", "both") else {}
    (record,) = encoded([answer({}, **fields, **body)], inputs=policy)
    assert len(record.input_digest) == 16
    assert record.body == body.get("body")
    assert (record.inputs is not None) == (policy in ("tensors", "both"))


def test_what_is_over_the_limit_is_left_out_and_its_digest_stands_in():
    x = np.zeros((1, 100), np.float32)
    both = [answer({"y": x}, inputs={"x": x}), answer({"y": x})]
    record, other = encoded(both, inputs="tensors", outputs="tensors", tensor_bytes=399)
    assert (record.inputs, record.outputs, other.outputs) == (None, None, None)
    assert record.input_digest
    assert record.output_digest
    assert record.output_summary
    (record,) = encoded([answer({}, body=bytes(400))], inputs="body", tensor_bytes=399)
    assert record.body is None
    assert record.input_digest


def test_other_records_go_through_and_the_order_stays():
    event = FeedbackRecord("e", "i", 1.0, 1.0, "label", 1)
    records = [answer({"y": np.ones((1, 3))}), event, PredictionRecord("f", 1.0, "m", 1, error="ModelError"), event]
    found = encoded(records)
    assert [type(one) for one in found] == [type(one) for one in records]
    assert found[1] == event
    assert found[2].error == "ModelError"


def test_records_that_come_again_one_by_one_are_encoded_once():
    made = encoder(outputs="tensors", inputs="tensors")
    record = answer({"y": np.ones((1, 3), np.float32)}, inputs={"x": np.ones((1, 2), np.float32)})
    assert made([record]) == made([record])


@pytest.mark.parametrize(
    ("scores", "labels", "params", "predicted"),
    [
        ([[0.1, 0.7, 0.2]], ("cat", "dog", "owl"), {}, "dog"),
        ([[0.1, 0.7, 0.2]], (), {}, "1"),
        ([[0.1, 0.7, 0.2]], ("cat", "dog", "owl"), {"labels": ["a", "b", "c"]}, "b"),
        ([[0.4]], ("ham", "spam"), {}, "ham"),
        ([[0.4]], ("ham", "spam"), {"activation": "sigmoid"}, "spam"),
        ([[0.1, 0.7], [0.6, 0.4]], ("cat", "dog"), {}, ""),
    ],
)
def test_the_likeliest_class_is_kept_of_a_classifier(scores, labels, params, predicted):
    scores = np.array(scores, np.float32)
    signature = Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, scores.shape[1])),))
    steps = Transforms(output=(Step("classification.top_k", params),))
    manifest = Manifest("m", 1, "onnx", signature, "", labels=labels, transforms=steps)
    for outputs, expected in (("summary", predicted), ("digest", ""), ("off", "")):
        made = RecordEncoder()
        made.know(manifest, LogPolicy(outputs=outputs))
        (record,) = [decode(data) for data in made([answer({"y": scores}, rows=len(scores))])]
        assert record.predicted == expected

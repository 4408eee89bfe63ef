"""The head of a regression: one number, as people want to read it."""

import numpy as np
import orjson
import pytest

from rung.domain.errors import BundleError
from rung.domain.models import Step, Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Signature, TensorSpec
from rung.transforms.pipeline import Pipeline
from rung.transforms.regression import number


def answer(values, shape=(-1, 1), **params):
    signature = Signature((TensorSpec("x", "FP32", (-1, 1)),), (TensorSpec("y", "FP32", shape),))
    pipeline = Pipeline.of(Transforms(output=(Step("regression.value", params),)), signature)
    array = np.array(values, np.float32).reshape([len(values), *shape[1:]])
    prepared = pipeline.prepare(Payload("rows", [[0]] * len(values)))
    return orjson.loads(pipeline.render(pipeline.finish({"y": array}, prepared), "application/json"))["predictions"]


def test_a_number_for_each_row():
    assert answer([1.25, -3.1]) == [1.25, -3.1]
    assert answer([1.25], shape=(-1,)) == [1.25]


def test_rounded_clipped_and_with_a_unit():
    params = {"decimals": 1, "min": 0, "max": 10, "unit": "EUR"}
    assert answer([1.26, -3, 99], **params) == [
        {"value": 1.3, "unit": "EUR"},
        {"value": 0, "unit": "EUR"},
        {"value": 10, "unit": "EUR"},
    ]


def test_what_is_no_number_is_null():
    assert answer([float("nan"), float("inf"), 1], max=5) == [None, None, 1]


def test_one_by_one_gives_the_same():
    assert number(np.array([2.345]), {}, decimals=2) == pytest.approx(2.35, abs=0.011)
    assert number({"a": np.array(1.0), "b": np.array(2.0)}, {}, output="b") == 2


@pytest.mark.parametrize(
    ("params", "shape", "reason"),
    [
        ({}, (-1, 3), "one number per row"),
        ({"min": 3, "max": 1}, (-1, 1), "min of 3, over its max"),
        ({"decimals": 1.5}, (-1, 1), "whole number of decimals"),
        ({"output": "z"}, (-1, 1), "gives 'y'"),
    ],
)
def test_what_does_not_fit_is_found_when_the_bundle_is_loaded(params, shape, reason):
    with pytest.raises(BundleError, match=reason):
        answer([1.0], shape, **params)

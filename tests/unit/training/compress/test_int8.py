"""Weights of one byte: the file is a quarter, the answers nearly the same; what cannot be done is said."""

import numpy as np
import pytest

from rung.domain.errors import ConfigurationError
from rung.testing.models import half_plus_two
from rung.training.compress.freeze import freeze
from rung.training.compress.graph import outputs_of, read
from rung.training.compress.int8 import batch_effect, quantise


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_a_linear_model_is_at_least_3_5_times_smaller(digits, mode):
    small = quantise(freeze(digits.model), mode, digits.rows[:64])

    ratio = len(digits.model.SerializeToString()) / len(small.SerializeToString())
    assert ratio >= 3.5
    assert digits.right(small) >= digits.right(digits.model) - 0.01


def test_unfolded_graphs_and_biases_of_one_row_are_taken(digits):
    small = quantise(digits.model, "static", digits.rows[:16])
    assert digits.right(small) > digits.right(digits.model) - 0.02


def test_answers_of_static_do_not_move_with_the_batch_and_those_of_dynamic_do(digits):
    rows = digits.rows[:32]
    frozen = freeze(digits.model)
    assert batch_effect(frozen, rows, "digit") < 1e-5
    assert batch_effect(quantise(frozen, "static", rows), rows, "digit") < 1e-5
    assert batch_effect(quantise(frozen, "dynamic", ()), rows, "digit") > 1e-5


def test_static_takes_rows(digits):
    with pytest.raises(ConfigurationError, match="--int8 dynamic"):
        quantise(digits.model, "static", ())


def test_nothing_to_make_smaller_is_said(tmp_path):
    model = read(half_plus_two(tmp_path / "model.onnx"))
    with pytest.raises(ConfigurationError, match="no matrix weights"):
        quantise(model, "dynamic", ())


def test_the_original_and_its_properties_are_left_alone(digits):
    before = digits.model.SerializeToString()
    small = quantise(digits.model, "dynamic", ())
    assert digits.model.SerializeToString() == before
    assert not small.metadata_props
    (found,) = outputs_of(small, [{"pixels": digits.pixels[:3]}])["digit"]
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)

"""A frozen graph answers as before, with fewer nodes and bytes, and without what only training needs."""

import numpy as np
import onnx

from rung.training.compress.freeze import freeze
from rung.training.compress.graph import nodes_of, outputs_of


def test_what_training_needs_is_gone_and_answers_are_equal(digits):
    frozen = freeze(digits.model)

    kinds = [node.op_type for node in frozen.graph.node]
    assert not {"BatchNormalization", "Dropout", "Identity"} & set(kinds)
    assert kinds.count("Mul") == 0, "a product of constants is a constant, and one times it is nothing"
    assert nodes_of(frozen) == 6 < nodes_of(digits.model)
    assert len(frozen.SerializeToString()) < len(digits.model.SerializeToString())
    before, after = (outputs_of(model, [{"pixels": digits.pixels}])["digit"][0] for model in (digits.model, frozen))
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-5)


def test_the_result_is_plain_onnx(digits):
    frozen = freeze(digits.model)

    onnx.checker.check_model(frozen, full_check=True)
    assert {node.domain for node in frozen.graph.node} == {""}
    assert [entry.domain for entry in frozen.opset_import] == [""]
    used = {name for node in frozen.graph.node for name in node.input}
    assert {tensor.name for tensor in frozen.graph.initializer} <= used

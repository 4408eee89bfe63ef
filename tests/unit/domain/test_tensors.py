import numpy as np
import pytest

from rung.domain.errors import InvalidInput
from rung.domain.tensors import DATATYPES, Signature, TensorSpec, datatype_of, itemsize

X = TensorSpec("x", "FP32", (-1, 4))
N = TensorSpec("n", "INT64", (-1,))
BOTH = Signature((X, N), (X,))


def good():
    return {"x": np.zeros((3, 4), np.float32), "n": np.zeros(3, np.int64)}


def test_every_datatype_knows_its_name():
    for name, dtype in DATATYPES.items():
        if name != "BF16":  # numpy has none: it travels as UINT16
            assert datatype_of(np.zeros(1, dtype)) == name
        assert itemsize(name) == (0 if name == "BYTES" else dtype.itemsize)
    assert datatype_of(np.array(["text"])) == datatype_of(np.array([b"bytes"])) == "BYTES"
    assert datatype_of(np.zeros(1, ">f4")) == "FP32"


@pytest.mark.parametrize("dtype", [np.complex64, "M8[s]", [("a", "f4")]])
def test_arrays_without_a_datatype(dtype):
    with pytest.raises(InvalidInput, match="no datatype in the protocol"):
        datatype_of(np.zeros(1, dtype))


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((1, 4), True), ((0, 4), True), ((9, 4), True), ((4,), False), ((1, 5), False), ((1, 4, 1), False)],
)
def test_a_spec_admits_shapes(shape, fits):
    assert X.admits(shape) is fits


def test_a_signature_counts_rows():
    assert BOTH.check(good()) == 3
    assert Signature((X,), (X,), batched=False).check({"x": np.zeros((3, 4), np.float32)}) == 1
    # The order in which a caller names its inputs is its own.
    assert BOTH.check(dict(reversed(good().items()))) == 3


@pytest.mark.parametrize(
    ("change", "message", "field"),
    [
        ({"x": np.zeros((3, 5), np.float32)}, r"'x' has shape \[3, 5\], the model expects \[-1, 4\]", "x"),
        ({"x": np.zeros((3, 4), np.float64)}, "'x' has datatype FP64, the model expects FP32", "x"),
        ({"x": np.zeros((3, 4), ">f4")}, "'x' has datatype FP32", "x"),
        ({"n": np.zeros(2, np.int64)}, "'n' has 2 rows, input 'x' has 3", "n"),
        ({"x": np.zeros((0, 4), np.float32), "n": np.zeros(0, np.int64)}, "holds no rows", "x"),
        ({"extra": np.zeros(1)}, r"unexpected inference input 'extra', the model takes \['x', 'n'\]", "extra"),
    ],
)
def test_what_does_not_fit_is_named(change, message, field):
    with pytest.raises(InvalidInput, match=message) as error:
        BOTH.check(good() | change)
    assert error.value.field == field


def test_missing_inputs_are_named():
    inputs = good()
    del inputs["n"]
    with pytest.raises(InvalidInput, match=r"expected 2 inputs but got 1 inputs: missing \['n'\]") as error:
        BOTH.check(inputs)
    assert error.value.field == "n"
    with pytest.raises(InvalidInput, match="unexpected inference input 'm'"):
        BOTH.check({"x": inputs["x"], "m": inputs["x"]})

import io
import pickle
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rung.catalog.golden import compare_golden, make_inputs, non_finite, pack_golden, unpack_golden
from rung.domain.errors import BundleError
from rung.domain.models import Golden
from rung.domain.tensors import DATATYPES, Signature, TensorSpec

GOLDEN = Golden("golden.npz", 1, rtol=1e-3, atol=1e-4)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20)
shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    datatype = draw(st.sampled_from(sorted(DATATYPES)))
    shape = draw(shapes)
    if datatype != "BYTES":
        return draw(npst.arrays(DATATYPES[datatype], shape))
    array = np.empty(int(np.prod(shape)), object)
    array[:] = draw(st.lists(st.binary(max_size=8), min_size=array.size, max_size=array.size))
    return array.reshape(shape)


@given(st.lists(st.tuples(st.dictionaries(names, arrays(), max_size=3), st.dictionaries(names, arrays(), max_size=2))))
def test_examples_come_back_bit_for_bit(examples: list) -> None:
    packed = pack_golden(examples)
    unpacked = unpack_golden(packed)
    assert pack_golden(examples) == packed
    assert len(unpacked) == len([pair for pair in examples if pair[0] or pair[1]])
    for before, after in zip([pair for pair in examples if pair[0] or pair[1]], unpacked, strict=True):
        for want, have in zip(before, after, strict=True):
            assert list(want) == list(have)
            for name, array in want.items():
                assert have[name].dtype == array.dtype
                assert have[name].shape == array.shape
                assert have[name].tolist() == array.tolist() or array.tobytes() == have[name].tobytes()


@pytest.mark.parametrize("element", [b"", b"\0", b"end\0\0", b"\xff\xfe", "ü".encode()])
def test_bytes_keep_their_nul_bytes(element: bytes) -> None:
    [(inputs, _)] = unpack_golden(pack_golden([({"t": np.array([[element, b"x"]], object)}, {})]))
    assert inputs["t"].tolist() == [[element, b"x"]]


@given(st.binary(max_size=200), st.data())
def test_damaged_files_are_bundle_errors(noise: bytes, data: st.DataObject) -> None:
    whole = pack_golden([({"x": np.ones((2, 3), np.float32)}, {"y": np.array([b"a"], object)})])
    start = data.draw(st.integers(0, len(whole)))
    for broken in (noise, whole[:start], whole[:start] + noise + whole[start + len(noise) :]):
        with suppress(BundleError):  # damage that leaves a valid file is no error
            unpack_golden(broken)


def test_pickles_inside_are_never_opened() -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("unpickled",))

    for payload in (pickle.dumps(Trap()), _npy_of_objects(Trap())):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("0/in/x.npy", payload)
        with pytest.raises(BundleError):
            unpack_golden(buffer.getvalue())


def _npy_of_objects(value: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([value], object), allow_pickle=True)
    return buffer.getvalue()


def test_bombs_are_refused_before_they_unpack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rung.catalog.golden._LIMIT", 1 << 20)
    packed = pack_golden([({"x": np.zeros(1 << 21, np.uint8)}, {})])
    assert len(packed) < 1 << 17
    with pytest.raises(BundleError, match="unpack to more than 1048576 bytes"):
        unpack_golden(packed)


def expect(**outputs: object) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in outputs.items()}


@pytest.mark.parametrize(
    ("have", "reason"),
    [
        (expect(y=np.float32([1.0005, 100.05])), None),
        (expect(y=np.float32([1.002, 100])), "differs by 0.002"),
        (expect(y=np.float32([1, np.nan])), "NaN"),
        (expect(y=np.float32([1, np.inf])), "NaN or Infinity"),
        (expect(y=np.float32([[1, 100]])), "shape [1, 2], expected [2]"),
        (expect(y=np.float64([1, 100])), "datatype FP64, expected FP32"),
        (expect(z=np.float32([1, 100])), "'y' is missing"),
    ],
)
def test_floats_are_compared_within_tolerance(have: dict, reason: str | None) -> None:
    said = compare_golden(expect(y=np.float32([1, 100])), have, GOLDEN)
    assert said is None if reason is None else reason in str(said)


@pytest.mark.parametrize("values", [np.int64([1, 5000]), np.array([b"a", b"b"], object), np.array([True, False])])
def test_everything_else_is_compared_exactly(values: np.ndarray) -> None:
    assert compare_golden({"y": values}, {"y": values.copy()}, GOLDEN) is None
    said = compare_golden({"y": values}, {"y": values[::-1].copy()}, GOLDEN)
    assert "differs in 2 of 2" in str(said)


def test_made_up_inputs_fit_and_repeat() -> None:
    specs = tuple(TensorSpec(datatype, datatype, (-1, 3, -1)) for datatype in DATATYPES)
    signature = Signature(specs, ())
    once, again = make_inputs(signature), make_inputs(signature)
    assert len(once) == 2
    assert all(signature.check(example) == 1 for example in once)
    assert pack_golden([(example, {}) for example in once]) == pack_golden([(example, {}) for example in again])
    assert not np.array_equal(once[0]["FP32"], once[1]["FP32"])


def test_names_what_is_not_finite() -> None:
    assert non_finite(expect(a=np.float32([1]), b=np.int64([1]), c=np.float16([np.inf]))) == "c"
    assert non_finite(expect(a=np.float32([]))) is None

import msgspec
import numpy as np
import pytest

from rung.domain.packing import digest_of, pack, unpack


@pytest.mark.parametrize("dtype", ["?", "u1", "<i8", "<f2", "<f4", "<f8"])
def test_numbers_come_back(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    travelled = msgspec.msgpack.decode(msgspec.msgpack.encode(pack({"x": array})))
    found = unpack(travelled)["x"]
    assert found.dtype == array.dtype
    assert np.array_equal(found, array)


def test_texts_come_back_as_bytes():
    array = np.array([[b"", b"abc"], [b"\xff\x00", "grün".encode()]], dtype=object)
    found = unpack(pack({"x": array}))["x"]
    assert found.tolist() == array.tolist()


def test_a_view_with_strides_comes_back_in_order():
    array = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::3]
    assert np.array_equal(unpack(pack({"x": array}))["x"], array)


def test_bfloat_keeps_its_name():
    assert pack({"x": np.zeros(2, np.uint16)}, frozenset({"x"}))["x"].datatype == "BF16"


def test_equal_tensors_have_equal_digests_and_others_have_not():
    one = {"a": np.ones((1, 2), np.float32), "b": np.array([b"ab", b"c"], object)}
    same = {"b": np.array([b"ab", b"c"], object), "a": np.ones((2, 2), np.float32)[:1]}
    assert digest_of(one) == digest_of(same)
    assert digest_of(one) != digest_of({**one, "b": np.array([b"a", b"bc"], object)})
    assert digest_of({"a": np.ones((1, 2))}) != digest_of({"a": np.ones((2, 1))})
    assert digest_of({"a": np.zeros(1, np.float32)}) != digest_of({"a": np.zeros(1, np.int32)})

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rung.serving.cache_values import decode, encode, fits

DTYPES = ["<f4", ">f8", "<i8", "|u1", "|b1", "<f2", "|S3", "<U2", "|S0"]
numbers = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
texts = st.lists(st.binary(max_size=8) | st.text(max_size=8), max_size=6).map(
    lambda elements: np.array([*elements, None], object)[:-1].reshape(1, -1)
)
outputs = st.dictionaries(st.text(max_size=8), numbers | texts, max_size=4)
KEY = b"k" * 48


@given(outputs, st.floats(0, 2e9))
def test_what_was_written_is_read(values, born):
    assert fits(values)
    read, when = decode(KEY, encode(KEY, values, born))
    assert when == born
    assert list(read) == list(values)
    for name, array in values.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert not read[name].flags.writeable
        if array.dtype.hasobject:
            assert [(type(one), one) for one in read[name].flat] == [(type(one), one) for one in array.flat]
        else:
            assert read[name].tobytes() == array.tobytes()


@given(st.binary(max_size=200), st.booleans())
def test_what_others_wrote_is_no_value(data, ours):
    assert decode(KEY, b"rung\x01" + data if ours else data) is None


@given(outputs, st.data())
def test_a_damaged_value_is_no_value(values, data):
    good = encode(KEY, values, 1.0)
    at = data.draw(st.integers(0, len(good) - 1))
    bit = data.draw(st.integers(0, 7))
    assert decode(KEY, good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :]) is None
    assert decode(KEY, good[:at]) is None
    assert decode(KEY, good + b"\0") is None


def test_an_answer_handed_out_for_another_key_is_no_value():
    assert decode(b"l" * 48, encode(KEY, {"y": np.ones(3)}, 1.0)) is None


def test_lies_in_a_head_with_a_right_checksum_are_found():
    import zlib

    import msgspec

    def value(*tensors: list, key: bytes = KEY, born: object = 1.0, data: bytes = b"12345678") -> bytes:
        head = msgspec.msgpack.encode([key, born, list(tensors)])
        body = head + data
        return (
            b"rung\x01"
            + zlib.crc32(body, zlib.crc32(KEY)).to_bytes(4, "little")
            + len(head).to_bytes(4, "little")
            + body
        )

    good = value(["y", "<f4", [2], 8, [], b""])
    assert decode(KEY, good) is not None
    lies = [
        value(["y", "<f4", [3], 8, [], b""]),
        value(["y", "<f4", [-1], 8, [], b""]),
        value(["y", "<f4", [-2, -1], 8, [], b""]),
        value(["y", "<f4", [2], 7, [], b""]),
        value(["y", "<f4", [2**40, 2**40], 8, [], b""]),
        value(["y", "object", [1], 8, [], b""]),
        value(["y", "O8", [1], 8, [], b""]),
        value(["y", "<M8[s]", [1], 8, [], b""]),
        value(["y", "f4,f4", [1], 8, [], b""]),
        value(["y", "no such", [1], 8, [], b""]),
        value(["y", "O", [1], 8, [9], b"\0"]),
        value(["y", "O", [2], 8, [8], b"\0"]),
        value(["y", "O", [2], 8, [9, -1], b"\0\0"]),
        value(["y", "O", [1], 8, [8], b""]),
        value(["y", "O", [1], 8, [8], b"\1"], data=b"\xff" * 8),
        value(["y", "<f4", [2], 8, [], b""], key=b"other"),
        value(["y", "<f4", [2], 8, [], b""], born="yesterday"),
        value("y", "<f4"),
        value(),
    ]
    assert [decode(KEY, lie) for lie in lies] == [None] * len(lies)

"""Tensors as bytes of a record, and what makes two sets of them equal."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np

from rung.domain.records import PackedTensor
from rung.domain.tensors import DATATYPES, Array, Tensors, datatype_of

__all__ = ["digest_of", "pack", "unpack"]


def digest_of(tensors: Tensors) -> bytes:
    """16 bytes that are equal for tensors of equal names, datatypes, shapes and elements."""
    digest = blake2b(digest_size=16)
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(_bytes(array))
    return digest.digest()


def pack(tensors: Tensors, bfloat: frozenset[str] = frozenset()) -> dict[str, PackedTensor]:
    """Tensors as they lie in a record."""
    return {
        name: PackedTensor("BF16" if name in bfloat else datatype_of(array), array.shape, _bytes(array))
        for name, array in tensors.items()
    }


def unpack(packed: Mapping[str, Any]) -> dict[str, Array]:
    """The reverse of `pack`, also of what a decoder made of it."""
    tensors = {}
    for name, value in packed.items():
        one = value if isinstance(value, PackedTensor) else msgspec.convert(value, PackedTensor)
        if one.datatype == "BYTES":
            tensors[name] = np.array(_elements(one.data), dtype=object).reshape(one.shape)
        else:
            tensors[name] = np.frombuffer(one.data, DATATYPES[one.datatype]).reshape(one.shape)
    return tensors


def _bytes(array: Array) -> bytes:
    if array.dtype.kind not in "OSU":
        return array.tobytes()
    # Lengths first, so that b"a", b"bc" and b"ab", b"c" differ.
    elements = [one if isinstance(one, bytes) else str(one).encode() for one in array.ravel().tolist()]
    return b"".join([len(one).to_bytes(4, "little") + one for one in elements])


def _elements(data: bytes) -> list[bytes]:
    elements, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        elements.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return elements

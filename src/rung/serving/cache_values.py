"""Outputs of a model as values of a cache: what they weigh in memory, and how they travel. No pickle.

A value on the wire:

    magic "rung" 0x01 | crc32 of the rest and of its key | length of the head | head (msgpack) | bytes of the tensors

The head repeats the key. A value of another program, of another format, damaged, or handed out for another key (as
happens when a client's connection is torn in the middle of a reply) is no value.
"""

import sys
import zlib
from math import prod
from struct import Struct

import msgspec
import numpy as np

from rung.domain.tensors import Array, Tensors

__all__ = ["copied", "decode", "encode", "fits", "weight"]

_MAGIC = b"rung\x01"
_LENGTHS = Struct("<II")
_START = len(_MAGIC) + _LENGTHS.size
_KINDS = "biufSU"
"""Kinds of numpy dtypes that are plain bytes. Objects are written element by element; nothing else is."""
_ENTRY = 900
"""Bytes of an entry beside its arrays: key, two places in ordered tables, the table of outputs. Measured."""
_ARRAY = 250
"""Bytes of an array object with its shape, and of its place in the table of outputs. Measured."""


def fits(outputs: Tensors) -> bool:
    """Whether these can be kept: plain numbers, bytes and text."""
    return all(
        array.dtype.kind in _KINDS
        or (array.dtype.kind == "O" and all(type(element) in (bytes, str) for element in array.ravel().tolist()))
        for array in outputs.values()
    )


def weight(outputs: Tensors) -> int:
    """Bytes that an entry with copies of these arrays takes: buffers, elements of BYTES tensors, and objects."""
    total = _ENTRY
    for array in outputs.values():
        total += _ARRAY + array.nbytes
        if array.dtype.hasobject:
            total += sum(map(sys.getsizeof, array.ravel().tolist()))
    return total


def copied(outputs: Tensors) -> dict[str, Array]:
    """Read-only copies: an array may be a piece of a whole batch, or a buffer that its model fills again."""
    copies = {name: array.copy(order="C") for name, array in outputs.items()}
    for copy in copies.values():
        copy.flags.writeable = False
    return copies


class _Tensor(msgspec.Struct, array_like=True):
    name: str
    dtype: str
    """numpy's, such as `<f4`; `O` for BYTES."""
    shape: tuple[int, ...]
    size: int
    """Bytes that follow."""
    lengths: list[int] = []
    """Of the elements, in bytes."""
    text: bytes = b""
    """One byte per element: 1 for text, 0 for bytes."""


class _Head(msgspec.Struct, array_like=True):
    key: bytes
    born: float
    tensors: list[_Tensor]


_head = msgspec.msgpack.Decoder(_Head)


def encode(key: bytes, outputs: Tensors, born: float) -> bytes:
    """Write outputs that fit; `born` is when they were computed, in seconds since the epoch."""
    tensors: list[_Tensor] = []
    parts: list[bytes] = []
    for name, array in outputs.items():
        if array.dtype.hasobject:
            elements = array.ravel().tolist()
            pieces = [element.encode() if isinstance(element, str) else element for element in elements]
            text = bytes(isinstance(element, str) for element in elements)
            data = b"".join(pieces)
            tensors.append(_Tensor(name, "O", array.shape, len(data), [len(piece) for piece in pieces], text))
        else:
            data = array.tobytes()
            tensors.append(_Tensor(name, array.dtype.str, array.shape, len(data)))
        parts.append(data)
    head = msgspec.msgpack.encode(_Head(key, born, tensors))
    body = b"".join([head, *parts])
    return b"".join([_MAGIC, _LENGTHS.pack(zlib.crc32(body, zlib.crc32(key)), len(head)), body])


def decode(key: bytes, data: bytes) -> tuple[dict[str, Array], float] | None:
    """Read what `encode` wrote under this key: outputs and when they were computed. None for anything else."""
    if len(data) < _START or not data.startswith(_MAGIC):
        return None
    checksum, size = _LENGTHS.unpack_from(data, len(_MAGIC))
    body = memoryview(data)[_START:]
    if size > len(body) or zlib.crc32(body, zlib.crc32(key)) != checksum:
        return None
    try:
        head = _head.decode(body[:size])
        if head.key != key or sum(tensor.size for tensor in head.tensors) != len(body) - size:
            return None
        outputs, at = {}, size
        for tensor in head.tensors:
            outputs[tensor.name] = _array(tensor, body[at : at + tensor.size])
            at += tensor.size
    except (ValueError, TypeError, msgspec.MsgspecError):
        return None
    return outputs, head.born


def _array(tensor: _Tensor, data: memoryview) -> Array:
    """A read-only array over these bytes. Raises `ValueError` or `TypeError` where they do not make one."""
    if tensor.dtype == "O":
        return _elements(tensor, data)
    dtype = np.dtype(tensor.dtype)
    if dtype.kind not in _KINDS or min(tensor.shape, default=0) < 0 or prod(tensor.shape) * dtype.itemsize != len(data):
        raise ValueError("the bytes do not make this array")
    if not len(data):
        array: Array = np.empty(tensor.shape, dtype)
    else:
        array = np.frombuffer(data, dtype).reshape(tensor.shape)
    array.flags.writeable = False
    return array


def _elements(tensor: _Tensor, data: memoryview) -> Array:
    lengths = tensor.lengths
    if min(lengths, default=0) < 0 or sum(lengths) != len(data) or len(tensor.text) != len(lengths):
        raise ValueError("the lengths do not make these elements")
    array: Array = np.empty(len(lengths), object)
    at = 0
    for position, length in enumerate(lengths):
        piece = bytes(data[at : at + length])
        array[position] = piece.decode() if tensor.text[position] else piece
        at += length
    array = array.reshape(tensor.shape)
    array.flags.writeable = False
    return array

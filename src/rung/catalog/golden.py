"""Golden examples: inputs with the answers that a version gave when it was registered.

The file is a `.npz` with `{example}/in/{tensor}` and `{example}/out/{tensor}`. BYTES tensors, whose
elements may hold NUL bytes, are two entries: `{example}/in.lengths/{tensor}` (int64, the tensor's
shape) and `{example}/in.bytes/{tensor}` (uint8, all elements joined).
"""

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from rung.domain.errors import BundleError, InvalidInput
from rung.domain.models import Golden
from rung.domain.tensors import DATATYPES, Array, Signature, Tensors, TensorSpec, datatype_of

__all__ = ["compare_golden", "make_inputs", "non_finite", "pack_golden", "unpack_golden"]

_Example = tuple[Tensors, Tensors]
_DAMAGE = (
    ValueError, OSError, EOFError, LookupError, MemoryError, NotImplementedError, RuntimeError, SyntaxError,
    zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError,
)  # fmt: skip
"""What zipfile, zlib and numpy raise for bytes that are not what they should be."""
_LIMIT = 1 << 30
"""Bytes of all examples of a version, unpacked."""


def pack_golden(examples: list[_Example]) -> bytes:
    """Write examples, each `(inputs, outputs)`, as a `.npz` whose bytes depend on nothing else.

    Raises:
        InvalidInput: a tensor's name holds a NUL, which ends a name inside a zip.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number, (inputs, outputs) in enumerate(examples):
            for side, tensors in (("in", inputs), ("out", outputs)):
                for name, array in tensors.items():
                    if "\0" in name:
                        raise InvalidInput(f"the tensor name {name!r} holds a NUL", field=name)
                    for suffix, part in _split(array):
                        _write(archive, f"{number}/{side}{suffix}/{name}", part)
    return buffer.getvalue()


def _split(array: Array) -> list[tuple[str, Array]]:
    if datatype_of(array) != "BYTES":
        return [("", array)]
    elements = [e.encode() if isinstance(e, str) else bytes(e) for e in array.reshape(-1).tolist()]
    lengths = np.array([len(element) for element in elements], np.int64).reshape(array.shape)
    return [(".lengths", lengths), (".bytes", np.frombuffer(b"".join(elements), np.uint8))]


def _write(archive: zipfile.ZipFile, name: str, array: Array) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def unpack_golden(data: bytes) -> list[tuple[dict[str, Array], dict[str, Array]]]:
    """Read what `pack_golden` wrote; BYTES tensors come back as object arrays of `bytes`.

    Raises:
        BundleError: not such a file, damaged, or unpacking to more than 1 GiB.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = _read(archive)
        examples: dict[int, tuple[dict[str, Array], dict[str, Array]]] = {}
        for (number, side, name), found in parts.items():
            tensors = examples.setdefault(number, ({}, {}))[0 if side == "in" else 1]
            tensors[name] = found[""] if "" in found else _join(found)
    except _DAMAGE as error:
        raise BundleError(f"the golden examples cannot be read: {error!r:.200}") from None
    return [examples[number] for number in sorted(examples)]


def _read(archive: zipfile.ZipFile) -> dict[tuple[int, str, str], dict[str, Array]]:
    """(example, side, tensor) -> its parts: the array under "", or "lengths" and "bytes"."""
    if sum(entry.file_size for entry in archive.infolist()) > _LIMIT:
        raise BundleError(f"the golden examples unpack to more than {_LIMIT} bytes")
    parts: dict[tuple[int, str, str], dict[str, Array]] = {}
    for entry in archive.infolist():
        number, kind, name = entry.filename.removesuffix(".npy").split("/", 2)
        side, _, part = kind.partition(".")
        if side not in {"in", "out"} or part not in {"", "lengths", "bytes"}:
            raise BundleError(f"the golden examples hold an unknown entry {entry.filename!r:.200}")
        # `read` checks length and CRC, so a header cannot claim more elements than there are bytes.
        array = np.lib.format.read_array(io.BytesIO(archive.read(entry)), allow_pickle=False)
        parts.setdefault((int(number), side, name), {})[part] = array
    return parts


def _join(parts: Mapping[str, Array]) -> Array:
    lengths, blob = parts["lengths"], parts["bytes"].tobytes()
    ends = np.cumsum(lengths.reshape(-1)).tolist()
    if lengths.dtype != np.int64 or (lengths < 0).any() or (ends[-1] if ends else 0) != len(blob):
        raise BundleError("the golden examples hold a BYTES tensor whose lengths do not fit its bytes")
    joined = np.empty(lengths.size, object)
    for position, (end, size) in enumerate(zip(ends, lengths.reshape(-1).tolist(), strict=True)):
        joined[position] = blob[end - size : end]
    return joined.reshape(lengths.shape)


def non_finite(tensors: Tensors) -> str | None:
    """Name the first float tensor that holds NaN or Infinity, if any."""
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            return name
    return None


def compare_golden(expected: Tensors, actual: Tensors, golden: Golden) -> str | None:
    """Say why `actual` does not reproduce `expected`, or None if it does.

    Floats may differ by `atol + rtol * |expected|`; integers, booleans and bytes may not differ.
    """
    for name, want in expected.items():
        have = actual.get(name)
        if have is None:
            return f"output {name!r} is missing"
        if have.shape != want.shape:
            return f"output {name!r} has shape {list(have.shape)}, expected {list(want.shape)}"
        if datatype_of(have) != datatype_of(want):
            return f"output {name!r} has datatype {datatype_of(have)}, expected {datatype_of(want)}"
        if want.dtype.kind != "f":
            wrong = int(np.count_nonzero(np.asarray(have != want)))
            if wrong:
                return f"output {name!r} differs in {wrong} of {want.size} elements"
            continue
        if non_finite({name: have}):
            return f"output {name!r} holds NaN or Infinity"
        distance = np.abs(have.astype(np.float64) - want.astype(np.float64))
        excess = distance - (golden.atol + golden.rtol * np.abs(want.astype(np.float64)))
        if want.size and not (excess <= 0).all():
            worst = int(np.argmax(excess))
            return (
                f"output {name!r} differs by {distance.flat[worst]:.4g} where {want.flat[worst]:.4g} was expected, "
                f"more than atol {golden.atol:g} + rtol {golden.rtol:g}"
            )
    return None


def make_inputs(signature: Signature, count: int = 2, seed: int = 0) -> list[Tensors]:
    """Inputs that fit the signature, the same every time: sizes that vary are 1 for rows, else 16.

    Floats are standard normal, integers 0 to 9, booleans and texts random.
    """
    rng = np.random.default_rng(seed)
    return [{spec.name: _draw(spec, rng, batched=signature.batched) for spec in signature.inputs} for _ in range(count)]


def _draw(spec: TensorSpec, rng: np.random.Generator, *, batched: bool) -> Array:
    sizes = [16 if size == -1 else size for size in spec.shape]
    if batched and spec.shape and spec.shape[0] == -1:
        sizes[0] = 1
    shape = tuple(sizes)
    if spec.sample is not None:
        value = spec.sample.encode() if isinstance(spec.sample, str) else spec.sample
        return np.full(shape, value, DATATYPES[spec.datatype])
    if spec.datatype == "BYTES":
        texts = np.empty(math.prod(shape), object)
        texts[:] = [f"text {number}".encode() for number in rng.integers(0, 10, texts.size)]
        return texts.reshape(shape)
    if spec.datatype == "BF16":
        # The upper half of a float32 is the bfloat16.
        return (rng.standard_normal(shape).astype("<f4").view("<u4") >> 16).astype("<u2")
    dtype = DATATYPES[spec.datatype]
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else 10, shape).astype(dtype)

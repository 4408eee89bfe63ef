"""From what the event loop noted about answers to the bytes of their records: the work of the log's own thread.

The loop puts a record with the answer's arrays into the buffer. Here the arrays become what the model's policy keeps
of them, for many records at a time: on small answers a call of numpy costs more than the numbers do.
"""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Literal

import msgspec
import numpy as np

from rung.domain.models import Manifest
from rung.domain.records import CONSTANT, NOT_FINITE, PackedTensor, PredictionRecord, encode
from rung.domain.tensors import DATATYPES, Array, Tensors, datatype_of

__all__ = ["LogPolicy", "RecordEncoder", "digest_of", "pack", "unpack"]

_TOGETHER = 4096
"""Bytes of an array up to which several are looked at in one call."""


class LogPolicy(msgspec.Struct, frozen=True):
    """What is kept of a model's requests and answers."""

    inputs: Literal["off", "digest", "body", "tensors"] = "off"
    outputs: Literal["off", "digest", "summary", "tensors"] = "summary"
    sample: float = 1.0
    """Share of the units whose requests are logged; 0 to 1."""
    tensor_bytes: int = 64 << 10
    """Tensors and bodies of a record above this many bytes are left out; digest or summary stand in for them."""


class RecordEncoder:
    """Encodes records, each by the policy of its model. Records of predictions come with arrays and lose them."""

    def __init__(self) -> None:
        self._policies: dict[str, LogPolicy] = {}
        self._bfloat: dict[tuple[str, int], frozenset[str]] = {}
        """Outputs that are bit patterns of BF16."""

    def know(self, manifest: Manifest, policy: LogPolicy) -> None:
        """Answers of this version will come, and this is what to keep."""
        self._policies[manifest.name] = policy
        specs = (*manifest.signature.inputs, *manifest.signature.outputs)
        bfloat = frozenset(spec.name for spec in specs if spec.datatype == "BF16")
        self._bfloat[manifest.name, manifest.version] = bfloat

    def __call__(self, records: Sequence[Any]) -> list[bytes]:
        """Encode, in order."""
        groups: dict[tuple[str, int], list[PredictionRecord]] = {}
        for record in records:
            if type(record) is PredictionRecord:
                groups.setdefault((record.model, record.version), []).append(record)
        for key, group in groups.items():
            self._reduce(group, self._policies.get(key[0], LogPolicy()), self._bfloat.get(key, frozenset()))
        return [encode(record) for record in records]

    def _reduce(self, records: list[PredictionRecord], policy: LogPolicy, bfloat: frozenset[str]) -> None:
        answered = [record for record in records if _raw(record.outputs)]
        if answered:
            _summarise(answered, bfloat)
        for record in records:
            if _raw(record.outputs):
                if policy.outputs in ("digest", "tensors"):
                    record.output_digest = digest_of(record.outputs)
                if policy.outputs in ("off", "digest"):
                    record.output_summary = {}
                kept = policy.outputs == "tensors" and _size(record.outputs) <= policy.tensor_bytes
                record.outputs = pack(record.outputs, bfloat) if kept else None
            if _raw(record.inputs):
                record.input_digest = digest_of(record.inputs)
                kept = policy.inputs == "tensors" and _size(record.inputs) <= policy.tensor_bytes
                record.inputs = pack(record.inputs, bfloat) if kept else None
            if record.body is not None:
                record.input_digest = blake2b(record.body, digest_size=16).digest()
                if len(record.body) > policy.tensor_bytes:
                    record.body = None


def _raw(tensors: Any) -> bool:
    """Whether these are arrays still: after a failure in a batch its records come again one by one."""
    return bool(tensors) and not isinstance(next(iter(tensors.values())), PackedTensor)


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


def _size(tensors: Tensors) -> int:
    return sum([array.nbytes for array in tensors.values()])


def _summarise(records: list[PredictionRecord], bfloat: frozenset[str]) -> None:
    """Set `output_summary` and `flags` from the arrays in `outputs`."""
    for record in records:
        record.output_summary = {}
        record.flags = CONSTANT
    told = [False] * len(records)
    """Whether a record has an output that could have varied."""
    names: dict[str, None] = {name: None for record in records for name in record.outputs}
    for name in names:
        alike: dict[Any, list[int]] = {}
        for index, record in enumerate(records):
            array = record.outputs.get(name)
            if array is None or not array.size or array.dtype.kind not in "fiub":
                continue
            # One by one where copying many together costs more than their calls.
            alone = index if array.nbytes > _TOGETHER else -1
            alike.setdefault((array.shape, array.dtype, alone), []).append(index)
        for (shape, _, alone), indices in alike.items():
            arrays = [records[index].outputs[name] for index in indices]
            stacked = arrays[0].reshape(1, -1) if alone >= 0 else np.stack(arrays).reshape(len(arrays), -1)
            if name in bfloat:
                stacked = (stacked.astype(np.uint32) << 16).view(np.float32)
            varies = len(shape) > 0 and stacked.shape[1] > 1
            for index, (mean, least, greatest, finite) in zip(indices, _rows(stacked), strict=True):
                record = records[index]
                record.output_summary[name] = (mean, least, greatest)
                if not finite:
                    record.flags |= NOT_FINITE
                if varies:
                    told[index] = True
                    if least != greatest or not finite:
                        record.flags &= ~CONSTANT
    for record, could in zip(records, told, strict=True):
        if not could:
            record.flags &= ~CONSTANT


def _rows(stacked: Array) -> Iterable[tuple[float, float, float, bool]]:
    """Mean, least and greatest finite element of each row, and whether all are finite."""
    with np.errstate(all="ignore"):
        least, greatest = stacked.min(axis=1), stacked.max(axis=1)
        means = stacked.mean(axis=1, dtype=np.float64)
    # NaN and infinities show in the extremes, so most rows need no second look.
    finite = np.isfinite(least) & np.isfinite(greatest)
    columns = means.tolist(), least.astype(float).tolist(), greatest.astype(float).tolist(), finite.tolist()
    rows = list(zip(*columns, strict=True))
    for index in np.flatnonzero(~finite):
        kept = stacked[index][np.isfinite(stacked[index])].astype(np.float64)
        rows[index] = (float(kept.mean()), float(kept.min()), float(kept.max()), False) if kept.size else _NOTHING
    return rows


_NOTHING = (0.0, 0.0, 0.0, False)

"""From what the event loop noted about answers to the bytes of their records: the work of the log's own thread.

The loop puts a record with the answer's arrays into the buffer. Here the arrays become what the model's policy keeps
of them, for many records at a time: on small answers a call of numpy costs more than the numbers do.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Literal

import msgspec
import numpy as np

from rung.domain.models import Manifest
from rung.domain.packing import digest_of, pack
from rung.domain.records import CONSTANT, NOT_FINITE, PackedTensor, PredictionRecord, encode
from rung.domain.tensors import Array, Tensors, widened

__all__ = ["LogPolicy", "RecordEncoder"]

_TOGETHER = 4096
"""Bytes of an array up to which several are looked at in one call."""


class LogPolicy(msgspec.Struct, frozen=True):
    """What is kept of a model's requests and answers."""

    inputs: Literal["off", "digest", "body", "tensors", "both"] = "off"
    outputs: Literal["off", "digest", "summary", "tensors"] = "summary"
    sample: float = 1.0
    """Share of the units whose requests are logged; 0 to 1."""
    tensor_bytes: int = 64 << 10
    """Tensors and bodies of a record above this many bytes are left out; digest or summary stand in for them."""


_DEFAULT = LogPolicy()


class _Classes(msgspec.Struct, frozen=True):
    """How to read the likeliest class off an answer, for labels that are compared with it later."""

    output: str
    labels: tuple[str, ...]
    half: float
    """What a model that gives one number gives where its two classes are equally likely."""

    @classmethod
    def of(cls, manifest: Manifest) -> "_Classes | None":
        """Of a version whose answers go through `classification.top_k`; None for any other."""
        step = next((one for one in manifest.transforms.output if one.name == "classification.top_k"), None)
        if step is None:
            return None
        scores = [spec.name for spec in manifest.signature.outputs if spec.datatype in ("FP16", "FP32", "FP64")]
        output = step.params.get("output") or (scores[0] if len(scores) == 1 else "")
        labels = tuple(step.params.get("labels") or manifest.labels)
        return cls(output, labels, 0.0 if step.params.get("activation") == "sigmoid" else 0.5) if output else None

    def name(self, records: Sequence[PredictionRecord]) -> None:
        """Set `predicted` of the records of one row whose outputs are arrays still."""
        for record in records:
            array = record.outputs.get(self.output) if record.rows == 1 and _raw(record.outputs) else None
            if array is not None and array.size:
                index = int(array.reshape(-1)[0] > self.half) if array.size == 1 else int(array.argmax())
                record.predicted = self.labels[index] if index < len(self.labels) else str(index)


class RecordEncoder:
    """Encodes records, each by the policy of its model. Records of predictions come with arrays and lose them."""

    def __init__(self) -> None:
        self._policies: dict[str, LogPolicy] = {}
        self._bfloat: dict[tuple[str, int], frozenset[str]] = {}
        """Outputs that are bit patterns of BF16."""
        self._classes: dict[tuple[str, int], _Classes] = {}
        """Versions that pick one of several classes."""

    def know(self, manifest: Manifest, policy: LogPolicy) -> None:
        """Answers of this version will come, and this is what to keep."""
        self._policies[manifest.name] = policy
        specs = (*manifest.signature.inputs, *manifest.signature.outputs)
        bfloat = frozenset(spec.name for spec in specs if spec.datatype == "BF16")
        self._bfloat[manifest.name, manifest.version] = bfloat
        classes = _Classes.of(manifest)
        if classes is not None:
            self._classes[manifest.name, manifest.version] = classes

    def __call__(self, records: Sequence[Any]) -> list[bytes]:
        """Encode, in order."""
        groups: dict[tuple[str, int], list[PredictionRecord]] = {}
        for record in records:
            if type(record) is PredictionRecord:
                groups.setdefault((record.model, record.version), []).append(record)
        for key, group in groups.items():
            policy, bfloat = self._policies.get(key[0], _DEFAULT), self._bfloat.get(key, frozenset())
            answers = [record for record in group if record.outputs]
            if key in self._classes and policy.outputs in ("summary", "tensors"):
                self._classes[key].name(answers)
            _reduce_outputs(answers, policy, bfloat)
            if policy.inputs in ("body", "both"):
                _reduce_bodies(group, policy)
            if policy.inputs in ("digest", "tensors", "both"):
                _reduce_inputs(group, policy, bfloat)
        return [encode(record) for record in records]


def _reduce_outputs(records: list[PredictionRecord], policy: LogPolicy, bfloat: frozenset[str]) -> None:
    # After a failure in a batch its records come again one by one, some of them done.
    records = [record for record in records if _raw(record.outputs)] if policy.outputs == "tensors" else records
    if policy.outputs in ("digest", "tensors"):
        for record in records:
            record.output_digest = digest_of(record.outputs)
    _summarise(records, bfloat)
    for record in records:
        kept = policy.outputs == "tensors" and _size(record.outputs) <= policy.tensor_bytes
        record.outputs = pack(record.outputs, bfloat) if kept else None
    if policy.outputs in ("off", "digest"):
        for record in records:
            record.output_summary = {}


def _reduce_inputs(records: list[PredictionRecord], policy: LogPolicy, bfloat: frozenset[str]) -> None:
    for record in records:
        if _raw(record.inputs):
            record.input_digest = digest_of(record.inputs)
            kept = policy.inputs != "digest" and _size(record.inputs) <= policy.tensor_bytes
            record.inputs = pack(record.inputs, bfloat) if kept else None


def _reduce_bodies(records: list[PredictionRecord], policy: LogPolicy) -> None:
    for record in records:
        if record.body is not None:
            record.input_digest = blake2b(record.body, digest_size=16).digest()
            if len(record.body) > policy.tensor_bytes:
                record.body = None


def _raw(tensors: Any) -> bool:
    """Whether these are arrays still."""
    return bool(tensors) and not isinstance(next(iter(tensors.values())), PackedTensor)


def _size(tensors: Tensors) -> int:
    return sum([array.nbytes for array in tensors.values()])


def _summarise(records: list[PredictionRecord], bfloat: frozenset[str]) -> None:
    """Set `output_summary` and `flags` from the arrays in `outputs`."""
    alike: dict[tuple[Any, ...], list[PredictionRecord]] = {}
    for record in records:
        outputs = record.outputs
        alike.setdefault((*outputs, *[array.shape for array in outputs.values()]), []).append(record)
    for group in alike.values():
        if _size(group[0].outputs) > _TOGETHER:
            # One by one where copying many together costs more than their calls.
            for record in group:
                _summarise_alike([record], bfloat)
        else:
            _summarise_alike(group, bfloat)


def _summarise_alike(records: list[PredictionRecord], bfloat: frozenset[str]) -> None:
    """The same for records whose outputs have the same names and shapes."""
    summaries: dict[str, list[tuple[float, float, float]]] = {}
    bad: Array = np.zeros(len(records), bool)
    constant: Array = np.ones(len(records), bool)
    could_vary = False
    for name, first in records[0].outputs.items():
        if not first.size or first.dtype.kind not in "fiub":
            continue
        arrays = [record.outputs[name] for record in records]
        together = np.concatenate(arrays) if first.ndim and len(arrays) > 1 else np.stack(arrays)
        together = together.reshape(len(arrays), -1)
        if name in bfloat:
            together = widened(together)
        summaries[name], infinite, same = _rows(together)
        bad |= infinite
        if first.size > 1:
            could_vary = True
            constant &= same
    flags = bad * NOT_FINITE + (constant & could_vary) * CONSTANT
    for record, flag in zip(records, flags.tolist(), strict=True):
        record.flags = flag
    if len(summaries) == 1:
        ((name, rows),) = summaries.items()
        for record, row in zip(records, rows, strict=True):
            record.output_summary = {name: row}
    else:
        for index, record in enumerate(records):
            record.output_summary = {name: rows[index] for name, rows in summaries.items()}


def _rows(together: Array) -> tuple[list[tuple[float, float, float]], Array, Array]:
    """Of each row mean, least and greatest finite element; whether it has others; whether all are one value."""
    with np.errstate(all="ignore"):
        least, greatest = together.min(axis=1), together.max(axis=1)
        means = together.mean(axis=1, dtype=np.float64)
    # NaN and infinities show in the extremes, so most rows need no second look.
    infinite = ~(np.isfinite(least) & np.isfinite(greatest))
    columns = means.tolist(), least.astype(float).tolist(), greatest.astype(float).tolist()
    rows = list(zip(*columns, strict=True))
    for index in np.flatnonzero(infinite):
        kept = together[index][np.isfinite(together[index])].astype(np.float64)
        rows[index] = (float(kept.mean()), float(kept.min()), float(kept.max())) if kept.size else (0.0, 0.0, 0.0)
    return rows, infinite, (least == greatest) & ~infinite

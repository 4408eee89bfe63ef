"""Records of the prediction log: what was answered, what turned out to be right, and what is missing.

They travel as MessagePack arrays `[tag, field, field, ...]`, so a field may be added at the end with a default
and none may be taken away. Times are seconds since the epoch, durations are seconds.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Literal

import msgspec

__all__ = [
    "CONSTANT",
    "NOT_FINITE",
    "FeedbackRecord",
    "Kind",
    "MarkRecord",
    "PackedTensor",
    "PredictionRecord",
    "Record",
    "ShadowRecord",
    "ShedRecord",
    "blame_of",
    "decode",
    "encode",
    "event_id",
]

NOT_FINITE = 1
"""Flag: an output holds NaN or an infinity."""
CONSTANT = 2
"""Flag: every output of two elements or more holds one value over the whole response."""

Kind = Literal["label", "mask", "score", "correction"]


class PackedTensor(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One tensor in a record."""

    datatype: str
    """As in the Open Inference Protocol."""
    shape: tuple[int, ...]
    data: bytes
    """Little-endian, C order; BYTES as 4 bytes of length before each element."""


class PredictionRecord(msgspec.Struct, array_like=True, tag=1, gc=False):
    """One request and its answer or error."""

    id: str
    time: float
    """When the request was taken."""
    model: str
    version: int
    arm: str = ""
    epoch: int = 0
    unit: str = ""
    rows: int = 1
    queued: float = 0.0
    """From the arrival to the start of the computation."""
    computed: float = 0.0
    total: float = 0.0
    """From the arrival to the answer."""
    error: str = ""
    """Class of the error; empty for an answer."""
    blame: str = ""
    """`client` or `server`, for an error."""
    propensity: float = 1.0
    """Probability with which the unit's arm was drawn."""
    flags: int = 0
    """`NOT_FINITE`, `CONSTANT`."""
    output_digest: bytes = b""
    output_summary: dict[str, tuple[float, float, float]] = {}
    """Output -> mean, least and greatest of its finite elements."""
    input_digest: bytes = b""
    inputs: Any = None
    """Input -> `PackedTensor`, by policy."""
    outputs: Any = None
    body: bytes | None = None
    """The request body, by policy."""
    media: str = ""
    """Content type of the body."""
    digest: str = ""
    """The version's bytes: the first 16 hexadecimal digits of their identity."""
    predicted: str = ""
    """The likeliest class, of one row of a classifier whose answers are summarised."""
    door: str = ""
    """`predict`, where the body can be read as `/predict` reads it; kept with the body."""


class ShadowRecord(msgspec.Struct, array_like=True, tag=2, gc=False):
    """A copy of a request answered by a candidate, compared with the live answer."""

    id: str
    """Of the live prediction."""
    time: float
    model: str
    version: int
    candidate: int
    epoch: int = 0
    unit: str = ""
    error: str = ""
    equal: bool = False
    difference: float = 0.0
    """Largest absolute difference over all outputs; infinite for other names, shapes or datatypes."""
    computed: float = 0.0
    flags: int = 0


class FeedbackRecord(msgspec.Struct, array_like=True, tag=3):
    """What somebody says about a prediction afterwards. Events of one id are versions, ordered by `time`."""

    event: str
    """Makes the same event twice one."""
    id: str
    time: float
    """When it was found out."""
    received: float
    kind: Kind
    value: Any
    """JSON; a mask is `{"media": ..., "data": base64}`."""
    source: str = ""
    model: str = ""
    version: int = 0
    arm: str = ""
    predicted: float = 0.0
    """Time inside the id: `time - predicted` is the delay of the label."""


class ShedRecord(msgspec.Struct, array_like=True, tag=4):
    """So many records are missing from here."""

    time: float
    model: str
    """Empty where they were of several."""
    count: int
    reason: str
    """`buffer full`, `disk: ...`, `encoding`."""
    since: float = 0.0
    """When the first of them was lost."""


class MarkRecord(msgspec.Struct, array_like=True, tag=5):
    """A replica opened or closed its log."""

    time: float
    replica: str
    kind: Literal["open", "close"]
    clean: bool = True
    """Whether the run before closed its log."""
    last: float = 0.0
    """When the run before last wrote, if it did not close."""
    lost: float = 0.0
    """Seconds of records that the run before may have lost, at most."""


Record = PredictionRecord | ShadowRecord | FeedbackRecord | ShedRecord | MarkRecord

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Record)

encode = _encoder.encode
"""`encode(record)`: its bytes."""


def decode(data: bytes | memoryview) -> Record:
    """Read a record.

    Raises:
        msgspec.DecodeError: the bytes are no record of this version of rung.
    """
    record: Record = _decoder.decode(data)
    return record


def blame_of(error: BaseException) -> str:
    """Whose fault an error is: `client` for what the caller can change, else `server`.

    Being turned away under load and a deadline that passed count as the server's: a canary that is too slow
    must not look like a crowd of careless callers.
    """
    from rung.domain.errors import ClientError, DeadlineExceeded, Overloaded

    if isinstance(error, ClientError) and not isinstance(error, DeadlineExceeded | Overloaded):
        return "client"
    return "server"


def event_id(prediction: str, content: Mapping[str, Any]) -> str:
    """Id of an event that came without one: the same content about the same prediction gives the same id."""
    # Sorted, so that the order of the fields does not make another event.
    text = msgspec.json.encode([prediction, content], order="sorted")
    return blake2b(text, digest_size=16).hexdigest()

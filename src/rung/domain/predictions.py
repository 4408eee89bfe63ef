"""One prediction: the request that goes in, the response that comes out, and what a task makes of it.

Times are seconds on one monotonic clock, handed in by whoever reads it.
"""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from rung.domain.tensors import Tensors

__all__ = ["LOWEST", "NEVER", "PREDICT", "Answer", "Call", "Payload", "Request", "Response", "Statistics", "Timing"]

NEVER = float("inf")
"""A deadline that does not come."""
LOWEST = 999
"""The priority of what is answered only while nobody else asks."""
PREDICT = "predict"
"""The door whose bodies the log can be asked with again."""


class Call(msgspec.Struct, gc=False):
    """One request as it came in: what a split, a log and a limit go by. Belongs to one request only.

    The second half is filled in on the way, by whoever decides it.
    """

    arrived: float = 0.0
    """When the door had read the whole request."""
    headers: Mapping[bytes, bytes] = {}
    """Lower-case names."""
    body: bytes = b""
    address: str = ""
    """Of the caller's end of the connection, without the port."""
    unit: str = ""
    """Whom the split went by: a user, a session, an address."""
    arm: str = ""
    """Name of the arm of the release that answers; empty without a release."""
    epoch: int = 0
    """Of that release."""
    propensity: float = 1.0
    """Probability with which the split picks this arm."""
    prediction_id: str = ""
    """Minted where answers are logged; every door sends it along."""
    caller: str = ""
    """Id of the key that it came with; empty where none is asked for."""
    scope: tuple[str, ...] = ()
    """Models that the key is for; empty: every one."""
    tester: bool = False
    """Whether the key lets its holder pick an arm."""
    door: str = ""
    """`PREDICT`, where the body is a whole request in one of the forms that `/predict` reads."""


class Request(msgspec.Struct, gc=False):
    """Tensors for one model, already checked against its signature."""

    inputs: Tensors
    rows: int = 1
    """Rows along the first dimension; 1 for a model that is not batched."""
    outputs: tuple[str, ...] = ()
    """Names wanted back; empty means all."""
    deadline: float = NEVER
    """Absolute. Work that has not started by then never starts."""
    priority: int = 0
    """1 is served first, larger numbers later; 0 is the default and stands between 4 and 5. `LOWEST` waits until
    nobody else asks."""
    arrived: float = 0.0
    """When the door had read the whole request."""
    call: Call | None = None
    """The request as it came in; None for a step inside a graph of models."""
    admitted: bool = False
    """Whether it was let in before it became tensors: who came later and is larger must not turn it away."""


class Response(msgspec.Struct, gc=False):
    """Tensors out of one version of a model."""

    model: str
    version: int
    outputs: Tensors
    queued: float = 0.0
    """Seconds between arrival and the start of the computation."""
    computed: float = 0.0
    """Seconds of the model call that this request was part of."""
    batch: int = 1
    """Rows in that call."""
    steps: tuple[tuple[str, float, float], ...] = ()
    """Behind a graph of models: each model's name, and its seconds queued and computed, in order of finishing."""


class Payload(msgspec.Struct):
    """What a person sends to `/predict`: not yet tensors."""

    kind: Literal["image", "rows", "text", "tensors"]
    value: Any
    """image: the file's bytes; rows: a list; text: a str; tensors: named arrays."""
    deadline: float = NEVER
    priority: int = 0
    arrived: float = 0.0
    call: Call | None = None
    """As in `Request`."""


class Answer(msgspec.Struct):
    """What a person gets back: bytes of a stated media type."""

    media_type: str
    body: bytes
    model: str
    version: int
    prepared: float = 0.0
    """Seconds of the input transforms."""
    queued: float = 0.0
    computed: float = 0.0
    finished: float = 0.0
    """Seconds of the output transforms and the rendering."""
    steps: tuple[tuple[str, float, float], ...] = ()
    """As in `Response`."""


class Timing(msgspec.Struct):
    """How often something happened and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count `count` events that took `seconds` each."""
        self.count += count
        self.ns += int(seconds * 1e9) * count


class Statistics(msgspec.Struct):
    """What one version has answered since it was loaded, in the words of Triton's statistics extension."""

    name: str
    version: int
    inferences: int = 0
    """Rows."""
    executions: int = 0
    """Model calls: rows / calls is the mean batch."""
    last: float = 0.0
    """When the last request came, seconds since the epoch."""
    success: Timing = msgspec.field(default_factory=Timing)
    failure: Timing = msgspec.field(default_factory=Timing)
    queue: Timing = msgspec.field(default_factory=Timing)
    compute: Timing = msgspec.field(default_factory=Timing)
    batches: dict[int, Timing] = msgspec.field(default_factory=dict)
    """Rows in a call -> the calls of that size."""
    reasons: dict[str, int] = msgspec.field(default_factory=dict)
    """Why each batch was released: `idle`, `full`, `deadline`."""
    failures: dict[str, int] = msgspec.field(default_factory=dict)
    """Class of error -> count."""

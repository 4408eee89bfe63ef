"""Every seam of rung, on one page.

An implementation is a class with these methods and a row in `rung.plugins`; it is done when it
passes the conformance suite of its port in `rung.testing`. None of these knows a concrete engine.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from rung.domain.caches import CacheUsage
from rung.domain.datasets import Piece
from rung.domain.identity import Identity
from rung.domain.messages import Beside, Lease, Means, Message, Outcome
from rung.domain.models import AspiredVersion, Manifest, VersionStatus
from rung.domain.predictions import Answer, Call, Payload, Request, Response, Statistics
from rung.domain.records import FeedbackRecord
from rung.domain.releases import Release
from rung.domain.tensors import Signature, Tensors

__all__ = [
    "Awaitee",
    "Blob",
    "BlobStore",
    "CacheBackend",
    "Control",
    "Directory",
    "FeedbackSink",
    "Fetched",
    "LoadOptions",
    "Model",
    "Predictor",
    "Queue",
    "RowSource",
    "Runtime",
    "Served",
    "Source",
    "Transform",
]


class Predictor(Protocol):
    """The one shape that is wrapped: a version, the batcher, the cache, limits, the split.

    Guarantees:
        1. One request gives exactly one response or raises exactly one `RungError`.
        2. It completes without suspending where it can; what it awaits is an `Awaitee`.
        3. When it is cancelled, its work is dropped if that has not started.
    """

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Answer one request, when awaited."""
        ...


class Awaitee(Protocol):
    """What a hand-driven coroutine may yield: an `asyncio.Future`, or something that acts like one."""

    def add_done_callback(self, callback: Callable[[Any], object], /, *, context: Any = ...) -> None:
        """Call `callback(self)` once, when the result is there."""
        ...


class LoadOptions(msgspec.Struct, frozen=True):
    """How a runtime should load a model."""

    threads: int = 1
    """Cores that one wide call may use."""
    memory: int = 0
    """Limit in bytes for a model in a child process; 0 means none."""
    hang_after: float = 30.0
    """Seconds after which a call in a child process counts as hung."""
    trusted: bool = False
    """Whether code of the user's own may run (`module:Class` given on the command line)."""
    search_path: str = ""
    """Folder from which a Python model imports its own modules."""


class Model(Protocol):
    """A loaded artifact.

    Guarantees:
        1. `predict` may be called from several threads at once, up to `lanes` of them.
        2. It takes arrays that fit `signature` and returns every output of `signature`, fresh arrays.
        3. It raises `ModelError` (or `WorkerDied`) and nothing else for a failure of the model; `InvalidInput`
           for a value that no signature rules out (text that is not UTF-8), which fails the whole batch
           but is one row's fault; `NotReady` while a process that keeps dying is left alone.
        4. `close` frees what was taken; it may be called twice.
    """

    signature: Signature
    platform: str
    """What Triton calls the platform, such as `onnxruntime_onnx`."""
    lanes: int
    """How many calls may run at once; 0 means as many as there are cores."""
    inline: bool
    """Whether a call that is cheap may run on the event loop: it computes here and cannot hang."""

    def predict(self, inputs: Tensors, threads: int = 1) -> Tensors:
        """Compute. `threads` > 1 asks for a call that spreads over that many cores, where it can."""
        ...

    def close(self) -> None:
        """Free memory, processes and files."""
        ...


class Runtime(Protocol):
    """One framework: recognises its artifacts and loads them."""

    name: str

    def recognises(self, path: Path) -> bool:
        """Whether this file or folder is an artifact of this framework, judged by name and first bytes."""
        ...

    def load(self, artifact: Path | str, options: LoadOptions) -> Model:
        """Load it.

        Raises:
            BundleError: the artifact is unreadable, unsafe or unsupported; the message says which.
            MissingDependency: an extra has to be installed; the message says how.
        """
        ...


class Transform(Protocol):
    """A named step that a bundle declares: a pure function with parameters.

    `value` is what the step before it made, `context` carries what a later step needs to know of an
    earlier one (the original size of an image, say) and belongs to one item.
    """

    def __call__(self, value: Any, context: dict[str, Any], **params: Any) -> Any:
        """Return the value for the next step.

        Raises:
            InvalidInput: the item does not fit; the message says what would.
        """
        ...


class Blob(msgspec.Struct, frozen=True, order=True):
    """One entry of a listing."""

    key: str
    size: int
    tag: str
    """Changes whenever the bytes do; comparable only under the same key of the same store."""
    modified: float
    """Seconds since the epoch, by the store's clock."""


@runtime_checkable
class BlobStore(Protocol):
    """Bytes by key, on a disk or in a bucket. Keys are relative, `/`-separated, without `..`."""

    def get(self, key: str) -> bytes:
        """Return the bytes. Raises `NotFound`."""
        ...

    def put(self, key: str, data: bytes | Path, *, create: bool = False) -> None:
        """Write the bytes (or a file's) whole or not at all. With `create`, raises `Conflict` if the key exists."""
        ...

    def list(self, prefix: str = "") -> Iterable[Blob]:
        """Every blob under the folder `prefix`, sorted by key; none if there is no such folder."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove these keys; absent ones are no error."""
        ...

    def local(self, key: str, cache: Path) -> Path:
        """A path at which the bytes can be read: the file itself, or a copy under `cache`."""
        ...


class RowSource(Protocol):
    """Rows from somewhere else: files, a database, a stream, a function.

    Guarantees:
        1. What is read from a cursor on, and nothing else, comes in a stated order; reading twice gives the same.
        2. A row that cannot be read is refused with its place and the reason, and the others come.
        3. When the source vanishes in between, it raises; it never just ends.
    """

    incremental: bool
    """Whether `read` goes on from a cursor; otherwise it gives everything each time, and the cursor means nothing."""

    def read(self, cursor: str) -> Iterator[Piece]:
        """Everything beyond `cursor` (all, where it is empty), in pieces that fit into memory.

        Raises:
            InvalidData: it is not there, cannot be read, or broke off; the message says where.
        """
        ...

    def keep(self, cursor: str) -> None:
        """What was read up to `cursor` has been kept for good: it need not be given again."""
        ...


@runtime_checkable
class Queue(Protocol):
    """Messages on their way to whoever works on them. Methods block, and may be called from any thread.

    Guarantees:
        1. When `put` has returned, the messages are where `means` says; each comes out of `take` until it is settled.
        2. A lease that ran out comes out of `take` again; the older one then settles and writes nothing (see `Beside`).
        3. Messages of one key are taken one at a time and in order, also past tries that failed.
        4. What is written `beside` is written before the queue forgets the message, never after.
        5. While a server is away, every method raises `NotReady` within seconds, and nothing piles up in memory.
    """

    means: Means
    """What an acknowledgement of this queue means, and what it promises beyond this port."""

    def put(self, messages: Sequence[Message], beside: Callable[[Any], None] | None = None) -> None:
        """Accept messages in their order. Put again soon with the same id and `replay`, a message is the same one.

        `beside` writes with a connection of the results' database: in the same transaction where the queue promises
        `all or none`, else in one before; it may run twice. Raises `InvalidInput` or `TooLarge` where a message does
        not fit, and accepts none; `NotReady` or `StorageFull`: some may be accepted, put all of them again.
        """
        ...

    def take(self, count: int) -> list[Lease]:
        """Up to so many messages whose turn it is, higher priority first; never waits for more."""
        ...

    def renew(self, leases: Sequence[Lease]) -> set[str]:
        """Let these leases begin anew; returns the ids of the messages that are still held."""
        ...

    def settle(self, outcomes: Sequence[Outcome], beside: Beside | None = None) -> set[str]:
        """End leases with their results; returns the ids that were held. Where `beside` raises, nothing is settled."""
        ...

    def close(self) -> None:
        """Give connections back; twice is no error. Leases are left to run out."""
        ...


@runtime_checkable
class CacheBackend(Protocol):
    """Answers of models by key, in this process and perhaps beyond it.

    Guarantees:
        1. In this process it never holds more bytes than its limit, and it gives no answer older than its time to live.
        2. What it gives is equal to what was kept, bit by bit, and read-only.
        3. No method raises: an error beyond this process is a miss, and is counted. `fetch` returns within a stated
           time, and while the other side is away, at once.
    """

    def find(self, key: bytes) -> Tensors | None:
        """What this process holds; never waits."""
        ...

    async def fetch(self, key: bytes) -> Tensors | None:
        """What lies beyond this process, brought into it; None where there is no beyond."""
        ...

    def keep(self, key: bytes, outputs: Tensors, *, share: bool = True) -> Tensors:
        """Keep outputs, with `share` beyond this process too, and return read-only arrays to hand on; never waits."""
        ...

    def usage(self) -> CacheUsage:
        """Counts as of now."""
        ...

    async def close(self) -> None:
        """Give connections back."""
        ...


class Source(Protocol):
    """Says what should be loaded, and hands over what is needed to load it. Keeps no memory of what it said."""

    def poll(self) -> list[AspiredVersion]:
        """The whole list of versions there are."""
        ...

    def releases(self) -> list[Release]:
        """The release in force of each model of the last `poll` that has one."""
        ...

    def fetch(self, version: AspiredVersion) -> "Fetched":
        """Bring the version's files here and verify them. Raises `BundleError`."""
        ...


class Fetched(msgspec.Struct, frozen=True):
    """A version whose verified files lie on this machine."""

    manifest: Manifest
    artifact: Path | str
    folder: Path | None
    trusted: bool = False
    inferred: bool = False
    """The manifest was made up from the artifact: the signature comes from the runtime."""


class Served(Protocol):
    """One loaded version, as a door sees it. Valid until the door next awaits something else."""

    manifest: Manifest
    platform: str

    def predict(self, request: Request) -> Awaitable[Response]:
        """Tensors in, tensors out; a `Predictor`."""
        ...

    async def respond(self, payload: Payload, accept: tuple[str, ...]) -> Answer:
        """The bundle's transforms round `predict`; `accept` lists media types, best first, `*/*` for any.

        Raises:
            NotAcceptable: naming the media types that this task can give.
        """
        ...


class Directory(Protocol):
    """What a door may ask about the models in this process. Answers come from memory."""

    def find(self, name: str, version: int | None = None, call: Call | None = None) -> Served:
        """The version that answers; without a `version` the one that a release gives this `call`.

        Fills in the call's unit, arm, epoch and propensity. Raises `NotFound` or `NotReady` with the reason.
        """
        ...

    def versions(self, name: str) -> list[int]:
        """Versions that can answer, ascending. Raises `NotFound`."""
        ...

    def statuses(self) -> list[VersionStatus]:
        """Every version that is loading, loaded, failed or gone, with its reason."""
        ...

    def statistics(self, name: str | None = None, version: int | None = None) -> list[Statistics]:
        """Counts and times per version. Raises `NotFound`."""
        ...

    def ready(self) -> bool:
        """Whether every model that should answer can, and the process is not draining."""
        ...


class Control(Protocol):
    """What a door may change about the models in this process: the explicit model control of its peers.

    A change lasts as long as the process. Each call returns when it has taken effect.
    """

    async def load(self, name: str) -> None:
        """Load, or load anew, a model that a source offers.

        Raises:
            NotFound: no source offers it.
            BundleError: it may not be served, and why; what was served before still is.
        """
        ...

    async def unload(self, name: str) -> None:
        """Drain and unload every version of a model; it stays away until `load`. Raises `NotFound`."""
        ...

    async def add(self, name: str, target: str) -> None:
        """Serve what lies at `target`, a path below the model store or a URL of one, under a name.

        Raises:
            Conflict: the name is served already.
            NotFound: nothing lies there.
            BundleError: it may not be served, and why.
        """
        ...


class FeedbackSink(Protocol):
    """Where a door puts what it is told about earlier answers.

    Guarantees:
        1. `verify` needs no look-up: an id that this project minted is known wherever its model's name is.
        2. When `commit` returns, the events outlive a crash. It does not hold up the event loop.
    """

    def verify(self, prediction: str, model: str = "") -> Identity:
        """Read a prediction id; `model` names its model where that is not known here.

        Raises:
            NotFound: it was not minted by this project.
        """
        ...

    async def commit(self, records: Sequence[FeedbackRecord]) -> None:
        """Keep events. Raises `NotReady`: they could not be written now, and may be sent again."""
        ...

"""The prediction log as serving sees it: an id for every request, a record for every answer.

    door -> Logged -> cache, batcher, ... -> Logged -> door
              |                                 |
          mints the id              a record into the writer's buffer

`Logged` is a `Predictor` round a version's others. It waits for nothing: the arrays of an answer are handed to the
writer's thread as they are, which keeps of them what the model's policy says.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from pathlib import Path
from random import random
from time import monotonic, time
from weakref import WeakSet

import numpy as np

from rung.domain.errors import Overloaded
from rung.domain.identity import Identity, Keyring, Mint
from rung.domain.models import Manifest
from rung.domain.predictions import LOWEST, Call, Request, Response
from rung.domain.records import FeedbackRecord, PredictionRecord, ShadowRecord, blame_of
from rung.domain.releases import BUCKETS, bucket
from rung.ports import Predictor
from rung.serving.log_encoding import LogPolicy, RecordEncoder
from rung.serving.recorder import BOUNDS, Histogram
from rung.store.segment_writer import SegmentWriter

__all__ = ["ArmRecorder", "Logged", "PredictionLog"]

_FOLD = 4096
_DEFAULT = LogPolicy()
_RECORD = 400
"""Bytes of a record without its arrays, about."""


class ArmRecorder:
    """What one arm of one version has answered, with an example of each latency."""

    __slots__ = ("epoch", "errors", "exemplars", "fresh", "histogram", "mint", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.errors: Counter[tuple[str, str]] = Counter()
        """Class and blame -> count."""
        self.histogram = Histogram()
        """Seconds from the arrival to the answer, of answers."""
        self.exemplars: list[tuple[float, str, float] | None] = [None] * (len(BOUNDS) + 1)
        """Per bucket of the histogram: seconds, prediction id and time of its last answer."""
        self.fresh: list[PredictionRecord] = []
        """Answers that are not sorted in yet."""
        self.epoch = -1
        self.mint: Mint = str

    def fold(self) -> None:
        """Sort in what is fresh."""
        fresh, self.fresh = self.fresh, []
        if not fresh:
            return
        seconds = np.array([record.total for record in fresh])
        self.requests += len(fresh)
        self.histogram.add(seconds)
        for index, place in enumerate(np.searchsorted(BOUNDS, seconds).tolist()):
            record = fresh[index]
            self.exemplars[place] = (record.total, record.id, record.time)


class PredictionLog:
    """Policies, ids and the writer of one replica. Also where feedback goes (`ports.FeedbackSink`)."""

    def __init__(
        self,
        folder: Path,
        key: bytes,
        *,
        replica: str,
        default: LogPolicy = _DEFAULT,
        policies: Mapping[str, LogPolicy] | None = None,
        buffer_bytes: int = 64 << 20,
    ) -> None:
        self.keyring = Keyring(key, int.from_bytes(secrets.token_bytes(5), "big"))
        self.encoder = RecordEncoder()
        self.writer = SegmentWriter(folder, replica=replica, encoder=self.encoder, buffer_bytes=buffer_bytes)
        self.logged: WeakSet[Logged] = WeakSet()
        """The versions that write here, for the metrics."""
        self.feedback: Counter[tuple[str, str]] = Counter()
        """Model and kind -> events that were acknowledged."""
        self._default = default
        self._policies = dict(policies or {})
        self._models: set[str] = set()

    def open(self) -> None:
        """Begin to write. Raises `ConfigurationError`: another process writes this replica's folder."""
        self.writer.open()

    def close(self) -> None:
        """Write what is held and mark the end; blocks for the disk, half a minute at most."""
        self.writer.close()

    def policy(self, model: str) -> LogPolicy:
        """What is kept of this model's requests and answers."""
        return self._policies.get(model, self._default)

    def know(self, models: Iterable[str]) -> None:
        """Take feedback for these models too, although no version of them is loaded here."""
        self._models.update(models)

    def shadowed(self, record: ShadowRecord) -> bool:
        """Take the comparison of a candidate's answer with the live one; False if it was shed."""
        return self.writer.append(record, _RECORD)

    # --- ports.FeedbackSink -----------------------------------------------------------------

    def verify(self, prediction: str, model: str = "") -> Identity:
        """Read an id that was minted by this project; `model` helps where the model is not known here.

        Raises:
            NotFound: it is none.
        """
        return self.keyring.verify(prediction, {*self._models, model} if model else self._models)

    async def commit(self, records: Sequence[FeedbackRecord]) -> None:
        """Return when the events are on the disk.

        Raises:
            NotReady: the disk refuses. They may be written later all the same; sent again, they count once.
        """
        size = sum([_RECORD + len(record.value) if isinstance(record.value, str) else _RECORD for record in records])
        await asyncio.wrap_future(self.writer.commit(records, size))
        for record in records:
            self.feedback[record.model, record.kind] += 1


class Logged:
    """A `Predictor` round another that gives requests their ids and answers their records.

    Guarantees:
        1. Every request with a call has its id before it is worked on, whether it is logged or not.
        2. Every answer and error of a unit in the sample is appended to the log or counted as shed.
        3. It never waits, and never makes the request wait.
    """

    def __init__(self, inner: Predictor, log: PredictionLog, manifest: Manifest, digest: str) -> None:
        self.arms: dict[str, ArmRecorder] = {}
        """Name of an arm -> what it has answered."""
        self.name = manifest.name
        self.version = manifest.version
        self._inner = inner
        self._log = log
        self._digest = digest[:16]
        policy = log.policy(manifest.name)
        self._sample = policy.sample
        self._inputs = policy.inputs in ("digest", "tensors", "both")
        self._body = policy.inputs in ("body", "both")
        log.encoder.know(manifest, policy)
        log.know([manifest.name])
        log.logged.add(self)

    def __call__(self, request: Request) -> Awaitable[Response]:
        """Answer one request; what came without a call, a step of a graph say, goes through unseen."""
        call = request.call
        return self._inner(request) if call is None else self._answer(request, call)

    async def _answer(self, request: Request, call: Call) -> Response:
        now = time()
        arm = self._arm(call)
        call.prediction_id = identity = arm.mint(now)
        try:
            response = await self._inner(request)
        except BaseException as error:
            self._failed(request, call, arm, identity, now, error)
            raise
        record = PredictionRecord(
            identity,
            now,
            self.name,
            response.version,
            call.arm,
            call.epoch,
            call.unit,
            request.rows,
            response.queued,
            response.computed,
            monotonic() - request.arrived,
            "",
            "",
            call.propensity,
        )
        record.digest = self._digest
        if self._sample == 1.0 or self._sampled(call.unit):
            record.outputs = outputs = response.outputs
            size = _RECORD
            for array in outputs.values():
                size += array.nbytes
            self._append(record, request, call, size)
        arm.fresh.append(record)
        if len(arm.fresh) >= _FOLD:
            arm.fold()
        return response

    def refused(self, request: Request, error: Exception) -> None:
        """Give an id and a record to what was turned away before it became tensors."""
        if (call := request.call) is not None:
            now, arm = time(), self._arm(call)
            call.prediction_id = arm.mint(now)
            self._failed(request, call, arm, call.prediction_id, now, error)

    def _append(self, record: PredictionRecord, request: Request, call: Call, size: int) -> None:
        if self._inputs and request.inputs:
            record.inputs = inputs = request.inputs
            for array in inputs.values():
                size += array.nbytes
        if self._body:
            record.body, record.door = call.body, call.door
            size += len(call.body)
            record.media = call.headers.get(b"content-type", b"").decode("latin-1")
        if not self._log.writer.append(record, size):
            # The metrics still look at it; what it holds must not wait for them.
            record.outputs = record.inputs = record.body = None

    def _failed(
        self, request: Request, call: Call, arm: ArmRecorder, identity: str, now: float, error: BaseException
    ) -> None:
        if request.priority == LOWEST and isinstance(error, Overloaded):
            return  # it is asked again when nobody else asks
        name = "Cancelled" if isinstance(error, asyncio.CancelledError | GeneratorExit) else type(error).__name__
        blame = "client" if name == "Cancelled" else blame_of(error)
        arm.requests += 1
        arm.errors[name, blame] += 1
        if self._sample == 1.0 or self._sampled(call.unit):
            record = PredictionRecord(
                identity, now, self.name, self.version, call.arm, call.epoch, call.unit, request.rows, error=name
            )
            record.total, record.blame, record.propensity = monotonic() - request.arrived, blame, call.propensity
            record.digest = self._digest
            self._append(record, request, call, _RECORD)

    def _sampled(self, unit: str) -> bool:
        """Whole units, so that what is counted per unit stays right; without units each request draws."""
        if not unit:
            return random() < self._sample  # noqa: S311 - a sample, not a secret
        return bucket(f"log:{self.name}", unit) < self._sample * BUCKETS

    def _arm(self, call: Call) -> ArmRecorder:
        arm = self.arms.get(call.arm)
        if arm is None or arm.epoch != call.epoch:
            arm = self.arms.setdefault(call.arm, ArmRecorder())
            arm.mint, arm.epoch = self._log.keyring.mint(self.name, self.version, call.arm, call.epoch), call.epoch
        return arm

import asyncio
import gc
from time import monotonic, time

import numpy as np
import pytest

from rung.domain.errors import Cancelled, InvalidInput, ModelError, NotFound, Overloaded
from rung.domain.identity import parse
from rung.domain.models import Manifest
from rung.domain.packing import unpack
from rung.domain.predictions import Call, Request, Response
from rung.domain.records import FeedbackRecord, PredictionRecord
from rung.domain.tensors import Signature, TensorSpec
from rung.serving.log import Logged, PredictionLog
from rung.serving.log_encoding import LogPolicy
from rung.serving.ticket import Ticket
from rung.store.segments import read

KEY = bytes(range(32))
MANIFEST = Manifest(
    "m", 3, "onnx", Signature((TensorSpec("x", "FP32", (-1, 2)),), (TensorSpec("y", "FP32", (-1, 2)),)), ""
)


class Doubler:
    """Answers twice the input at once, or fails, or hands out a ticket to be settled later."""

    def __init__(self):
        self.error = None
        self.ticket = None
        self.later = False
        self.ids = []

    def __call__(self, request):
        self.ids.append(request.call.prediction_id if request.call else None)
        if self.error is not None:
            raise self.error
        response = Response("m", 3, {"y": request.inputs["x"] * 2}, 0.001, 0.002, 1)
        if self.later:
            self.ticket = Ticket(request, monotonic())
            return self.ticket
        return self._at_once(response)

    async def _at_once(self, response):
        return response


@pytest.fixture
def log(tmp_path):
    made = PredictionLog(
        tmp_path, KEY, replica="r0", policies={"bodies": LogPolicy(inputs="body"), "whole": LogPolicy(inputs="both")}
    )
    made.open()
    yield made
    made.close()


def request(unit="u", arm="stable", epoch=4, **call) -> Request:
    x = np.array([[1, 2]], np.float32)
    made = Call(arrived=monotonic(), unit=unit, arm=arm, epoch=epoch, propensity=0.25, **call)
    return Request({"x": x}, arrived=made.arrived, call=made)


def predictions(log, tmp_path):
    log.writer.commit([]).result(10)
    return [record for _, record in read(tmp_path) if isinstance(record, PredictionRecord)]


def step(coroutine):
    """Drive a coroutine as the door does: without a Task."""
    try:
        return coroutine.send(None)
    except StopIteration as stop:
        return stop.value


def test_an_answer_has_an_id_before_and_a_record_after(log, tmp_path):
    inner = Doubler()
    logged = Logged(inner, log, MANIFEST, "d" * 64)
    one = request()
    before = time()
    response = step(logged(one))
    assert response.outputs["y"].tolist() == [[2, 4]]
    assert inner.ids == [one.call.prediction_id]
    identity = log.verify(one.call.prediction_id)
    assert (identity.model, identity.version, identity.arm, identity.epoch) == ("m", 3, "stable", 4)
    (record,) = predictions(log, tmp_path)
    assert record.id == one.call.prediction_id
    assert (record.model, record.version, record.arm, record.epoch, record.unit) == ("m", 3, "stable", 4, "u")
    assert (record.queued, record.computed, record.propensity, record.digest) == (0.001, 0.002, 0.25, "d" * 16)
    assert record.total >= 0
    assert before - 0.001 <= record.time <= time()
    assert record.output_summary == {"y": (3.0, 2.0, 4.0)}
    assert (record.error, record.inputs, record.body) == ("", None, None)


def test_it_hands_through_the_ticket_and_needs_no_task(log, tmp_path):
    inner = Doubler()
    inner.later = True
    logged = Logged(inner, log, MANIFEST, "")
    one = request()
    coroutine = logged(one)
    assert step(coroutine) is inner.ticket
    assert predictions(log, tmp_path) == []
    inner.ticket.settle(Response("m", 3, {"y": np.ones((1, 2), np.float32)}), None)
    assert isinstance(step(coroutine), Response)
    assert len(predictions(log, tmp_path)) == 1


def test_what_has_no_call_goes_through_unseen(log, tmp_path):
    inner = Doubler()
    logged = Logged(inner, log, MANIFEST, "")
    assert isinstance(step(logged(Request({"x": np.ones((1, 2), np.float32)}))), Response)
    assert inner.ids == [None]
    assert predictions(log, tmp_path) == []


@pytest.mark.parametrize(
    ("error", "name", "blame"),
    [
        (InvalidInput("bad"), "InvalidInput", "client"),
        (ModelError("broken"), "ModelError", "server"),
        (asyncio.CancelledError(), "Cancelled", "client"),
    ],
)
def test_an_error_is_a_record_too(log, tmp_path, error, name, blame):
    inner = Doubler()
    inner.error = error
    logged = Logged(inner, log, MANIFEST, "")
    one = request()
    with pytest.raises(type(error)):
        step(logged(one))
    (record,) = predictions(log, tmp_path)
    assert (record.id, record.error, record.blame) == (one.call.prediction_id, name, blame)
    assert logged.arms["stable"].errors == {(name, blame): 1}


@pytest.mark.parametrize("inputs", ["off", "digest", "tensors"])
def test_what_was_refused_before_it_became_tensors_is_a_record_too(tmp_path, inputs):
    log = PredictionLog(tmp_path, KEY, replica="r0", default=LogPolicy(inputs=inputs))
    log.open()
    logged = Logged(Doubler(), log, MANIFEST, "")
    one = request()
    one.inputs = {}
    logged.refused(one, Overloaded("later", retry_after=1.0))
    (record,) = predictions(log, tmp_path)
    log.close()
    assert (record.id, record.error, record.blame) == (one.call.prediction_id, "Overloaded", "server")
    assert (record.inputs, record.input_digest, record.body) == (None, b"", None)
    assert logged.arms["stable"].errors == {("Overloaded", "server"): 1}


def test_a_caller_who_leaves_is_logged_and_the_ticket_given_up(log, tmp_path):
    inner = Doubler()
    inner.later = True
    coroutine = Logged(inner, log, MANIFEST, "")(request())
    step(coroutine)
    with pytest.raises(Cancelled):
        coroutine.throw(Cancelled("gone"))
    assert inner.ticket.settled
    assert [record.error for record in predictions(log, tmp_path)] == ["Cancelled"]


def test_each_arm_and_epoch_has_ids_of_its_own_and_counts(log):
    logged = Logged(Doubler(), log, MANIFEST, "")
    seen = []
    for arm, epoch in (("stable", 1), ("canary", 1), ("stable", 2), ("stable", 2)):
        one = request(arm=arm, epoch=epoch)
        step(logged(one))
        identity = parse(one.call.prediction_id)
        seen.append((identity.arm, identity.epoch))
    assert seen == [("stable", 1), ("canary", 1), ("stable", 2), ("stable", 2)]
    for arm in logged.arms.values():
        arm.fold()
    assert {name: arm.requests for name, arm in logged.arms.items()} == {"stable": 3, "canary": 1}
    example = next(found for found in logged.arms["canary"].exemplars if found)
    assert parse(example[1]).arm == "canary"


def test_the_body_is_kept_where_the_policy_says(log, tmp_path):
    manifest = Manifest("bodies", 1, "onnx", MANIFEST.signature, "")
    logged = Logged(Doubler(), log, manifest, "")
    step(logged(request(body=b"[[1, 2]]", headers={b"content-type": b"application/json"})))
    (record,) = predictions(log, tmp_path)
    assert (record.body, record.media) == (b"[[1, 2]]", "application/json")


def test_body_and_tensors_are_kept_where_the_policy_says_both(log, tmp_path):
    logged = Logged(Doubler(), log, Manifest("whole", 1, "onnx", MANIFEST.signature, ""), "")
    step(logged(request(body=b"[[1, 2]]", headers={b"content-type": b"application/json"})))
    (record,) = predictions(log, tmp_path)
    assert (record.body, record.media) == (b"[[1, 2]]", "application/json")
    assert unpack(record.inputs)["x"].tolist() == [[1, 2]]


def test_the_sample_takes_whole_units_and_ids_are_minted_for_all(tmp_path):
    log = PredictionLog(tmp_path, KEY, replica="r0", default=LogPolicy(sample=0.3))
    log.open()
    logged = Logged(Doubler(), log, MANIFEST, "")
    for number in range(1000):
        for _ in range(2):
            one = request(unit=f"user-{number}")
            step(logged(one))
            assert log.verify(one.call.prediction_id)
    for _ in range(1000):
        step(logged(request(unit="")))
    found = predictions(log, tmp_path)
    log.close()
    units = [record.unit for record in found if record.unit]
    assert all(units.count(unit) == 2 for unit in set(units))
    # Binomial, n = 1,000, p = 0.3: five standard deviations are 72.
    assert 228 <= len(set(units)) <= 372
    assert 228 <= sum(not record.unit for record in found) <= 372
    assert logged.arms["stable"].requests + len(logged.arms["stable"].fresh) == 3000


def test_a_full_buffer_sheds_records_and_never_answers(tmp_path):
    log = PredictionLog(tmp_path, KEY, replica="r0", buffer_bytes=1000)
    logged = Logged(Doubler(), log, MANIFEST, "")
    for _ in range(10):
        assert isinstance(step(logged(request())), Response)
    assert log.writer.shed == {("m", "buffer full"): 8}
    # What was shed holds no arrays for the metrics' sake.
    assert [record.outputs is None for record in logged.arms["stable"].fresh] == [False, False, *[True] * 8]
    log.open()
    log.close()


def test_a_version_that_is_gone_leaves_the_metrics(log):
    logged = Logged(Doubler(), log, MANIFEST, "")
    assert list(log.logged) == [logged]
    del logged
    gc.collect()
    assert list(log.logged) == []


@pytest.mark.asyncio
async def test_feedback_is_on_the_disk_when_it_is_acknowledged(log, tmp_path):
    Logged(Doubler(), log, MANIFEST, "")
    mint = log.keyring.mint("m", 3, "canary", 1)
    await log.commit([FeedbackRecord("e", mint(time()), 1.0, 1.0, "label", 1, model="m")])
    assert [record.event for _, record in read(tmp_path) if isinstance(record, FeedbackRecord)] == ["e"]
    assert log.feedback == {("m", "label"): 1}


def test_ids_are_verified_for_models_known_here_or_named(log):
    Logged(Doubler(), log, MANIFEST, "")
    other = log.keyring.mint("elsewhere", 1)(time())
    assert log.verify(log.keyring.mint("m", 9)(time())).model == "m"
    with pytest.raises(NotFound):
        log.verify(other)
    assert log.verify(other, "elsewhere").model == "elsewhere"
    log.know(["elsewhere"])
    assert log.verify(other).model == "elsewhere"

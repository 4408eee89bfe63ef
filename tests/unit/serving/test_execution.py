import numpy as np
import pytest

from rung.domain.errors import InvalidInput, ModelError, NotReady, WorkerDied
from rung.domain.predictions import Request
from rung.serving.execution import execute, execute_apart
from rung.serving.ticket import Ticket
from rung.testing.scripted import ScriptedModel


def ticket(*rows: float) -> Ticket:
    x = np.array([[value, value] for value in rows], np.float32)
    return Ticket(Request({"x": x}, len(rows)), 0.0)


def firsts(outcomes):
    return [one if isinstance(one, Exception) else one["y"][:, 0].tolist() for one in outcomes]


def test_each_ticket_gets_its_rows():
    model = ScriptedModel()
    outcomes, seconds = execute(model, [ticket(1), ticket(2, 3), ticket(4)], "x")
    assert firsts(outcomes) == [[2], [4, 6], [8]]
    assert model.calls == [4]
    assert seconds > 0


class Pair:
    """Two inputs, two outputs."""

    def predict(self, inputs, threads=1):
        return {"sum": inputs["a"] + inputs["b"], "gap": inputs["a"] - inputs["b"]}


def test_requested_outputs_of_several_inputs():
    def asked(value, outputs=()):
        a = np.full((1, 1), value, np.float32)
        return Ticket(Request({"a": a, "b": a * 2}, 1, outputs), 0.0)

    outcomes, _ = execute(Pair(), [asked(1), asked(2, ("gap",)), asked(3, ("gap", "sum"))], None)
    assert [list(one) for one in outcomes] == [["sum", "gap"], ["gap"], ["gap", "sum"]]
    assert [float(one["gap"][0, 0]) for one in outcomes] == [-1, -2, -3]


@pytest.mark.parametrize("poisoned", [{0}, {31}, {13}, {0, 31}, {4, 5, 6}, set(range(32))])
def test_poison_is_found_by_halving(poisoned):
    model = ScriptedModel()
    batch = [ticket(2e30 if number in poisoned else number) for number in range(32)]
    outcomes, seconds = execute(model, batch, "x")
    assert {number for number, one in enumerate(outcomes) if isinstance(one, ModelError)} == poisoned
    for number in set(range(32)) - poisoned:
        assert firsts(outcomes)[number] == [2.0 * number]
    assert seconds == 0.0, "what a failed call took teaches nothing"
    if len(poisoned) == 1:
        assert len(model.calls) == 11, "two calls per level of halving, and the first"


class Raising:
    def __init__(self, error):
        self.error = error
        self.calls = 0

    def predict(self, inputs, threads=1):
        self.calls += 1
        if (inputs["x"] == 13).any():
            raise self.error
        return {"y": inputs["x"]}


def test_a_value_that_no_signature_rules_out_is_one_row_s_fault():
    outcomes, _ = execute(Raising(InvalidInput("not text")), [ticket(1), ticket(13), ticket(3)], "x")
    assert firsts(outcomes)[::2] == [[1], [3]]
    assert isinstance(outcomes[1], InvalidInput)


def test_a_death_is_retried_once_each_alone():
    model = Raising(WorkerDied("gone"))
    outcomes, _ = execute(model, [ticket(1), ticket(13), ticket(3)], "x")
    assert firsts(outcomes)[::2] == [[1], [3]]
    assert isinstance(outcomes[1], WorkerDied)
    assert model.calls == 4


def test_a_model_that_is_left_alone_fails_all_without_more_calls():
    model = Raising(NotReady("it keeps dying"))
    outcomes, _ = execute(model, [ticket(1), ticket(13)], "x")
    assert [type(one) for one in outcomes] == [NotReady, NotReady]
    assert model.calls == 1


def test_whoever_left_is_left_out():
    model = ScriptedModel()
    batch = [ticket(1), ticket(2), ticket(3)]
    batch[1].settled = True
    outcomes, _ = execute_apart(model, batch, "x", 1)
    assert (firsts(outcomes)[0], firsts(outcomes)[2]) == ([2], [6])
    assert isinstance(outcomes[1], ModelError)
    assert model.first == [1, 3]
    for one in batch:
        one.settled = True
    assert len(execute_apart(model, batch, "x", 1)[0]) == 3
    assert model.calls == [2], "nothing is computed for nobody"

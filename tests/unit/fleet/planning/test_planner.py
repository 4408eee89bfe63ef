import msgspec
import numpy as np
import pytest

from rung.domain.errors import InvalidData, InvalidInput
from rung.fleet.planning import fluid
from rung.fleet.planning.planner import Question, answer, cost_model
from rung.fleet.planning.plots import draw
from rung.fleet.planning.prices import Platform
from rung.fleet.planning.traces import Trace
from rung.fleet.scaling.rules import Policy

CONTAINER = Platform("container", hour=0.06, start_seconds=10.0)
PLATFORMS = {
    "vm": Platform("machine", hour=0.1, replicas=2, start_seconds=30.0),
    "container": CONTAINER,
    "function": Platform("function", request=2e-7, second=2e-5, start_seconds=1.0),
}
WAVE = Trace("wave", 0.0, 10.0, np.repeat([2.0, 2.0, 30.0, 2.0], 15) * 10.0)
QUESTION = Question(WAVE, {1: 0.1}, 0.5, PLATFORMS, Policy(least=1, most=1000, down_seconds=60.0))


@pytest.fixture(scope="module", autouse=True)
def _briefly():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fluid, "_DRAWN", 2_000)
        yield


@pytest.fixture(scope="module")
def plan(_briefly):
    return answer(QUESTION)


def test_every_policy_on_every_platform(plan):
    found = {(one.platform, one.policy) for one in plan.options}
    assert found == {
        *(
            (platform, policy)
            for platform in ("vm", "container")
            for policy in ("fixed", "autoscaled", "threshold", "least")
        ),
        ("function", "function"),
    }
    assert plan.singly


def test_the_least_number_misses_and_the_fixed_number_holds(plan):
    by = {(one.platform, one.policy): one for one in plan.options}
    assert not by["vm", "least"].holds
    fixed, scaled = by["container", "fixed"], by["container", "autoscaled"]
    assert fixed.holds
    assert fixed.least == fixed.most
    assert scaled.replica_hours < fixed.replica_hours
    assert scaled.served + scaled.shed * fixed.served == pytest.approx(fixed.served, rel=0.05)


def test_the_cheapest_is_one_that_holds_and_costs_least(plan):
    holding = [one for one in plan.options if one.holds]
    assert plan.best in holding
    assert plan.best.price == min(one.price for one in holding)


def test_prices_are_those_of_the_file(plan):
    by = {(one.platform, one.policy): one for one in plan.options}
    fixed = by["container", "fixed"]
    assert fixed.price == pytest.approx(fixed.most * 600 / 3600 * 0.06, rel=0.02)
    machines = -(-by["vm", "fixed"].most // 2)
    assert by["vm", "fixed"].price == pytest.approx(machines * 600 / 3600 * 0.1, rel=0.02)
    function = by["function", "function"]
    assert function.per_thousand == pytest.approx(1000 * (2e-7 + 0.1 * 2e-5), rel=0.05)


def test_the_knee_is_where_the_objective_ends(plan):
    assert 6.0 < plan.knee < 10.0


def test_millions_are_followed_as_a_stream():
    most = msgspec.structs.replace(QUESTION.policy, most=1_000_000)
    question = msgspec.structs.replace(QUESTION, trace=WAVE.scaled(1e5), platforms={"c": CONTAINER}, policy=most)
    plan = answer(question)
    assert not plan.singly
    assert plan.step == 1.0
    scaled = next(one for one in plan.options if one.policy == "autoscaled")
    assert scaled.most == pytest.approx(3e6 * 0.1 / 0.7, rel=0.3)


def test_a_trace_without_requests(plan):
    with pytest.raises(InvalidData, match="holds no requests"):
        answer(msgspec.structs.replace(QUESTION, trace=WAVE.scaled(0.0)))


def test_costs_between_the_given_sizes_lie_between_them():
    model = cost_model({1: 0.1, 8: 0.17}, 0.5)
    assert model.known == {
        1: pytest.approx(0.1),
        2: pytest.approx(0.11),
        4: pytest.approx(0.13),
        8: pytest.approx(0.17),
    }
    assert model.cap == 8
    assert cost_model({1: 0.1, 8: 0.17}, 0.12).cap == 2
    assert cost_model({1: 0.1}, 0.5, speed=2.0).estimate(1) == pytest.approx(0.05)
    with pytest.raises(InvalidData):
        cost_model({}, 0.5)
    with pytest.raises(InvalidData):
        cost_model({1: 0.0}, 0.5)


def test_a_picture(plan, tmp_path):
    draw(QUESTION, plan, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InvalidInput, match="no picture that can be written"):
        draw(QUESTION, plan, tmp_path / "plan.gif")

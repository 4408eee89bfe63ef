"""The stream against the same load request by request."""

import msgspec
import numpy as np
import pytest

from rung.fleet.planning import fluid
from rung.fleet.planning.fluid import Curve, flow, flow_of_functions, measure
from rung.fleet.planning.planner import cost_model
from rung.fleet.planning.queueing import Replicas, replay
from rung.fleet.planning.traces import Trace, arrivals
from rung.fleet.scaling.rules import Policy

KIND = Replicas(cost_model({1: 0.02}, 0.2), overhead=0.0, start_seconds=5.0, max_wait=2.0)


@pytest.fixture(scope="module")
def curve() -> Curve:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fluid, "_DRAWN", 3_000)
        return measure(KIND, np.random.default_rng(0))


def trace(rates, width: float = 60.0) -> Trace:
    return Trace("t", 0.0, width, np.array(rates, float) * width)


def test_a_replica_is_slower_the_more_it_is_asked(curve):
    assert curve.capacity == pytest.approx(50.0)
    p99 = curve.p99()
    assert (np.diff(p99) >= 0).all()
    assert p99[0] < 0.045
    assert p99[-1] > 2 * p99[0]
    knee = curve.knee(0.06)
    assert 0.5 < knee < 0.98
    assert curve.knee(0.001) == 0.0
    assert curve.knee(99.0) == curve.loads[-1]


def test_a_fixed_number_serves_what_it_can_and_sheds_the_rest(curve):
    calm = flow(trace([400.0] * 20), KIND, curve, Policy(least=10, most=10), 0.2)
    assert (calm.shed, calm.late) == (0.0, 0.0)
    assert calm.replica_seconds == pytest.approx(10 * 1200.0)
    flood = flow(trace([1000.0] * 20), KIND, curve, Policy(least=10, most=10), 0.2)
    assert flood.shed / (flood.served + flood.shed) == pytest.approx(0.5, abs=0.01)
    assert flood.p50_all == pytest.approx(2.0, rel=0.1)
    assert flood.late > 0.9


def test_one_alone_waits_longer_than_one_of_many(curve):
    load = np.array([0.7, 0.7, 0.7])
    p99 = curve.at(load, np.array([1.0, 3.0, 50.0]))[:, 38]
    assert p99[0] > p99[1] > p99[2]


def test_the_stream_agrees_with_single_requests(curve):
    shape = 200.0 + 150.0 * np.sin(np.linspace(0, 4 * np.pi, 40))
    load = trace(shape, 15.0)
    policy = Policy(least=1, most=50, down_seconds=60.0)
    rng = np.random.default_rng(0)
    one = replay(arrivals(load, rng), KIND, policy, rng, first=6)
    bulk = flow(load, KIND, curve, msgspec.structs.replace(policy, least=6), 0.2)
    assert bulk.replica_seconds == pytest.approx(one.replica_seconds, rel=0.2)
    assert bulk.p50_all == pytest.approx(one.quantile(0.5), rel=0.2)


def test_no_request_is_lost_between_steps(curve):
    found = flow(trace([100.0, 900.0, 30.0] * 100, 60.0), KIND, curve, Policy(least=1, most=1000), 0.2)
    assert found.served + found.shed == pytest.approx(sum([100.0, 900.0, 30.0]) * 100 * 60, rel=0.01)


def test_functions_start_cold_once_and_stay_warm():
    found = flow_of_functions(trace([50.0] * 30), KIND, 300.0, 0, 0.2)
    assert found.shed == 0.0
    assert found.starts == pytest.approx(1 + 2.326, abs=1.0)  # one is busy on the mean
    assert found.p50_all == pytest.approx(0.02)
    bursts = flow_of_functions(trace([0.0] * 9 + [50.0]).scaled(1.0), KIND, 60.0, 0, 0.2)
    assert bursts.starts >= 2


def test_a_limit_on_functions_sheds():
    found = flow_of_functions(trace([500.0] * 30), KIND, 300.0, 5, 0.2)
    assert found.shed / (found.served + found.shed) == pytest.approx(0.5, abs=0.02)


def test_a_million_requests_a_second(curve):
    found = flow(trace([1e6] * 60), KIND, curve, Policy(least=1, most=1_000_000, grow=10.0), 0.2)
    assert found.there.max() == pytest.approx(1e6 / 50 / 0.7, rel=0.1)
    assert found.served > 0.95 * 6e7 * 60

"""The simulation against what is known of queues, and its own rules."""

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.fleet.planning.planner import cost_model
from rung.fleet.planning.queueing import Replicas, replay
from rung.fleet.planning.traces import Trace, arrivals
from rung.fleet.scaling.rules import Policy

EACH = Replicas(cost_model({1: 0.1}, 0.0), overhead=0.0, start_seconds=2.0, max_wait=1e9)


def poisson(rate: float, count: int, seed: int = 0) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


def fixed(count: int) -> Policy:
    return Policy(least=count, most=count)


@pytest.mark.parametrize("load", [0.3, 0.7, 0.85])
def test_one_lane_waits_as_pollaczek_and_khinchine_say(load):
    course = replay(poisson(load / 0.1, 15_000), EACH, fixed(1), np.random.default_rng(0))
    expected = 0.1 + load * 0.1 / (2 * (1 - load))
    assert course.latency.mean() == pytest.approx(expected, rel=0.1)


def test_two_lanes_of_one_queue_wait_less_than_two_replicas():
    times = poisson(0.8 / 0.05, 6_000)
    two_lanes = replay(times, msgspec.structs.replace(EACH, lanes=2), fixed(1), np.random.default_rng(0))
    two = replay(times, EACH, fixed(2), np.random.default_rng(0))
    one = replay(poisson(0.8 / 0.1, 6_000), EACH, fixed(1), np.random.default_rng(0))
    assert two_lanes.latency.mean() <= two.latency.mean() < one.latency.mean()


def test_a_batch_that_costs_less_a_row_answers_what_single_calls_could_not():
    times = poisson(30.0, 6_000)
    batched = Replicas(cost_model({1: 0.1, 8: 0.16}, 0.5), overhead=0.0, max_wait=1e9)
    course = replay(times, batched, fixed(1), np.random.default_rng(0))
    assert course.shed == 0
    assert course.quantile(0.99) < 0.4


def test_what_would_wait_too_long_is_turned_away():
    kind = msgspec.structs.replace(EACH, max_wait=0.5)
    course = replay(poisson(20.0, 4_000), kind, fixed(1), np.random.default_rng(0))
    assert course.shed / 4_000 == pytest.approx(0.5, abs=0.02)
    assert course.quantile(1.0) <= 0.5 + 2 * 0.1 + 1e-9


def test_the_autoscaler_follows_a_step_and_pays_less_than_the_most():
    times = np.concatenate([poisson(5.0, 500), 100 + poisson(40.0, 4_000), 200 + poisson(5.0, 1_000)])
    policy = Policy(least=1, most=10, down_seconds=30.0)
    course = replay(times, EACH, policy, np.random.default_rng(0))
    assert course.there.max() >= 5
    assert course.ready[-1] <= 2
    assert course.shed == 0
    assert course.replica_seconds < 0.7 * 10 * times[-1]
    assert [one.why for one in course.decisions]
    late = course.latency[(times > 120) & (times < 200)]
    assert np.quantile(late, 0.99) < 0.5


def test_after_quiet_a_load_is_seen_more_slowly_since_rates_are_taken_over_seconds():
    kind = msgspec.structs.replace(EACH, max_wait=1.0)
    policy = Policy(least=1, most=8, wait=0.0)
    times = poisson(40.0, 1_200)
    sudden, rested = (replay(times, kind, policy, np.random.default_rng(0), calm=calm) for calm in (0.0, 6.0))
    assert sudden.decisions[0].at <= rested.decisions[0].at
    assert sudden.decisions[0].replicas > rested.decisions[0].replicas
    assert sudden.decisions[-1].replicas == rested.decisions[-1].replicas
    assert sudden.replica_seconds > rested.replica_seconds


def test_none_runs_where_nobody_asks_and_what_comes_waits_for_the_first():
    times = np.concatenate([np.arange(0.0, 10.0, 0.5), np.arange(400.0, 410.0, 0.5)])
    policy = Policy(least=0, most=2, idle=60.0, down_seconds=30.0)
    course = replay(times, EACH, policy, np.random.default_rng(0))
    assert course.there.min() == 0
    assert course.shed == 0
    first = course.latency[times >= 400][0]
    assert 2.0 <= first <= 3.2  # until the next look, the start, and the call


@given(
    st.lists(st.floats(0, 30), min_size=1, max_size=60),
    st.integers(1, 3),
    st.integers(1, 2),
    st.sampled_from([0.2, 2.0, 1e9]),
    st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_every_request_is_answered_or_turned_away_and_none_before_its_time(gaps, least, lanes, max_wait, more):
    times = np.cumsum(np.array(gaps) / 10)
    kind = Replicas(cost_model({1: 0.1, 4: 0.2}, 0.5), lanes=lanes, max_wait=max_wait, overhead=0.0)
    policy = Policy(least=least, most=least + more, down_seconds=5.0)
    course = replay(times, kind, policy, np.random.default_rng(0))
    served = course.latency[~np.isnan(course.latency)]
    assert len(served) + course.shed == len(times)
    assert (served >= 0.1 - 1e-9).all()
    assert (course.there >= course.ready).all()
    assert least * times[-1] - 1e-6 <= course.replica_seconds
    if max_wait == 1e9:
        assert course.shed == 0


def test_the_same_seed_gives_the_same_course():
    policy = Policy(least=1, most=40)
    runs = [replay(poisson(100.0, 3_000), EACH, policy, np.random.default_rng(5)) for _ in range(2)]
    assert np.array_equal(runs[0].latency, runs[1].latency, equal_nan=True)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(200))
def test_whatever_load_comes_nothing_is_lost_and_nothing_flaps(seed):
    rng = np.random.default_rng(seed)
    rates = rng.choice([0.0, 2.0, 10.0, 60.0], 30) * rng.uniform(0.5, 1.5, 30)
    times = arrivals(Trace("t", 0.0, 20.0, rates * 20.0), rng)
    down = float(rng.choice([10.0, 60.0]))
    policy = Policy(
        least=int(rng.integers(0, 3)), most=12, down_seconds=down, idle=20.0, spares=int(rng.integers(0, 2))
    )
    kind = msgspec.structs.replace(EACH, start_seconds=float(rng.choice([0.5, 5.0, 30.0])))
    course = replay(times, kind, policy, rng)
    assert course.shed == 0
    assert course.there.max() >= course.ready.max()
    assert course.ready.max() <= 12
    for one in course.decisions:
        ups = [other.replicas > other.before for other in course.decisions if one.at <= other.at < one.at + down]
        assert sum(a != b for a, b in pairwise(ups)) <= 1, (seed, one)

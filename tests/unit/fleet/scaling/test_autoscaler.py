"""The plan: composition, windows, steps, words; and that it does not flap, whatever comes."""

from collections import deque
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.domain.scaling import Decision
from rung.fleet.scaling.autoscaler import Fleet, Past, plan
from rung.fleet.scaling.calendar import read_entry
from rung.fleet.scaling.reading import weigh
from rung.fleet.scaling.rules import ModelSeen, Policy


def seen(utilisation: float, **more) -> dict[str, ModelSeen]:
    return {"m": ModelSeen(utilisation=utilisation, rate=10.0 * utilisation, **more)}


def decide(replicas: int, utilisation: float, policy: Policy, *, past=(), now: float = 1000.0, **more) -> Decision:
    fleet = Fleet(now=now, replicas=replicas, ready=replicas, models=seen(utilisation), past=past, **more)
    return plan(fleet, {"m": policy})


QUIET = tuple(Past(float(at), 1, 1) for at in range(0, 1001, 10))


def test_more_are_started_at_once_and_the_decision_says_why():
    decision = decide(2, 1.4, Policy(least=1, most=8))
    assert (decision.before, decision.replicas, decision.wanted) == (2, 4, 4)
    assert (
        decision.why
        == "2 -> 4: m utilisation: 14 requests/s are 140% of what 2 replicas can compute; 70% is the target"
    )


def test_the_most_is_the_most_and_the_least_the_least():
    assert decide(2, 9.0, Policy(most=3)).replicas == 3
    assert "3 is the most allowed, where 26 are wanted" in decide(2, 9.0, Policy(most=3)).why
    low = decide(1, 0.0, Policy(least=2, most=3))
    assert low.replicas == 2
    assert "2 is the least allowed" in low.why


def test_fewer_only_after_nothing_more_was_wanted_for_the_window():
    policy = Policy(most=8, down_seconds=300)
    busy = [Past(float(at), 4, 4) for at in range(600, 720, 10)] + [
        Past(float(at), 1, 4) for at in range(720, 1001, 10)
    ]
    held = decide(4, 0.1, policy, past=busy)
    assert held.replicas == 4
    assert "held until no more was wanted for 300 s" in held.why
    free = [Past(at.at - 30, at.wanted, at.replicas) for at in busy]
    assert decide(4, 0.1, policy, past=free).replicas == 2  # at most half at once


def test_after_a_start_nothing_is_taken_away_before_a_window_has_passed():
    assert decide(4, 0.1, Policy(most=8, down_seconds=300), past=[Past(900.0, 1, 4)]).replicas == 4


def test_more_waits_for_its_own_window_where_one_is_set():
    policy = Policy(most=8, up_seconds=30)
    low = [Past(float(at), 1, 1) for at in range(900, 1000, 10)]
    for since, replicas in [(1000, 1), (980, 1), (970, 3), (940, 3)]:
        past = [Past(one.at, 3, 1) if one.at >= since else one for one in low]
        assert decide(1, 2.0, policy, past=past).replicas == replicas, since
    assert decide(1, 2.0, policy, past=[Past(975.0, 3, 1)]).replicas == 1, "not looked at for all of it"


def test_a_step_is_no_larger_than_allowed_even_in_several_looks():
    policy = Policy(most=100, grow=2.0)
    assert decide(4, 9.0, policy).replicas == 8
    assert decide(8, 9.0, policy, past=[*QUIET, Past(995.0, 90, 4)]).replicas == 8
    assert decide(8, 9.0, policy, past=[*QUIET[:-3], Past(984.0, 90, 8)]).replicas == 16


def test_spares_come_on_top_and_are_no_reason_for_more_of_themselves():
    assert decide(1, 0.5, Policy(most=8, spares=2)).replicas == 3
    silent = plan(Fleet(now=1000.0, replicas=3, ready=0), {"m": Policy(most=8, spares=2)})
    assert silent.replicas == 3
    assert "none tells of its load" in silent.why


def test_schedule_and_load_compose_by_the_larger():
    entry = read_entry("*/10 * * * * for 10min: 3")
    policy = Policy(most=8, schedule=(entry,))
    assert decide(1, 0.1, policy).replicas == 3
    assert decide(3, 1.4, policy).replicas == 6


def test_the_model_that_wants_most_decides():
    models = {"a": ModelSeen(utilisation=0.2, rate=1.0), "b": ModelSeen(utilisation=1.4, rate=1.0)}
    fleet = Fleet(now=1000.0, replicas=1, ready=1, models=models)
    decision = plan(fleet, {"a": Policy(most=8), "b": Policy(most=3)})
    assert decision.replicas == 2
    assert decision.why.startswith("1 -> 2: b utilisation")


ZERO = Policy(least=0, most=4, idle=120, down_seconds=60)


@pytest.mark.parametrize(
    ("idle", "holds", "held", "replicas"),
    [(119.0, True, 0, 1), (121.0, True, 0, 0), (121.0, False, 0, 1), (121.0, True, 1, 1)],
)
def test_the_last_replica_goes_where_nobody_asks_and_something_holds_what_comes(idle, holds, held, replicas):
    past = [Past(float(at), 0, 1) for at in range(900, 1000, 10)]
    fleet = Fleet(now=1000.0, replicas=1, ready=1, models=seen(0.0), past=past, idle=idle, holds=holds, held=held)
    assert plan(fleet, {"m": ZERO}).replicas == replicas


def test_what_is_held_wakes_a_replica():
    decision = plan(Fleet(now=1000.0, replicas=0, ready=0, held=3, holds=True), {"m": ZERO})
    assert decision.replicas == 1
    assert decision.why == "0 -> 1: 3 requests wait for a replica"
    assert plan(Fleet(now=1000.0, replicas=0, ready=0, holds=True), {"m": ZERO}).replicas == 0


# --- whatever comes -------------------------------------------------------------------------------

policies = st.builds(
    Policy,
    least=st.integers(0, 2),
    most=st.integers(2, 20),
    spares=st.integers(0, 2),
    up_seconds=st.sampled_from([0.0, 20.0]),
    down_seconds=st.sampled_from([0.0, 30.0, 120.0]),
    double_above=st.sampled_from([0, 100]),
    requests=st.sampled_from([0.0, 5.0]),
    grow=st.sampled_from([1.5, 4.0]),
    shrink=st.sampled_from([0.1, 0.5, 0.9]),
    idle=st.sampled_from([10.0, 60.0]),
)
loads = st.lists(
    st.tuples(st.floats(0, 5), st.floats(0, 2), st.integers(0, 500), st.integers(1, 15)), min_size=15, max_size=50
)


def drive(policy: Policy, load, start: int = 1) -> list[Decision]:
    """Decisions over a load of (utilisation, wait, in flight, seconds until the next look)."""
    now, replicas, past, decisions, asked = 0.0, start, [], [], 0.0
    for utilisation, wait, in_flight, seconds in load:
        now += seconds
        if utilisation or in_flight:
            asked = now
        model = ModelSeen(utilisation=utilisation, wait=wait, in_flight=in_flight, rate=utilisation * 7)
        fleet = Fleet(
            now=now,
            replicas=replicas,
            ready=replicas,
            models={"m": model},
            past=tuple(past),
            held=in_flight if not replicas else 0,
            holds=True,
            idle=now - asked,
        )
        decision = plan(fleet, {"m": policy})
        past.append(Past(now, decision.wanted, decision.replicas))
        decisions.append(decision)
        replicas = decision.replicas
    return decisions


def turns(decisions: list[Decision], start: float, end: float) -> int:
    """Changes of direction among the moves in [start, end)."""
    moves = [one.replicas > one.before for one in decisions if one.moves and start <= one.at < end]
    return sum(a != b for a, b in pairwise(moves))


@given(policies, loads)
@settings(max_examples=60, deadline=None)
def test_no_window_sees_more_than_one_change_of_direction_and_no_limit_is_passed(policy, load):
    decisions = drive(policy, load)
    for one in decisions:
        assert policy.least <= one.replicas <= policy.most
        assert turns(decisions, one.at, one.at + policy.down_seconds) <= 1
        assert one.why
        assert str(one.replicas) in one.why


@given(policies, loads)
@settings(max_examples=20, deadline=None)
def test_deciding_again_on_the_same_moment_changes_nothing_more(policy, load):
    last = drive(policy, load)[-1]
    utilisation, wait, in_flight, _ = load[-1]
    model = ModelSeen(utilisation=utilisation, wait=wait, in_flight=in_flight, rate=utilisation * 7)
    fleet = Fleet(now=last.at, replicas=last.before, ready=last.before, models={"m": model}, holds=True)
    assert plan(fleet, {"m": policy}) == plan(fleet, {"m": policy})


@given(st.integers(1, 20), st.floats(0, 3), st.floats(0, 3))
@settings(max_examples=50, deadline=None)
def test_more_load_never_asks_for_fewer(replicas, load, more):
    policy = Policy(most=50)
    assert decide(replicas, load, policy).wanted <= decide(replicas, load + more, policy).wanted


# --- a load on paper ------------------------------------------------------------------------------


def simulate(rates: np.ndarray, policy: Policy, rng: np.random.Generator, each: float = 10.0) -> list[Decision]:
    """A look a second; a replica answers `each` a second; what came in is drawn by Poisson."""
    replicas, queue, past, decisions, lately = policy.least, 0.0, [], [], deque(maxlen=30)
    for second, rate in enumerate(rates):
        came = float(rng.poisson(rate))
        done = min(queue + came, replicas * each)
        queue += came - done
        lately.append(came)
        able = replicas * each
        fast, slow = (
            ModelSeen(utilisation=mean / able, wait=queue / able, in_flight=int(queue), rate=mean)
            for mean in (np.mean(list(lately)[-5:]), np.mean(lately))
        )
        model = weigh(fast, slow)
        fleet = Fleet(now=float(second), replicas=replicas, ready=replicas, models={"m": model}, past=tuple(past))
        decision = plan(fleet, {"m": policy})
        past.append(Past(float(second), decision.wanted, decision.replicas))
        del past[: max(len(past) - 200, 0)]
        decisions.append(decision)
        replicas = decision.replicas
    return decisions


@pytest.mark.parametrize("seed", range(5))
def test_a_steady_load_settles_and_a_step_goes_up_once_and_comes_back_once(seed):
    policy = Policy(least=1, most=16, down_seconds=60)
    rates = np.concatenate([np.full(300, 25.0), np.full(300, 90.0), np.full(400, 25.0)])
    decisions = simulate(rates, policy, np.random.default_rng(seed))
    assert turns(decisions, 250.0, 1000.0) <= 1
    rising = next(one.at for one in decisions if one.at >= 300 and one.replicas >= 9)
    assert rising <= 306
    assert decisions[-1].replicas < 9


def test_a_hundred_replicas_come_down_without_a_cliff():
    decisions = drive(Policy(most=100, down_seconds=30), [(9.0, 0.0, 0, 10)] * 4 + [(0.01, 0.0, 0, 5)] * 40, start=20)
    counts = [one.replicas for one in decisions]
    assert max(counts) == 100
    assert counts[-1] == 1
    assert all(b >= a // 2 for a, b in pairwise(counts))

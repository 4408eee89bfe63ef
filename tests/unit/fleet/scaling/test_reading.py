import msgspec
import numpy as np
import pytest

from rung.domain.scaling import ModelLoad, ReplicaLoad
from rung.fleet.scaling.reading import Look, Looks, Usage, between, latencies, weigh
from rung.fleet.scaling.rules import ModelSeen

BOUNDS = (0.01, 0.1, 1.0)


def look(at: float, answered: int = 0, *, loop: float = 0.0, usage: Usage | None = None, **more) -> Look:
    """A replica with one lane whose requests are a row of 50 ms each."""
    fields = {"rows": answered, "row": 0.05, "answered": answered} | more
    return Look(ReplicaLoad(at, True, loop, BOUNDS, {"m": ModelLoad(**fields)}), usage)


def test_utilisation_is_what_came_in_times_what_it_costs():
    seen = between({"a": look(0.0), "b": look(0.0)}, {"a": look(10.0, 100), "b": look(10.0, 40)}, 2, {})["m"]
    assert seen.rate == pytest.approx(14.0)
    assert seen.utilisation == pytest.approx((0.5 + 0.2) / 2)
    assert seen.work == pytest.approx(0.05)


def test_what_was_turned_away_and_what_piled_up_were_asked_too():
    after = look(10.0, 190, refused=150, in_flight=60, wait=3.0)
    seen = between({"a": look(0.0)}, {"a": after}, 1, {})["m"]
    assert (seen.rate, seen.refused, seen.in_flight, seen.wait) == (pytest.approx(40.0), pytest.approx(15.0), 60, 3.0)
    assert seen.utilisation == pytest.approx(2.0)


def test_requests_of_several_rows_cost_as_many():
    seen = between({"a": look(0.0)}, {"a": look(10.0, 50, rows=150, refused=50)}, 1, {})["m"]
    assert seen.utilisation == pytest.approx(100 * 3 * 0.05 / 10)


def test_lanes_share_the_work_and_the_loop_is_a_runner_too():
    assert between({"a": look(0.0)}, {"a": look(10.0, 100, lanes=2)}, 1, {})["m"].utilisation == pytest.approx(0.25)
    assert between({"a": look(0.0)}, {"a": look(10.0, 1, loop=9.0)}, 1, {})["m"].utilisation == pytest.approx(0.9)


def test_one_that_has_just_come_shares_the_load_and_has_brought_none():
    seen = between({"a": look(0.0)}, {"a": look(10.0, 200), "b": look(10.0, 3)}, 2, {})["m"]
    assert seen.utilisation == pytest.approx(0.5)


def test_one_that_does_not_tell_has_as_much_as_the_others():
    seen = between({"a": look(0.0)}, {"a": look(10.0, 100, in_flight=4)}, 2, {})["m"]
    assert (seen.rate, seen.in_flight) == (pytest.approx(20.8), 8)
    assert seen.utilisation == pytest.approx(0.52)


def test_a_restart_is_no_negative_load():
    assert between({"a": look(100.0, 500)}, {"a": look(3.0, 10)}, 1, {}) == {}
    assert between({"a": look(100.0, 500)}, {"a": look(103.0, 10)}, 1, {}) == {}


def test_nothing_asked_keeps_what_is_known_of_its_work():
    seen = between({"a": look(0.0)}, {"a": look(5.0)}, 1, {"m": 0.04})["m"]
    assert (seen.utilisation, seen.rate, seen.work) == (0.0, 0.0, 0.04)


def test_cores_and_memory_are_means_over_replicas():
    before = {name: look(0.0, usage=Usage(5.0, 10)) for name in "ab"}
    after = {"a": look(10.0, usage=Usage(13.0, 100)), "b": look(10.0, usage=Usage(7.0, 200))}
    seen = between(before, after, 2, {})["m"]
    assert (seen.cpu, seen.memory) == (pytest.approx(0.5), pytest.approx(150.0))
    assert between({"a": look(0.0)}, {"a": look(5.0)}, 1, {})["m"].cpu is None


def test_a_percentile_of_what_came_in_between():
    before = {"a": look(0.0, buckets=(100, 0, 0, 0))}
    after = {"a": look(10.0, buckets=(100, 98, 2, 0)), "b": look(10.0, buckets=(0, 100, 0, 0))}
    p99, count = latencies(before, after, "m", 0.99)
    assert count == 200
    assert p99 == pytest.approx(0.1, rel=0.01)
    assert latencies(before, {"a": look(1.0, buckets=(100, 0, 0, 0))}, "m", 0.99) == (None, 0)
    assert latencies({}, {}, "m", 0.99) == (None, 0)
    assert latencies({}, {"a": look(1.0, buckets=(0, 0, 0, 5))}, "m", 0.99) == (1.0, 5)


def test_looks_give_each_replica_as_it_was_or_as_it_came():
    looks = Looks(30.0)
    looks.add(0.0, {"a": look(0.0, 1)})
    looks.add(10.0, {"a": look(10.0, 2), "b": look(10.0, 1)})
    looks.add(20.0, {"a": look(20.0, 3), "b": look(20.0, 5)})
    found = looks.at(5.0)
    assert {name: one.load.at for name, one in found.items()} == {"a": 0.0, "b": 10.0}
    assert looks.at(25.0)["a"].load.at == 20.0
    looks.add(21.0, {"a": look(0.5, 0)})  # a new process under that name
    assert looks.at(5.0)["a"].load.at == 0.5
    looks.add(60.0, {})
    looks.add(95.0, {})
    assert looks.at(99.0) == {}


def test_chance_moves_no_rate_and_a_change_is_seen_at_once():
    slow = ModelSeen(rate=25.0, utilisation=0.6)
    assert weigh(ModelSeen(rate=31.0, utilisation=0.8, wait=0.2), slow) == ModelSeen(
        rate=25.0, utilisation=0.6, wait=0.2
    )
    assert weigh(ModelSeen(rate=40.0, utilisation=1.0), slow).rate == 40.0
    assert weigh(ModelSeen(rate=5.0, utilisation=0.1), slow).rate == 5.0


def test_of_poisson_counts_one_in_three_hundred_counts_as_a_change():
    rng = np.random.default_rng(0)
    slow = ModelSeen(rate=40.0, utilisation=0.5)
    counts = rng.poisson(200, 20_000)
    changed = sum(weigh(ModelSeen(rate=count / 5.0), slow).utilisation == 0.0 for count in counts)
    assert 0.001 < changed / 20_000 < 0.006  # 0.27 % by the normal distribution


def test_what_a_replica_tells_survives_the_wire():
    load = look(1.5, 3, buckets=(1, 2, 3, 4)).load
    assert msgspec.json.decode(msgspec.json.encode(load), type=ReplicaLoad) == load

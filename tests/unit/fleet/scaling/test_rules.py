import pytest

from rung.domain.errors import ConfigurationError
from rung.fleet.scaling.forecast import Forecast
from rung.fleet.scaling.rules import ModelSeen, Policy, opinions, read_policy
from rung.settings.project import ServeSection
from rung.settings.scaling import ReplicaCount

OFF = {"utilisation": 0.0, "wait": 0.0}


def wanted(by: str, ready: int, seen: ModelSeen, **policy) -> int | None:
    found = opinions(0.0, ready, {"m": seen}, {"m": Policy(most=100, **{**OFF, **policy})})
    assert all(one.by == by for one in found), found
    return found[0].replicas if found else None


def test_utilisation():
    for ready, value, replicas in [
        (1, 0.0, 0),
        (1, 0.69, 1),
        (1, 0.76, 1),  # within a tenth of the target
        (1, 0.78, 2),
        (2, 1.4, 4),
        (4, 0.3, 2),
        (4, 0.01, 1),
        (10, 5.0, 72),
    ]:
        seen = ModelSeen(utilisation=value, rate=value * 10)
        assert wanted("utilisation", ready, seen, utilisation=0.7) == replicas, (ready, value)


def test_somebody_who_is_still_served_keeps_one():
    assert wanted("utilisation", 1, ModelSeen(in_flight=1), utilisation=0.7) == 1


def test_predicted_wait():
    for ready, wait, utilisation, replicas in [
        (2, 0.05, 1.0, None),
        (2, 0.1, 1.0, None),
        (2, 0.12, 0.5, 3),  # one more at least
        (2, 0.3, 1.4, 5),  # what comes, and what waits
        (2, 10.0, 1.4, 6),
        (4, 2.5, 0.75, 6),
    ]:
        seen = ModelSeen(wait=wait, utilisation=utilisation)
        assert wanted("wait", ready, seen, wait=0.1) == replicas, (ready, wait)


def test_requests_per_replica():
    for ready, rate, replicas in [(2, 20.0, 2), (2, 45.0, 5), (4, 10.0, 1), (2, 0.0, 0)]:
        assert wanted("requests", ready, ModelSeen(rate=rate), requests=10.0) == replicas, (ready, rate)


def test_requests_in_flight_per_replica():
    for ready, count, replicas in [(2, 16, 2), (2, 40, 5), (5, 8, 1)]:
        assert wanted("in flight", ready, ModelSeen(in_flight=count), in_flight=8.0) == replicas, (ready, count)


def test_double_above_100_in_flight_and_back_when_they_fall():
    for ready, count, replicas in [
        (1, 100, 1),
        (1, 101, 2),
        (2, 500, 4),
        (4, 101, 8),
        (4, 100, 4),
        (4, 51, 4),
        (4, 50, 2),
        (2, 3, 1),
        (1, 0, 0),
    ]:
        assert wanted("double", ready, ModelSeen(in_flight=count), double_above=100) == replicas, (ready, count)


def test_cpu():
    for ready, cores, replicas in [(2, 0.8, 2), (2, 1.6, 4), (4, 0.2, 1), (2, None, None)]:
        assert wanted("cpu", ready, ModelSeen(cpu=cores), cpu=0.8) == replicas, (ready, cores)


def test_memory():
    for ready, size, replicas in [(2, 1e9, 2), (2, 1.6e9, 4), (3, 0.3e9, 1), (2, None, None)]:
        assert wanted("memory", ready, ModelSeen(memory=size), memory=10**9) == replicas, (ready, size)


@pytest.mark.parametrize(
    ("p99", "answers", "utilisation", "replicas"),
    [
        (None, 0, 0.9, None),
        (0.5, 19, 0.9, None),  # too few to say
        (0.5, 20, 0.9, 8),  # at most twice
        (0.24, 100, 0.9, 5),
        (0.21, 100, 0.9, 4),
        (0.15, 100, 0.9, 4),
        (0.09, 100, 0.9, 3),
        (0.5, 100, 0.1, 4),  # more would not help
    ],
)
def test_p99(p99, answers, utilisation, replicas):
    seen = ModelSeen(p99=p99, answers=answers, utilisation=utilisation)
    assert wanted("p99", 4, seen, p99=0.2) == replicas


def test_a_latency_that_load_does_not_explain_says_that_more_would_not_help():
    seen = ModelSeen(p99=0.5, answers=100, utilisation=0.1)
    found = opinions(0.0, 2, {"m": seen}, {"m": Policy(**{**OFF, "p99": 0.2})})
    assert found[0].why == (
        "p99 of 100 answers is 500 ms; 200 ms is the most, but at 10% utilisation more replicas would not help"
    )


def test_forecast():
    rising = Forecast(100.0, "100 requests/s are expected")
    assert wanted("forecast", 1, ModelSeen(forecast=rising, work=0.02), period=60.0, utilisation=0.0) == 2
    assert wanted("forecast", 1, ModelSeen(forecast=rising), period=60.0) is None
    assert wanted("forecast", 1, ModelSeen(forecast=Forecast(None, "too few"), work=0.02), period=60.0) is None


def test_without_a_replica_only_the_clock_has_an_opinion():
    policy = read_policy(ServeSection(replicas=ReplicaCount(min=0, max=4, schedule=("* * * * * for 1min: 2",))))
    found = opinions(30.0, 0, {"m": ModelSeen(utilisation=9.0)}, {"m": policy})
    assert [(one.by, one.model, one.replicas) for one in found] == [("schedule", "m", 2)]


def test_settings_become_a_policy():
    given = ReplicaCount(min=1, max=4, p99_ms=300, memory="1GB", forecast="1d", double_above=100)
    policy = read_policy(ServeSection(objective_ms=150, replicas=given))
    assert (policy.least, policy.most, policy.wait, policy.p99) == (1, 4, 0.075, 0.3)
    assert (policy.memory, policy.period, policy.double_above) == (10**9, 86_400.0, 100)
    assert read_policy(ServeSection()).wait == 0.1
    assert read_policy(ServeSection(), 80.0).wait == 0.04
    assert read_policy(ServeSection(replicas=ReplicaCount(wait_ms=20))).wait == 0.02
    assert read_policy(ServeSection(replicas=ReplicaCount(min=0))).most == 1


@pytest.mark.parametrize(
    "given",
    [{"min": 3, "max": 2}, {"memory": "much"}, {"forecast": "daily"}, {"forecast": "5s"}],
)
def test_settings_that_make_no_sense_are_refused(given):
    with pytest.raises(ConfigurationError):
        ReplicaCount(**given)

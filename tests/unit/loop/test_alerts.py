from itertools import pairwise
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from rung.domain.alerts import Alert, AlertRule, Observation, Silence
from rung.domain.errors import ConfigurationError
from rung.loop.alerts import FORGET_SECONDS, NO_DATA, group, plan

HOT = AlertRule(name="hot", metric="heat", above=10, resolve=8, for_seconds=20, clear_seconds=30, nodata_seconds=60)
LOW = AlertRule(name="low", metric="room", below=0.1, severity="critical", cause="disk", absent_resolves=True)
BLIND = AlertRule(name="no-data", metric=NO_DATA, above=0, absent_resolves=True)
EPOCH = 1e9
RULES = (HOT, LOW, BLIND)


class World:
    """Turns of the plan, one after the other, as a store would keep them."""

    def __init__(self, *rules: AlertRule, escalate: float = 0.0, patience: float = 0.0) -> None:
        self.rules = rules or RULES
        self.alerts: dict[str, Alert] = {}
        self.silences: list[Silence] = []
        self.escalate, self.patience = escalate, patience

    def turn(self, now: float, *observations: Observation) -> list[str]:
        done = plan(
            self.rules,
            observations,
            self.alerts,
            [replace(one, until=one.until + EPOCH) for one in self.silences],
            now + EPOCH,
            escalate_seconds=self.escalate,
            group_seconds=self.patience,
        )
        self.alerts |= {one.key: one for one in done.changed}
        for key in done.gone:
            del self.alerts[key]
        self.last = done
        return [f"{one.what} {one.alert.rule}" for one in done.happenings]


def heat(value: float | None, **labels: str) -> Observation:
    return Observation("heat", value, labels)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        pytest.param([(0, 11)], [], id="not long enough"),
        pytest.param([(0, 11), (19, 11)], [], id="almost"),
        pytest.param([(0, 11), (20, 11)], ["20 fired hot"], id="long enough"),
        pytest.param([(0, 11), (10, 9), (20, 11), (30, 11)], [], id="interrupted"),
        pytest.param([(0, 11), (20, 11), (40, 99), (60, 11)], ["20 fired hot"], id="fires once"),
        pytest.param([(0, 11), (20, 11), (30, 9), (90, 9)], ["20 fired hot"], id="hysteresis"),
        pytest.param([(0, 11), (20, 11), (30, 8), (59, 8)], ["20 fired hot"], id="not clear for long"),
        pytest.param([(0, 11), (20, 11), (30, 8), (60, 8)], ["20 fired hot", "60 resolved hot"], id="resolves"),
        pytest.param([(0, 11), (20, 11), (30, 8), (50, 9), (60, 8), (80, 8)], ["20 fired hot"], id="clear again"),
        pytest.param(
            [(0, 11), (20, 11), (30, 1), (60, 1), (70, 11), (90, 11)],
            ["20 fired hot", "60 resolved hot", "90 fired hot"],
            id="fires again",
        ),
        pytest.param([(0, 11), (1, None), (50, None), (51, 11), (60, 11)], [], id="no data is no time"),
        pytest.param([(0, 11), (1, None), (51, 11), (70, 11)], ["70 fired hot"], id="and then it goes on"),
        pytest.param(
            [(0, None), (59, None), (60, None), (90, None), (100, 1)],
            ["60 fired no-data", "100 resolved no-data"],
            id="no data is an alert itself",
        ),
        pytest.param(
            [(0, 11), (20, 11), (30, None), (90, None), (100, 1), (130, 1)],
            ["20 fired hot", "90 fired no-data", "100 resolved no-data", "130 resolved hot"],
            id="no data does not resolve",
        ),
        pytest.param([(0, float("nan")), (60, float("nan"))], ["60 fired no-data"], id="NaN is no data"),
        pytest.param([(90_000, 11), (0, 11), (20, 11)], ["20 fired hot"], id="a clock set back a day"),
        pytest.param([(0, 11), (20, 11), (-90_000, 1), (-89_970, 1)], ["20 fired hot", "-89970 resolved hot"], id="2"),
    ],
)
def test_what_is_told(steps: list[tuple[float, float | None]], expected: list[str]) -> None:
    world = World()
    assert [f"{now:g} {what}" for now, value in steps for what in world.turn(now, heat(value))] == expected


def test_nothing_is_written_while_nothing_changes() -> None:
    world = World()
    world.turn(0, heat(11))
    world.turn(20, heat(11))
    world.turn(30, heat(12))
    assert (world.last.changed, world.last.gone) == ((), ())


def test_a_series_that_is_not_named_any_more_is_not_measured() -> None:
    world = World()
    world.turn(0, heat(11, room="a"))
    assert world.turn(20, heat(11, room="a")) == ["fired hot"]
    assert world.turn(30) == []
    assert world.turn(90) == ["fired no-data"]
    assert world.last.happenings[0].alert.labels == {"rule": "hot", "room": "a"}
    assert world.turn(30 + FORGET_SECONDS) == ["resolved hot", "resolved no-data"]
    [over] = [one for one in world.alerts.values() if one.rule == "hot"]
    assert over.why == "it has not been measured for a day"


def test_or_it_is_gone_where_the_source_answers() -> None:
    world = World()
    assert world.turn(0, Observation("room", 0.0, {"place": "a"})) == ["fired low"]
    assert world.turn(1, Observation("room", None)) == []
    assert world.turn(2, Observation("room", 1.0, {"place": "b"})) == ["resolved low"]


def test_a_rule_that_is_gone_ends_its_alert() -> None:
    world = World()
    world.turn(0, Observation("room", 0.0))
    world.rules = (HOT,)
    assert world.turn(1) == ["resolved low"]


def test_alerts_of_one_cause_are_told_together_and_wait_for_each_other() -> None:
    world = World(patience=10)
    assert world.turn(0, Observation("room", 0.0, {"place": "a"})) == []
    both = [Observation("room", 0.0, {"place": name}) for name in "ab"]
    assert world.turn(6, *both) == []
    assert world.turn(10, *both) == ["fired low", "fired low"]
    [notice] = group(world.last.happenings)
    assert (notice.what, notice.cause, notice.severity, len(notice.alerts)) == ("fired", "disk", "critical", 2)
    back = [Observation("room", 1.0, {"place": name}) for name in "ab"]
    assert world.turn(11, *back) == ["resolved low", "resolved low"]


def test_what_is_over_before_it_was_told_is_never_told() -> None:
    world = World(patience=10)
    world.turn(0, Observation("room", 0.0))
    assert world.turn(5, Observation("room", 1.0)) == []
    assert world.turn(50, Observation("room", 1.0)) == []


def test_a_silence_tells_nothing_until_it_is_over() -> None:
    world = World(escalate=50)
    world.silences = [Silence(id="s", rule="low", labels={"place": "a"}, until=100)]
    a, b = (Observation("room", 0.0, {"place": name}) for name in "ab")
    assert world.turn(0, a, b) == ["fired low"]
    assert world.last.happenings[0].alert.labels == {"place": "b"}
    assert world.turn(99, a, b) == ["escalated low"]
    assert world.turn(100, a, b) == ["fired low"]
    world.silences = [Silence(id="s", rule="*", until=1e9)]
    fine = [Observation("room", 1.0, {"place": name}) for name in "ab"]
    assert world.turn(101, *fine) == ["resolved low", "resolved low"]  # who was told of it is told of its end


def test_an_alert_that_nobody_acknowledges_escalates_once() -> None:
    world = World(escalate=60)
    low = Observation("room", 0.0)
    assert [world.turn(now, low) for now in (0, 59, 60, 120)] == [["fired low"], [], ["escalated low"], []]


def test_an_acknowledged_one_does_not() -> None:
    world = World(escalate=60)
    world.turn(0, Observation("room", 0.0))
    world.alerts = {key: replace(one, acknowledged="ann") for key, one in world.alerts.items()}
    assert world.turn(100, Observation("room", 0.0)) == []


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "above"),
        ({"above": 1, "below": 0}, "above"),
        ({"above": 1, "resolve": 2}, "resolve"),
        ({"below": 1, "resolve": 0}, "resolve"),
        ({"above": 1, "metric": ""}, "metric"),
        ({"above": 1, "for_seconds": -1}, "for_seconds"),
    ],
)
def test_a_rule_that_makes_no_sense_says_which_key(given: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'r'.*`{why}`"):
        AlertRule(**{"name": "r", "metric": "m"} | given)


class Machine(RuleBasedStateMachine):
    """Whatever is measured when: of each alert, firing and resolving take turns, and nobody is told of half."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(escalate=100, patience=5)
        self.now = 0.0
        self.told: dict[str, list[str]] = {}

    @rule(
        seconds=st.sampled_from([0.0, 1.0, 7.0, 31.0, 70.0, -1000.0, 90_000.0]),
        values=st.dictionaries(st.sampled_from("abc"), st.sampled_from([0.0, 9.0, 11.0, float("nan"), None])),
        room=st.sampled_from([None, 0.0, 1.0]),
        hole=st.booleans(),
    )
    def measure(
        self,
        seconds: float,
        values: dict[str, float | None],
        room: float | None,
        hole: bool,
    ) -> None:
        self.now += seconds
        observations = [heat(value, room=name) for name, value in values.items()]
        observations += [heat(None)] if hole else []
        self.world.turn(self.now, *observations, Observation("room", room))
        for one in self.world.last.happenings:
            self.told.setdefault(one.alert.key, []).append(one.what)
        # The same again at once has nothing left to say: two control planes notify once.
        assert self.world.turn(self.now, *observations, Observation("room", room)) == []

    @rule(seconds=st.sampled_from([1.0, 50.0]), name=st.sampled_from(["hot", "low", "*"]))
    def silence(self, seconds: float, name: str) -> None:
        self.world.silences.append(Silence(id="s", rule=name, until=self.now + seconds))

    @invariant()
    def takes_turns(self) -> None:
        for key, events in self.told.items():
            states = [one for one in events if one != "escalated"]
            assert states == (["fired", "resolved"] * len(states))[: len(states)], (key, events)
            alert = self.world.alerts.get(key)
            assert (states[-1] == "fired") == (alert is not None and alert.status == "firing" and alert.told > 0) or (
                alert is not None and alert.status == "firing" and not alert.told
            ), (key, events, alert)

    @invariant()
    def escalates_at_most_once_a_firing(self) -> None:
        for events in self.told.values():
            assert all(pair != ("escalated", "escalated") for pair in pairwise(events))


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestMachine = Machine.TestCase

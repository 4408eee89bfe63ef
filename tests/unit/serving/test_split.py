"""Who gets which arm: read off the request, the same every time."""

from collections import Counter
from time import perf_counter_ns

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from rung.domain import moves
from rung.domain.errors import InvalidInput, Unsupported
from rung.domain.models import Manifest
from rung.domain.predictions import Call
from rung.domain.releases import BUCKETS, Arm, Move, Rollout, Segment, bucket
from rung.domain.tensors import Signature
from rung.serving import split as module
from rung.serving.split import Split, reader


class Version:
    """Stands for a `Servable`: all that a split asks of it."""

    def __init__(self, number):
        self.manifest = Manifest("m", number, "none", Signature((), ()), "none")


V = {number: Version(number) for number in range(1, 5)}


def canary(percent=10.0):
    whole = moves.whole(None, "m", 1, "d1", Move("release", "ana"))
    stable = Arm("stable", 1, "d1", "stable", BUCKETS)
    return moves.at_stage(replace(whole, keep=(3,)), stable, Rollout(2, "d2", (percent,)))


def plain(shares, **fields):
    parts = moves.buckets(shares)
    arms = tuple(Arm(f"v{v}", v, f"d{v}", "split", share) for v, share in parts.items())
    whole = moves.whole(None, "m", 1, "d1", Move("split", "ana"))
    ranges = moves.divide((), {arm.name: arm.share for arm in arms})
    return replace(whole, arms=arms, ranges=ranges, **fields)


def split(release, loaded=(1, 2, 3), *, forcing=True):
    servables = {number: V[number] for number in loaded}
    return Split(release, servables, servables[max(loaded)], forcing=forcing)


def call(unit="", **headers):
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return Call(headers=named | ({b"rung-unit": unit.encode()} if unit else {}), address="10.0.0.1")


def in_arm(release, name, count=20_000):
    """A unit that the release puts into this arm."""
    for number in range(count):
        at = bucket(release.salt, f"u{number}")
        if any(arm == name and start <= at < stop for start, stop, arm in release.ranges):
            return f"u{number}"
    raise AssertionError(f"nobody is in {name}")


# --- units --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attribute", "request_", "unit"),
    [
        ("header:rung-unit", Call(headers={b"rung-unit": b"ana"}), "ana"),
        ("header:X-User", Call(headers={b"x-user": b"Zo\xeb"}), "Zoë"),
        ("header:rung-unit", Call(headers={}), ""),
        ("cookie:sid", Call(headers={b"cookie": b"a=1; sid=xyz; b=2"}), "xyz"),
        ("cookie:sid", Call(headers={b"cookie": b"psid=no;sid=a=b"}), "a=b"),
        ("cookie:sid", Call(headers={b"cookie": b"sid2=no"}), ""),
        ("cookie:sid", Call(headers={}), ""),
        ("json:user", Call(body=b'{"inputs": [[1, 2]], "user": "ana"}'), "ana"),
        ("json:user", Call(body=b' \n{"user": 42}'), "42"),
        ("json:user", Call(body=b'{"user": true}'), "true"),
        ("json:user", Call(body=b'{"user": {"id": 1}}'), ""),
        ("json:user", Call(body=b'{"user": null}'), ""),
        ("json:user", Call(body=b'{"user": 1.5}'), ""),
        ("json:user", Call(body=b'{"other": 1}'), ""),
        ("json:user", Call(body=b'[{"user": 1}]'), ""),
        ("json:user", Call(body=b'{"user": "cut'), ""),
        ("json:user", Call(body=b'{"user": "\xff"}'), ""),
        ("json:user", Call(body=b'{"user": ' + b"1" * 5000 + b"}"), ""),
        ("json:user", Call(body=b'{"a":' + b"[" * 100_000), ""),
        ("json:user", Call(body=b"\x89PNG"), ""),
        ("json:user", Call(), ""),
        ("json:a b'é", Call(body='{"a b\'é": "x"}'.encode()), "x"),
        ("address", Call(address="::1"), "::1"),
    ],
)
def test_a_unit_is_read_off_the_request(attribute, request_, unit):
    assert reader(attribute)(request_) == unit


@given(st.binary(max_size=200))
def test_no_body_breaks_the_reader(body):
    assert isinstance(reader("json:user")(Call(body=body)), str)
    assert isinstance(reader("cookie:user")(Call(headers={b"cookie": body})), str)


def test_whoever_says_nothing_goes_by_the_address():
    one = call()
    split(canary()).choose(one)
    assert one.unit == "10.0.0.1"


# --- arms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stable", "canary", "baseline"])
def test_a_call_learns_what_was_chosen(name):
    release = replace(canary(), epoch=7)
    made = split(release)
    one = call(in_arm(release, name))
    chosen = made.choose(one)
    assert chosen is V[2 if name == "canary" else 1]
    assert (one.arm, one.epoch, one.propensity) == (name, 7, 0.8 if name == "stable" else 0.1)
    again = call(one.unit)
    assert made.choose(again) is chosen
    # Another replica, or this one after a restart.
    assert split(release).choose(again) is chosen
    counts = {choice.arm: choice.requests for choice in made.choices}
    assert counts == {"stable": 0, "canary": 0, "baseline": 0, name: 2}


def test_the_shares_are_those_of_the_release():
    made = split(canary(10.0))
    counts = Counter()
    for number in range(50_000):
        one = call(f"user {number}")
        made.choose(one)
        counts[one.arm] += 1
    assert counts["canary"] / 50_000 == pytest.approx(0.1, abs=0.006)
    assert counts["baseline"] / 50_000 == pytest.approx(0.1, abs=0.006)


def test_without_a_release_everybody_gets_the_latest():
    made = split(None)
    one = call("ana")
    assert made.choose(one) is V[3]
    assert (one.unit, one.arm, one.epoch, one.propensity) == ("ana", "", 0, 1.0)
    assert [choice.arm for choice in made.choices] == [""]


def test_a_step_of_a_graph_gets_the_main_version():
    assert split(canary()).choose(None) is V[1]


def test_an_arm_that_is_not_here_is_answered_by_the_main_one_and_counted_as_it():
    release = plain({1: 60, 2: 30, 3: 10})
    made = split(release, loaded=(1, 3))
    one = call(in_arm(release, "v2"))
    assert made.choose(one) is V[1]
    assert (one.arm, one.propensity) == ("v1", 0.9)
    assert made.missing == ("v2",)
    assert {choice.arm: choice.propensity for choice in made.choices} == {"v1": 0.9, "v3": 0.1}


def test_a_baseline_begins_with_its_canary():
    release = canary()
    made = split(release, loaded=(1, 3))
    for name in ("canary", "baseline"):
        one = call(in_arm(release, name))
        assert made.choose(one) is V[1]
        assert (one.arm, one.propensity) == ("stable", 1.0)
    assert made.missing == ("canary",)


def test_for_a_main_version_that_is_not_here_the_kept_one_stands_in_and_never_the_canary():
    release = canary()
    made = split(release, loaded=(2, 3))
    assert made.missing == ("stable", "baseline")
    one = call(in_arm(release, "stable"))
    assert made.choose(one) is V[3]
    assert one.arm == "stable"
    assert {choice.arm: choice.version for choice in made.choices} == {"stable": 3, "canary": 2}
    # With nothing better there is the latest, rather than no answer.
    assert split(replace(release, keep=()), loaded=(2,)).servable is V[2]


def test_a_shadow_answers_nobody():
    release = moves.at_stage(canary(), Arm("stable", 1, "d1", "stable", BUCKETS), Rollout(2, "d2", (0.0,)))
    made = split(release)
    assert {choice.arm for choice in made.choices} == {"stable"}
    with pytest.raises(InvalidInput, match=r"rung-arm is 'shadow'; there are \['stable'\]"):
        made.choose(call("ana", rung_arm="shadow"))


# --- testers ------------------------------------------------------------------------------------------


def test_a_tester_picks_an_arm_that_no_lot_drew():
    release = canary()
    made = split(release)
    one = call(in_arm(release, "stable"), rung_arm="canary")
    assert made.choose(one) is V[2]
    assert (one.arm, one.propensity) == ("canary", 0.0)


def test_an_arm_that_there_is_not_is_refused_with_those_there_are():
    with pytest.raises(InvalidInput, match=r"rung-arm is 'v9'; there are \['baseline', 'canary', 'stable'\]") as caught:
        split(canary()).choose(call("ana", rung_arm="v9"))
    assert caught.value.field == "rung-arm"
    with pytest.raises(InvalidInput, match="no release, so none"):
        split(None).choose(call("ana", rung_arm="canary"))


def test_where_it_is_not_allowed_nobody_picks():
    made = split(canary(), forcing=False)
    with pytest.raises(Unsupported, match="rung-arm is not allowed here"):
        made.choose(call("ana", rung_arm="canary"))
    made.choose(call("ana"))


# --- audiences ----------------------------------------------------------------------------------------


def test_an_audience_goes_to_its_arm_whatever_its_bucket():
    segments = (Segment("header:plan", ("beta", "team"), "v2"), Segment("cookie:lab", ("1",), "v3"))
    release = plain({1: 90, 2: 5, 3: 5}, segments=segments)
    made = split(release)
    unit = in_arm(release, "v1")
    for headers, arm, propensity in (
        ({"plan": "beta"}, "v2", 1.0),
        ({"plan": "team", "cookie": "lab=1"}, "v2", 1.0),
        ({"plan": "free", "cookie": "lab=1"}, "v3", 1.0),
        ({"plan": "free"}, "v1", 0.9),
        ({}, "v1", 0.9),
    ):
        one = call(unit, **headers)
        made.choose(one)
        assert (one.arm, one.propensity) == (arm, propensity), headers


def test_an_audience_whose_arm_is_not_here_is_answered_by_the_main_one():
    release = plain({1: 60, 2: 20, 3: 20}, segments=(Segment("header:plan", ("beta",), "v2"),))
    made = split(release, loaded=(1, 3))
    one = call(in_arm(release, "v3"), plan="beta")
    made.choose(one)
    assert one.arm == "v1"


# --- memory -------------------------------------------------------------------------------------------


def test_what_is_remembered_of_units_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 100)
    made = split(canary())
    for number in range(1000):
        made.choose(call(f"u{number}"))
        assert len(made._known) <= 100
    made.choose(call("x" * 100_000))
    assert max(map(len, made._known)) < 1000, "callers choose the length of their units"


def test_the_same_arms_over_the_same_versions_are_equal():
    release = canary()
    assert split(release).equals(split(release))
    assert not split(release).equals(split(release, loaded=(1, 3)))
    assert not split(None).equals(split(None, loaded=(1,)))


def test_cost_of_a_choice(record_property):
    release = canary()
    for name, made, calls in (
        ("no release", split(None), [call(f"u{number}") for number in range(1000)]),
        ("remembered", split(release), [call(f"u{number}") for number in range(1000)]),
        ("fresh", split(release), [call(f"v{number}") for number in range(20_000)]),
        ("segments", split(plain({1: 50, 2: 50}, segments=(Segment("header:p", ("x",), "v2"),))), [call("u")]),
    ):
        if name == "remembered":
            for one in calls:
                made.choose(one)
        turns = 20_000 // len(calls)
        began = perf_counter_ns()
        for _ in range(turns):
            for one in calls:
                made.choose(one)
        cost = (perf_counter_ns() - began) / (turns * len(calls))
        record_property(name, cost)
        print(f"Split.choose, {name}: {cost:.0f} ns")

import json
from datetime import datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.domain.releases import LADDER, Release
from rung.fleet.evidence import ArmEvidence, Snapshot
from rung.fleet.labels import Mature
from rung.fleet.policy import Policy, read_policy
from rung.fleet.rollout import Action, Advance, Hold, Promote, RollBack, Wait, entered, look, plan
from rung.fleet.simulate import released
from rung.fleet.tally import FLAGS
from rung.stats.assignment import Stage
from rung.stats.quantiles import Histogram
from rung.stats.sequential import Moments

ERRORS = read_policy({"guard": ["errors"]})
QUALITY = read_policy({"guard": ["errors", "quality"]})
BOTH = read_policy({})
SHADOW, ONE, FIVE, QUARTER, HALF = range(5)


def arm(
    units: int, errors: int = 0, *, seconds: Histogram | None = None, quality: Moments | None = None, **flags: int
) -> ArmEvidence:
    flagged = [0] * len(FLAGS)
    flagged[0], flagged[1] = units - errors, errors
    for name, count in flags.items():
        flagged[FLAGS.index(name.replace("_", " "))] = count
    mature = Mature(quality, quality.count, quality.count) if quality else Mature()
    return ArmEvidence(
        units=units, requests=units, flagged=tuple(flagged), latency=seconds or Histogram(), mature=mature
    )


def compared(canary: ArmEvidence, baseline: ArmEvidence, **more: Any) -> Snapshot:
    arms = {"canary": canary, "baseline": baseline, "stable": arm(canary.units + baseline.units)}
    return Snapshot(arms, exposure=(Stage((canary.units, baseline.units), (0.5, 0.5)),), **more)


def at(release: Release, seconds: float = 1_000.0) -> float:
    return entered(release) + seconds


def even(units: int, errors: int = 0) -> Snapshot:
    return compared(arm(units, errors), arm(units, errors))


FAST = Histogram.of([0.010] * 5_000 + [0.012] * 500)
SLOW = Histogram.of([0.010] * 4_000 + [0.030] * 1_500)
GOOD, BAD = Moments(3_000, 2_700.0, 2_500.0, 3_000), Moments(3_000, 2_100.0, 1_600.0, 3_000)


@pytest.mark.parametrize(
    ("case", "stage", "evidence", "policy", "seconds", "expected", "said"),
    [
        ("nobody came yet", SHADOW, Snapshot(), ERRORS, 1_000, Wait, "0 of at least 200 units"),
        ("copies enough", SHADOW, Snapshot({"shadow": arm(300), "stable": arm(300)}), ERRORS, 1_000, Advance, ""),
        (
            "copies of NaN",
            SHADOW,
            Snapshot({"shadow": arm(9, not_finite=9), "stable": arm(90)}),
            ERRORS,
            1,
            RollBack,
            "NaN",
        ),
        ("too few units", ONE, even(499), ERRORS, 1_000, Wait, "499 of at least 500"),
        ("too early", ONE, even(500), ERRORS, 299, Wait, "1 s of at least 300 s"),
        ("no harm seen yet", ONE, even(500, 25), ERRORS, 1_000, Advance, "not shown"),
        ("harm", ONE, compared(arm(400, 80), arm(400, 20)), ERRORS, 1, RollBack, "fails more often"),
        ("a wire", FIVE, compared(arm(5, not_finite=4), arm(200)), ERRORS, 1, RollBack, "NaN"),
        ("half is not enough", HALF, even(29_999, 1_400), ERRORS, 1_000, Wait, "29999"),
        (
            "shown to do no harm that matters",
            HALF,
            even(40_000, 2_000),
            ERRORS,
            1_000,
            Promote,
            "does not fail more often",
        ),
        ("not shown", HALF, compared(arm(30_000, 1_640), arm(30_000, 1_500)), ERRORS, 1_000, Wait, "nor by less"),
        ("never shown", HALF, compared(arm(30_000, 1_640), arm(30_000, 1_500)), ERRORS, 700_000, Hold, "Inconclusive"),
        ("nobody comes any more", ONE, even(3), ERRORS, 700_000, Hold, "3 of at least 500"),
        ("a broken split", HALF, compared(arm(31_500, 1_500), arm(30_000, 1_500)), ERRORS, 1_000, Hold, "do not reach"),
        (
            "harm in a broken split",
            HALF,
            compared(arm(31_500, 4_500), arm(30_000, 1_500)),
            ERRORS,
            1_000,
            Hold,
            "do not",
        ),
        (
            "a wire in a broken split",
            HALF,
            compared(arm(31_500, not_finite=900), arm(30_000)),
            ERRORS,
            1,
            RollBack,
            "NaN",
        ),
        ("latency is not measured", FIVE, even(3_000), BOTH, 1_000, Wait, "no data yet for latency"),
        ("as fast", HALF, compared(arm(40_000, seconds=FAST), arm(40_000, seconds=FAST)), BOTH, 1_000, Promote, "p95"),
        (
            "slow",
            FIVE,
            compared(arm(5_500, seconds=SLOW), arm(5_500, seconds=FAST)),
            BOTH,
            1,
            RollBack,
            "more than 1.25",
        ),
        ("labels are still to come", FIVE, even(3_000), QUALITY, 1_000, Wait, "no data yet for quality"),
        (
            "worse answers",
            FIVE,
            compared(arm(3_000, quality=BAD), arm(3_000, quality=GOOD), maturity=60.0),
            QUALITY,
            1,
            RollBack,
            "quality",
        ),
        (
            "worse answers by labels of unknown maturity",
            FIVE,
            compared(arm(3_000, quality=BAD), arm(3_000, quality=GOOD)),
            QUALITY,
            1,
            Wait,
            "",
        ),
        (
            "equal answers",
            HALF,
            compared(arm(40_000, quality=GOOD), arm(40_000, quality=GOOD), maturity=60.0),
            QUALITY,
            1_000,
            Promote,
            "quality",
        ),
    ],
)
def test_plan(
    case: str, stage: int, evidence: Snapshot, policy: Policy, seconds: float, expected: type, said: str
) -> None:
    release = released(LADDER, stage)
    action = plan(release, evidence, policy, at(release, seconds))
    assert type(action) is expected, (case, action)
    assert said in action.reason, (case, action.reason)
    if not isinstance(action, Wait):
        found = json.loads(msgspec.json.encode(action.evidence))
        assert found["percent"] == LADDER[stage]
        assert "verdicts" in found


def changed(release: Release, **fields: Any) -> Release:
    assert release.rollout is not None
    return msgspec.structs.replace(release, rollout=msgspec.structs.replace(release.rollout, **fields))


def test_what_is_over_is_not_touched() -> None:
    release = msgspec.structs.replace(released(LADDER, HALF), rollout=None)
    assert isinstance(plan(release, even(40_000, 20_000), ERRORS, 2e9), Wait)


def test_what_is_held_climbs_no_further_but_is_taken_back_when_it_harms() -> None:
    release = changed(released(LADDER, HALF), held="inconclusive")
    assert plan(release, even(40_000, 2_000), ERRORS, at(release)) == Wait("held: inconclusive")
    assert isinstance(plan(release, even(3), ERRORS, at(release, 1e7)), Wait)  # it is not held twice
    assert isinstance(plan(release, compared(arm(4_000, 900), arm(4_000, 200)), ERRORS, at(release)), RollBack)


def test_a_latched_version_does_not_climb_by_itself() -> None:
    release = released(LADDER, FIVE)
    assert release.rollout is not None
    release = msgspec.structs.replace(release, latched=(release.rollout.digest,))
    assert "taken back before" in plan(release, even(5_000, 250), ERRORS, at(release)).reason
    assert isinstance(plan(release, compared(arm(4_000, 900), arm(4_000, 200)), ERRORS, at(release)), RollBack)


def test_a_ladder_that_ends_below_100_waits_for_a_person() -> None:
    release = released((5.0,))
    assert "a person promotes" in plan(release, even(50_000, 2_500), ERRORS, at(release, 1e7)).reason
    assert isinstance(plan(release, compared(arm(4_000, 900), arm(4_000, 200)), ERRORS, at(release)), RollBack)


def test_a_lone_shadow_is_never_taken_back() -> None:
    release = released((0.0,))
    broken = Snapshot({"shadow": arm(9, not_finite=9), "stable": arm(90)})
    assert isinstance(plan(release, broken, ERRORS, at(release)), Hold)


def test_nobody_is_promoted_from_a_stage_that_compares_nothing() -> None:
    release = released((0.0, 100.0))
    copies = Snapshot({"shadow": arm(9_000), "stable": arm(9_000)})
    assert "no stage compares" in plan(release, copies, ERRORS, at(release)).reason
    assert isinstance(plan(release, copies, ERRORS, at(release, 1e7)), Hold)


def test_without_a_required_guard_nobody_is_promoted() -> None:
    policy = read_policy({"guard": [{"metric": "errors", "required": False}]})
    release = released(LADDER, HALF)
    assert plan(release, even(40_000, 2_000), policy, at(release)) == Wait("no guard is required")


def test_a_stage_over_half_has_a_smaller_baseline() -> None:
    release = released((25.0, 80.0, 100.0), 1)
    seen = look(release, compared(arm(40_000, 2_000), arm(10_000, 500)), ERRORS)
    assert "mSPRT" in seen.guards[0][1].evidence["method"]


def test_a_harm_that_would_not_matter_is_still_harm_once_it_is_shown() -> None:
    """The margin is 0: what is shown to be worse is taken back, though by less than the tolerance of 1 point."""
    release = released(LADDER, HALF)
    action = plan(release, compared(arm(900_000, 49_500), arm(900_000, 45_000)), ERRORS, at(release))
    assert isinstance(action, RollBack)
    lenient = read_policy({"guard": [{"metric": "errors", "margin": 0.007, "tolerance": 0.01}]})
    action = plan(release, compared(arm(900_000, 49_500), arm(900_000, 45_000)), lenient, at(release))
    assert isinstance(action, Promote)


# --- random streams ------------------------------------------------------------------------------

counts = st.integers(0, 60_000)
rates = st.sampled_from([0.0, 0.01, 0.05, 0.06, 0.1, 0.9])


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    size = draw(counts)
    arms = {}
    for name in ("stable", "canary", "baseline", "shadow"):
        units = max(0, size + draw(st.integers(-400, 400)))
        errors = int(units * draw(rates))
        arms[name] = arm(units, errors, not_finite=draw(st.sampled_from([0, 0, 0, min(units, 5)])))
    if draw(st.booleans()):
        return Snapshot(arms)
    exposed = (arms["canary"].units, arms["baseline"].units)
    return Snapshot(arms, exposure=(Stage(exposed, (0.5, 0.5)),))


@settings(max_examples=60)
@given(
    st.integers(0, 4), snapshots(), st.floats(0, 2e6), st.sampled_from(["", "by hand"]), st.sampled_from([ERRORS, BOTH])
)
def test_whatever_comes_the_rules_of_the_ladder_hold(
    stage: int, evidence: Snapshot, seconds: float, held: str, policy: Policy
) -> None:
    release = changed(released(LADDER, stage), held=held)
    now = at(release, seconds)
    action: Action = plan(release, evidence, policy, now)
    seen = look(release, evidence, policy)
    assert action == plan(release, evidence, policy, now)
    if isinstance(action, Promote):
        assert stage == HALF
        assert seen.passed
        assert all(verdict.outcome == "pass" for _, verdict in seen.guards)
    if isinstance(action, Promote | Advance):
        assert not held
        assert seen.mismatch is None
        assert seen.failed is None
        assert seen.wire is None
        assert seconds >= policy.seconds_at(stage) - 1e-3
        assert min(evidence.arm(n).units for n in (("shadow",) if stage == 0 else ("canary", "baseline"))) >= (
            policy.units_at(stage, LADDER[stage])
        )
    if isinstance(action, Advance):
        assert stage < HALF
    if isinstance(action, RollBack):
        assert seen.wire is not None or (seen.failed is not None and seen.mismatch is None)
    if isinstance(action, Hold):
        assert not held
    if seen.mismatch is not None and seen.wire is None:
        assert isinstance(action, Wait | Hold)
    json.dumps(getattr(action, "evidence", {}), allow_nan=False)
    assert datetime.fromisoformat(release.at)

from collections.abc import Callable, Iterator
from itertools import islice

import msgspec
import pytest

from rung.domain import moves
from rung.domain.errors import Conflict
from rung.domain.records import FeedbackRecord, PredictionRecord, ShadowRecord, ShedRecord
from rung.domain.releases import BUCKETS, LADDER, Arm, Move, Release, divide
from rung.fleet.evidence import Evidence
from rung.fleet.simulate import released

UnitsOf = Callable[[Release, str], Iterator[str]]
Predict = Callable[..., PredictionRecord]
NOW = 1_800_000_600.0


def label(prediction: PredictionRecord, value: object, *, after: float = 1.0, kind: str = "score") -> FeedbackRecord:
    when = prediction.time + after
    return FeedbackRecord(
        f"{prediction.id}-{after}",
        prediction.id,
        when,
        when,
        kind,  # type: ignore[arg-type]
        value,
        "test",
        prediction.model,
        prediction.version,
        prediction.arm,
        prediction.time,
    )


def test_sums_are_per_unit_and_per_arm(predict: Predict, units_of: UnitsOf) -> None:
    release = released(LADDER, 3)
    evidence = Evidence(release)
    canary = list(islice(units_of(release, "canary"), 3))
    for unit in canary:
        for _ in range(5):
            assert evidence.feed(predict(release, "canary", unit))
    evidence.feed(predict(release, "canary", canary[0], error="ModelError", blame="server"))
    evidence.feed(predict(release, "canary", canary[1], error="InvalidInput", blame="client"))
    evidence.feed(predict(release, "baseline", next(units_of(release, "baseline")), flags=1))
    evidence.feed(predict(release, "stable", next(units_of(release, "stable")), error="WorkerDied", blame="server"))
    seen = evidence.snapshot(NOW)
    arm = seen.arm("canary")
    assert (arm.units, arm.requests, arm.of("errors"), arm.of("refused"), arm.latency.count) == (3, 17, 1, 1, 3)
    assert seen.arm("baseline").of("not finite") == 1
    assert (seen.arm("stable").of("crash"), seen.arm("stable").of("errors")) == (1, 1)
    assert seen.exposure[0].counts == (3, 1)
    assert [sum(stage.counts) for stage in seen.assignment] == [5]


def test_who_was_not_drawn_by_lot_is_left_out(predict: Predict, units_of: UnitsOf) -> None:
    """A tester who forces the canary, or an audience that a segment sends there, is no random sample."""
    release = released(LADDER, 2)
    evidence = Evidence(release)
    for unit in islice(units_of(release, "stable"), 10):
        evidence.feed(predict(release, "canary", unit, error="ModelError", blame="server"))
    seen = evidence.snapshot(NOW)
    assert seen.placed == 10
    assert seen.arm("canary").units == 0


def test_the_main_arm_may_stand_in_while_a_version_loads(predict: Predict, units_of: UnitsOf) -> None:
    """The lot was fair, so the assignment counts; who answered was not drawn, so nothing else does."""
    release = released(LADDER, 3)
    evidence = Evidence(release)
    for arm, count in (("stable", 50), ("canary", 25), ("baseline", 25)):
        for unit in islice(units_of(release, arm), count):
            evidence.feed(predict(release, "stable", unit))
    seen = evidence.snapshot(NOW)
    assert seen.assignment[0].counts == (50, 25, 25)
    assert (seen.stood_in, seen.placed, seen.exposure) == (50, 0, ())
    assert (seen.arm("stable").units, seen.arm("canary").units) == (50, 0)
    forced = predict(release, "stable", next(units_of(release, "canary")), propensity=0.0)
    evidence.feed(forced)
    assert evidence.snapshot(NOW).placed == 1


def test_records_of_others_change_nothing(predict: Predict, units_of: UnitsOf) -> None:
    release = released(LADDER, 2)
    evidence = Evidence(release)
    unit = next(units_of(release, "canary"))
    other = predict(release, "canary", unit)
    other.model = "another"
    before = predict(release, "canary", unit)
    before.epoch = 1
    assert evidence.feed(other)
    assert evidence.feed(before)
    assert evidence.feed(ShedRecord(1.0, "model", 7, "buffer full"))
    seen = evidence.snapshot(NOW)
    assert (seen.arms, seen.lost) == ({}, 7)
    later = predict(release, "canary", unit)
    later.epoch = release.epoch + 1
    assert not evidence.feed(later)  # of a release that it has to be told of first


def test_stages_of_one_rollout_belong_together(predict: Predict, units_of: UnitsOf) -> None:
    first, second = released(LADDER, 1), released(LADDER, 2)
    evidence = Evidence(first)
    assert evidence.know(second)
    assert not evidence.know(msgspec.structs.replace(second, model="another"))
    unit = next(units_of(first, "canary"))
    evidence.feed(predict(first, "canary", unit))
    evidence.feed(predict(second, "canary", unit))
    for other in islice(units_of(second, "canary"), 4):
        evidence.feed(predict(second, "canary", other))
    seen = evidence.snapshot(NOW)
    assert seen.arm("canary").units in {4, 5}
    assert [stage.shares for stage in seen.assignment] == [(0.98, 0.01, 0.01), (0.9, 0.05, 0.05)]
    assert len(seen.exposure) == 1  # half and half all along: one stage, more units to judge it by


def test_feedback_is_joined_in_any_order_and_once(predict: Predict, units_of: UnitsOf) -> None:
    release = released(LADDER, 3)
    units = list(islice(units_of(release, "canary"), 30))
    predictions = [predict(release, "canary", unit) for unit in units for _ in range(2)]
    labels = [label(one, 0.5) for one in predictions]
    in_order, reverse = Evidence(release, maturity=10.0), Evidence(release, maturity=10.0)
    for record in (*predictions, *labels, *labels):
        in_order.feed(record)
    for record in (*labels, *predictions):
        reverse.feed(record)
    for evidence in (in_order, reverse):
        arm = evidence.snapshot(NOW).arm("canary")
        assert (arm.mature.quality.count, arm.mature.quality.mean, arm.mature.coverage) == (30, 0.5, 1.0)
        assert arm.labelled == 30
        # Not yet mature: no label yet is never "negative", and an early one is no fair sample.
        young = evidence.snapshot(predictions[0].time + 5).arm("canary")
        assert (young.mature.quality.count, young.mature.coverage) == (0, None)


def test_corrections_count_units(predict: Predict, units_of: UnitsOf) -> None:
    release = released(LADDER, 3)
    evidence = Evidence(release)
    for unit in islice(units_of(release, "canary"), 5):
        one = predict(release, "canary", unit)
        evidence.feed(one)
        evidence.feed(label(one, {"label": "cat"}, kind="correction"))
    assert evidence.snapshot(NOW).arm("canary").of("corrected") == 5


def test_maturity_is_learned_when_it_is_not_set(predict: Predict, units_of: UnitsOf) -> None:
    release = released(LADDER, 3)
    evidence = Evidence(release)
    for unit in islice(units_of(release, "baseline"), 40):
        one = predict(release, "baseline", unit)
        evidence.feed(one)
        evidence.feed(label(one, True, after=2.0))
    seen = evidence.snapshot(NOW)
    assert seen.maturity == pytest.approx(2.0)
    assert seen.arm("baseline").mature.quality.mean == 1.0
    assert seen.feedback[0].counts == (0, 40)


def test_a_shadow_is_compared_copy_by_copy(predict: Predict, units_of: UnitsOf) -> None:
    release = released(LADDER)
    evidence = Evidence(release)
    for number, unit in enumerate(islice(units_of(release, "stable"), 8)):
        one = predict(release, "stable", unit)
        evidence.feed(one)
        evidence.feed(
            ShadowRecord(
                one.id,
                one.time,
                "model",
                1,
                2,
                release.epoch,
                unit,
                error="ModelError" if number == 0 else "",
                equal=number > 2,
                difference=float("inf") if number == 1 else 0.25,
                computed=0.02,
            )
        )
    seen = evidence.snapshot(NOW)
    assert (seen.copies, seen.unequal, seen.difference) == (8, 2, 0.25)
    assert (seen.arm("shadow").units, seen.arm("shadow").of("errors")) == (8, 1)


def test_both_arms_keep_the_same_share_of_their_units(predict: Predict, units_of: UnitsOf) -> None:
    release = released((50.0, 100.0))
    evidence = Evidence(release, cap=200)
    for arm, count in (("canary", 1500), ("baseline", 300)):
        for unit in islice(units_of(release, arm), count):
            evidence.feed(predict(release, arm, unit))
    seen = evidence.snapshot(NOW)
    canary, baseline = seen.arm("canary"), seen.arm("baseline")
    assert canary.rate == baseline.rate < 1
    assert canary.units <= 200
    assert canary.units / canary.rate == pytest.approx(1500, rel=0.4)


def test_a_plain_split_compares_an_arm_with_the_largest(predict: Predict, units_of: UnitsOf) -> None:
    arms = (Arm("v1", 1, "a", "split", 900_000), Arm("v2", 2, "b", "split", 60_000), Arm("v3", 3, "c", "split", 40_000))
    draft = moves.begin(None, "model", arms[0], Move("split", "ann"))
    ranges = divide((), {arm.name: arm.share for arm in arms})
    release = msgspec.structs.replace(draft, arms=arms, ranges=ranges, epoch=4, salt="model:4")
    evidence = Evidence(release, candidate="v3")
    for arm, count in (("v1", 90), ("v2", 6), ("v3", 4)):
        for unit in islice(units_of(release, arm), count):
            evidence.feed(predict(release, arm, unit))
    seen = evidence.snapshot(NOW)
    assert (seen.arm("baseline").units, seen.arm("canary").units) == (90, 4)
    assert seen.exposure[0].shares == pytest.approx((0.04 / 0.94, 0.9 / 0.94), abs=1e-6)
    with pytest.raises(Conflict, match="v2, v3"):
        Evidence(release, candidate="v9")
    alone = msgspec.structs.replace(release, arms=arms[:1], ranges=((0, BUCKETS, "v1"),))
    with pytest.raises(Conflict, match="one version answers everybody"):
        Evidence(alone)

import math

import numpy as np
import pytest

from rung.fleet.evidence import ArmEvidence, Snapshot
from rung.fleet.tally import FLAGS
from rung.fleet.wires import tripped


def arm(units: int, run: int = 0, inputs: int = 0, commonest: int = 0, **flags: int) -> ArmEvidence:
    flagged = tuple(flags.get(name.replace(" ", "_"), 0) for name in FLAGS)
    return ArmEvidence(units=units, requests=units, flagged=flagged, run=run, inputs=inputs, commonest=commonest)


def seen(canary: ArmEvidence, stable: ArmEvidence, baseline: ArmEvidence | None = None) -> Snapshot:
    return Snapshot({"canary": canary, "stable": stable, "baseline": baseline or ArmEvidence()})


@pytest.mark.parametrize(
    ("case", "canary", "stable", "rule"),
    [
        ("three units of NaN", arm(3, not_finite=3), arm(300), "wire: not finite"),
        ("two units are one odd caller and another", arm(2, not_finite=2), arm(3000), None),
        ("NaN is what the stable version says too", arm(50, not_finite=5), arm(1000, not_finite=90), None),
        ("rare NaN, where there never was one", arm(400, not_finite=4), arm(40_000), "wire: not finite"),
        ("nothing to compare with", arm(10, crash=10), arm(0), None),
        ("a crash loop", arm(4, crash=4), arm(100), "wire: crash"),
        ("refuses what the stable version takes", arm(10, refused=6), arm(500, refused=5), "wire: refused"),
        ("some callers send rubbish", arm(200, refused=11), arm(4000, refused=210), None),
        ("empty masks now and then", arm(100, constant=30), arm(2000, constant=500), None),
        ("nothing but empty masks", arm(20, constant=20), arm(400, constant=100), "wire: constant"),
        ("fails for everybody", arm(6, errors=6), arm(200, errors=8), "wire: errors"),
        ("worse, which is for a guard", arm(2000, errors=200), arm(40_000, errors=2000), None),
        ("one answer to all", arm(40, run=40), arm(500, inputs=500, commonest=1), "wire: same answer"),
        ("nine of ten are ham", arm(40, run=40), arm(500, inputs=500, commonest=450), None),
        ("ham, too often", arm(300, run=300), arm(500, inputs=500, commonest=450), "wire: same answer"),
        ("nothing known of the stable version", arm(40, run=40), arm(20, inputs=20, commonest=1), None),
    ],
)
def test_wires(case: str, canary: ArmEvidence, stable: ArmEvidence, rule: str | None) -> None:
    verdict = tripped(seen(canary, stable), "canary")
    assert (verdict.rule if verdict else None) == rule, case
    assert verdict is None or verdict.outcome == "fail"


def test_the_baseline_is_the_stable_version_too() -> None:
    assert tripped(seen(arm(5, crash=5), arm(0), arm(200)), "canary") is not None


def test_a_wire_may_ask_for_fewer_units_where_there_are_few_callers() -> None:
    one = seen(arm(1, crash=1), arm(2_000_000))
    assert tripped(one, "canary") is None
    assert tripped(one, "canary", units=1) is not None


def test_the_chance_is_that_of_fishers_exact_test() -> None:
    verdict = tripped(seen(arm(60, not_finite=9), arm(900, not_finite=6), arm(50)), "canary")
    assert verdict is not None
    ways = sum(math.comb(60, count) * math.comb(950, 15 - count) for count in range(9, 16))
    assert verdict.evidence["p"] == pytest.approx(ways / math.comb(1010, 15), rel=1e-6)


def test_looking_all_the_time_trips_no_wire_of_two_equal_versions() -> None:
    """400 pairs of equal versions, 40 looks each at growing counts: not one trips (95 %: below 0.75 %)."""
    rng = np.random.default_rng(6)
    for _ in range(400):
        rate = rng.choice([0.001, 0.02, 0.6])
        units = np.unique(np.geomspace(3, 2_000, 40).astype(int))
        steps = np.diff(units, prepend=0)
        canary, stable = (np.cumsum(rng.binomial(factor * steps, rate)) for factor in (1, 20))
        for n, hit, before in zip(units, canary, stable, strict=True):
            flags = {"not_finite": int(hit), "constant": int(hit), "errors": int(hit)}
            flags_before = {"not_finite": int(before), "constant": int(before), "errors": int(before)}
            assert tripped(seen(arm(int(n), **flags), arm(20 * int(n), **flags_before)), "canary") is None

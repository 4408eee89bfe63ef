"""When a release takes effect, and what answers until then."""

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from rung.domain import moves
from rung.domain.models import AspiredVersion, Manifest, VersionState
from rung.domain.predictions import Call
from rung.domain.releases import BUCKETS, Arm, Move, Rollout
from rung.domain.tensors import Signature
from rung.serving.record import Record
from rung.serving.split import Split
from rung.serving.table import Table

S = VersionState


class Version:
    """Stands for a `Servable`: remembers which mirror it was composed with."""

    def __init__(self, number):
        self.manifest = Manifest("m", number, "none", Signature((), ()), "none")
        self.mirror = None

    def compose(self, mirror=None):
        self.mirror = mirror


V = {number: Version(number) for number in range(1, 5)}


def records(**states):
    """`v1="AVAILABLE"`, or `v1=("END", failures)`: records of model m."""
    made = []
    for name, said in states.items():
        state, failures = (said, 0) if isinstance(said, str) else said
        number = int(name[1:])
        record = Record(AspiredVersion("m", number, f"d{number}"))
        record.state, record.failures = S[state], failures
        record.servable = V[number] if state in ("AVAILABLE", "UNLOADING") else None
        made.append(record)
    return made


def whole(version, epoch=1, keep=()):
    made = moves.whole(None, "m", version, f"d{version}", Move("release", "ana"))
    return replace(made, epoch=epoch, keep=keep)


def canary(percent=10.0, epoch=2):
    stable = Arm("stable", 1, "d1", "stable", BUCKETS)
    return replace(moves.at_stage(whole(1), stable, Rollout(2, "d2", (percent,))), epoch=epoch)


def table(**options):
    return Table(**{"splitting": False, "forcing": True, "report": None, **options})


def publish(one, release, **states):
    one.publish(records(**states), {"m": release} if release else {}, 2)
    return one


def answers(one):
    """(number of the version that answers whoever is in no experiment, epoch in force); None without an answer."""
    found = one.answering.get("m")
    if found is None:
        return None
    call = Call(headers={b"rung-arm": b"stable"}) if isinstance(found, Split) and found.release else Call()
    servable = found.choose(call) if isinstance(found, Split) else found
    release = one.in_force("m")
    return servable.manifest.version, release.epoch if release else 0


def test_without_a_release_the_latest_answers():
    assert answers(publish(table(), None, v1="AVAILABLE", v2="AVAILABLE")) == (2, 0)
    assert type(publish(table(), None, v1="AVAILABLE").answering["m"]) is Version
    assert type(publish(table(splitting=True), None, v1="AVAILABLE").answering["m"]) is Split


def test_exact_versions_are_whatever_is_available():
    one = publish(table(), whole(1), v1="AVAILABLE", v2="AVAILABLE", v3="LOADING", v4="UNLOADING")
    assert one.exact == {("m", 1): V[1], ("m", 2): V[2]}


@pytest.mark.parametrize(
    ("case", "states", "expected"),
    [
        ("loaded", {"v1": "AVAILABLE", "v2": "AVAILABLE"}, (1, 2)),
        ("the canary is on its way", {"v1": "AVAILABLE", "v2": "LOADING"}, (1, 1)),
        ("nobody has begun to load it", {"v1": "AVAILABLE"}, (1, 1)),
        ("it failed and is tried again", {"v1": "AVAILABLE", "v2": ("END", 1)}, (1, 1)),
        ("it failed for good", {"v1": "AVAILABLE", "v2": ("END", 3)}, (1, 2)),
    ],
)
def test_a_release_waits_for_its_versions(case, states, expected):
    one = publish(table(), whole(1), v1="AVAILABLE")
    assert answers(publish(one, canary(), **states)) == expected, case


def test_a_canary_that_failed_for_good_is_missing_and_its_units_are_answered():
    one = publish(table(), canary(50.0), v1="AVAILABLE", v2=("END", 3))
    split = one.answering["m"]
    assert split.missing == ("canary",)
    assert {split.choose(Call(headers={b"rung-unit": b"%d" % number})) for number in range(100)} == {V[1]}


def test_at_a_start_nobody_but_the_main_version_answers_for_everybody():
    one = publish(table(), canary(), v1="LOADING", v2="AVAILABLE")
    assert answers(one) is None
    assert answers(publish(one, canary(), v1=("END", 1), v2="AVAILABLE")) is None
    assert answers(publish(one, canary(), v1="AVAILABLE", v2="AVAILABLE")) == (1, 2)


def test_at_a_start_the_main_version_does_not_wait_for_the_canary():
    assert answers(publish(table(), canary(), v1="AVAILABLE", v2="LOADING")) == (1, 2)


def test_at_a_start_without_the_main_version_something_answers():
    assert answers(publish(table(), canary(), v1=("END", 3), v2="AVAILABLE")) == (2, 2)
    kept = replace(canary(), keep=(3,))
    assert answers(publish(table(), kept, v1=("END", 3), v2="AVAILABLE", v3="AVAILABLE")) == (3, 2)


@pytest.mark.parametrize("splitting", [False, True])
def test_until_a_first_release_is_loaded_whoever_answered_goes_on(splitting):
    one = publish(table(splitting=splitting), None, v2="AVAILABLE")
    assert answers(publish(one, whole(1), v2="AVAILABLE")) == (2, 0)
    assert answers(publish(one, whole(1), v1="LOADING", v2="AVAILABLE")) == (2, 0)
    # A newer version that is loaded meanwhile is not released.
    assert answers(publish(one, whole(1), v1="LOADING", v2="AVAILABLE", v3="AVAILABLE")) == (2, 0)
    assert answers(publish(one, whole(1), v1="AVAILABLE", v2="AVAILABLE", v3="AVAILABLE")) == (1, 1)


def test_whoever_stands_in_goes_on_until_the_next_release_is_loaded():
    one = publish(table(), whole(2, keep=(1,)), v1="AVAILABLE", v2=("END", 3))
    assert answers(one) == (1, 1)
    assert answers(publish(one, whole(3, epoch=2), v1="AVAILABLE", v2=("END", 3), v3="LOADING")) == (1, 1)
    assert answers(publish(one, whole(3, epoch=2), v1="AVAILABLE", v2=("END", 3), v3="AVAILABLE")) == (3, 2)


def test_going_back_takes_effect_at_once():
    one = publish(table(), canary(50.0), v1="AVAILABLE", v2="AVAILABLE")
    assert answers(publish(one, whole(1, epoch=3), v1="AVAILABLE", v2="UNLOADING")) == (1, 3)
    assert answers(publish(one, whole(1, epoch=3), v1="AVAILABLE")) == (1, 3)


def test_what_is_remembered_and_counted_stays_while_nothing_changes():
    one = publish(table(), canary(), v1="AVAILABLE", v2="AVAILABLE")
    release, split = one.in_force("m"), one.answering["m"]
    split.choose(Call(headers={b"rung-unit": b"ana"}))
    publish(one, release, v1="AVAILABLE", v2="AVAILABLE", v3="AVAILABLE")
    assert one.answering["m"] is split
    publish(one, replace(release, epoch=3), v1="AVAILABLE", v2="AVAILABLE")
    assert one.answering["m"] is not split
    publish(one, replace(release, epoch=3), v1="AVAILABLE")
    assert one.answering["m"].missing == ("canary",)


def test_a_move_is_logged_once():
    with capture_logs() as logs:
        one = publish(table(), canary(5.0), v1="AVAILABLE", v2="AVAILABLE")
        publish(one, canary(5.0), v1="AVAILABLE", v2="AVAILABLE")
    [said] = [line for line in logs if line["action"] == "release"]
    assert (said["model"], said["epoch"], said["by"]) == ("m", 2, "ana")
    assert said["arms"] == {"stable": "v1 90 %", "canary": "v2 5 %", "baseline": "v1 5 %"}


def test_a_model_without_any_version_is_forgotten():
    one = publish(table(), whole(1), v1="AVAILABLE")
    publish(one, whole(1), v1="END")
    assert (one.answering, one.exact, one.in_force("m")) == ({}, {}, None)


# --- copies -------------------------------------------------------------------------------------------


def test_a_shadow_gets_copies_of_what_the_others_are_asked():
    one = publish(table(), canary(0.0), v1="AVAILABLE", v2="AVAILABLE")
    mirror = one.mirrors["m"]
    assert mirror.candidate is V[2]
    assert (V[1].mirror, V[2].mirror) == (mirror, None)
    publish(one, canary(0.0), v1="AVAILABLE", v2="AVAILABLE")
    assert one.mirrors["m"] is mirror, "its counts go on"
    one.close()


def test_copies_end_with_the_shadow():
    one = publish(table(), canary(0.0), v1="AVAILABLE", v2="AVAILABLE", v3="AVAILABLE")
    mirror = one.mirrors["m"]
    publish(one, whole(1, epoch=3), v1="AVAILABLE", v2="AVAILABLE", v3="AVAILABLE")
    assert one.mirrors == {}
    assert [V[number].mirror for number in (1, 2, 3)] == [None, None, None]
    with pytest.raises(RuntimeError, match="shutdown"):
        mirror._pool.submit(print)


@pytest.mark.parametrize("states", [{"v1": "AVAILABLE", "v2": ("END", 3)}, {"v1": "AVAILABLE"}, {}])
def test_copies_end_when_the_candidate_or_the_model_goes(states):
    one = publish(table(), canary(0.0), v1="AVAILABLE", v2="AVAILABLE")
    publish(one, canary(0.0), **states)
    assert one.mirrors == {}
    assert V[1].mirror is None or not states

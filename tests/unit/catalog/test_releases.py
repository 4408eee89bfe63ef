"""Moving releases: what each move makes of the one before, and what it refuses."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rung.catalog import bundles, ledger, models, releases
from rung.domain.errors import BundleError, Conflict, InvalidInput, NotFound
from rung.domain.models import Manifest
from rung.domain.releases import BUCKETS, LADDER, Segment, shares_of
from rung.domain.tensors import Signature
from rung.store.blobs import DiskStore, open_store


def publish(place, count=4, name="m"):
    """So many versions of a model: only their manifests matter here."""
    for _ in range(count):
        manifest = Manifest(name, 0, "scale", Signature((), ()), "model.scale")
        bundles.publish(place, manifest, {"model.scale": b'{"factor": 2}'})


@pytest.fixture(params=["disk", "memory"])
def place(request, tmp_path):
    made = DiskStore(tmp_path / "repository") if request.param == "disk" else open_store("memory:")
    publish(made)
    return made


@pytest.fixture
def shelf():
    """Four versions in memory, for what does not depend on where they lie."""
    made = open_store("memory:")
    publish(made)
    return made


def digest(place, version):
    return bundles.read_version(place, "m", version)[1]


def arms(release):
    return {arm.name: (arm.version, arm.share * 100 / BUCKETS) for arm in release.arms}


# --- every move, as a table -------------------------------------------------------------------------


def test_a_release_at_once(place):
    first = releases.release(place, "m", 1, by="ana", reason="it is good")
    assert arms(first) == {"stable": (1, 100.0)}
    assert (first.move.kind, first.move.by, first.move.rule, first.move.reason) == (
        "release",
        "ana",
        "by hand",
        "it is good",
    )
    assert first.arms[0].digest == digest(place, 1)
    second = releases.release(place, "m", 2, by="ana")
    assert (arms(second), second.keep, second.epoch) == ({"stable": (2, 100.0)}, (1,), 2)
    assert releases.current(place, "m") == second
    assert releases.history(place, "m") == [first, second]
    assert releases.list_releases(place) == [second]


def test_a_canary(place):
    releases.release(place, "m", 1)
    canary = releases.release(place, "m", 2, percent=5.0, by="ana")
    assert arms(canary) == {"stable": (1, 90.0), "canary": (2, 5.0), "baseline": (1, 5.0)}
    assert canary.move.kind == "release"
    assert (canary.rollout.candidate, canary.rollout.digest) == (2, digest(place, 2))
    assert canary.rollout.began == canary.rollout.entered == canary.at
    assert shares_of(canary.ranges) == {"stable": 900_000, "canary": 50_000, "baseline": 50_000}
    promoted = releases.promote(place, "m", by="ana")
    assert (arms(promoted), promoted.keep, promoted.rollout) == ({"stable": (2, 100.0)}, (1,), None)
    assert promoted.move.kind == "promote"


def test_without_a_release_a_canary_is_compared_with_the_latest_other_version(shelf):
    assert arms(releases.release(shelf, "m", 2, percent=5.0))["stable"] == (4, 90.0)
    bundles.withdraw(shelf, "m", 4)
    publish(shelf, 2, "n")
    bundles.withdraw(shelf, "n", 2)
    with pytest.raises(Conflict, match="n has no other version to compare 1 with: release it whole"):
        releases.release(shelf, "n", 1, percent=5.0)


def test_a_shadow_answers_nobody(shelf):
    releases.release(shelf, "m", 1)
    moved = releases.shadow(shelf, "m", 2, unit="cookie:s")
    assert arms(moved) == {"stable": (1, 100.0), "shadow": (2, 0.0)}
    assert moved.ranges == ((0, BUCKETS, "stable"),)
    assert (moved.move.kind, moved.unit) == ("shadow", "cookie:s")
    with pytest.raises(Conflict, match="no further stage"):
        releases.advance(shelf, moved)


def test_a_ladder_is_climbed_stage_by_stage(shelf):
    releases.release(shelf, "m", 1)
    seen = releases.rollout(shelf, "m", 2, by="controller")
    began, canary = seen.rollout.began, []
    for percent in LADDER[1:-1]:
        before = seen
        seen = releases.advance(shelf, seen, by="controller", rule="ladder", evidence={"units": 100})
        assert arms(seen)["canary"] == (2, percent)
        assert arms(seen)["baseline"] == (1, percent)
        assert (seen.rollout.began, seen.rollout.entered) == (began, seen.at)
        assert seen.salt == before.salt
        assert (seen.move.kind, seen.move.evidence) == ("advance", {"units": 100})
        assert all(any(a <= x and y <= b for a, b in within(seen, "canary")) for x, y in canary)
        canary = within(seen, "canary")
    last = releases.advance(shelf, seen, by="controller")
    assert (arms(last), last.keep, last.rollout, last.move.kind) == ({"stable": (2, 100.0)}, (1,), None, "promote")
    with pytest.raises(Conflict, match="no further stage"):
        releases.advance(shelf, last)


def within(release, name):
    return [(start, stop) for start, stop, arm in release.ranges if arm == name]


def test_a_ladder_of_one_hundred_is_a_release(shelf):
    releases.release(shelf, "m", 1)
    moved = releases.rollout(shelf, "m", 2, ladder=(100.0,))
    assert (arms(moved), moved.keep, moved.rollout) == ({"stable": (2, 100.0)}, (1,), None)


def test_a_new_candidate_draws_new_lots(shelf):
    releases.release(shelf, "m", 1)
    one = releases.release(shelf, "m", 2, percent=5.0)
    releases.rollback(shelf, "m")
    other = releases.release(shelf, "m", 3, percent=5.0)
    assert one.salt != other.salt


def test_a_split_moves_only_who_has_to_move(shelf):
    first = releases.split(shelf, "m", {1: 95, 2: 5}, unit="json:user", segments=(Segment("header:p", ("x",), "v2"),))
    assert arms(first) == {"v1": (1, 95.0), "v2": (2, 5.0)}
    assert {arm.role for arm in first.arms} == {"split"}
    assert first.stable is None
    assert first.main.version == 1
    second = releases.split(shelf, "m", {1: 75, 2: 25})
    assert within(first, "v2")[0] in within(second, "v2") or within(second, "v2")[0][0] <= within(first, "v2")[0][0]
    assert (second.unit, second.segments, second.salt) == (first.unit, first.segments, first.salt)
    third = releases.split(shelf, "m", {1: 50, 3: 50})
    assert third.segments == (), "its arm is gone"
    assert within(third, "v1")[0][0] == within(second, "v1")[0][0] == 0
    assert releases.split(shelf, "m", {1: 50, 3: 50}, segments=()).segments == ()


def test_a_split_after_a_release_keeps_whoever_can_stay_and_what_it_can_go_back_to(shelf):
    releases.release(shelf, "m", 1)
    split = releases.split(shelf, "m", {1: 90, 2: 10})
    assert split.ranges[0] == (0, 900_000, "v1")
    assert split.keep == ()
    assert releases.split(shelf, "m", {2: 50, 3: 50}).keep == (1,)
    assert releases.split(shelf, "m", {2: 10, 3: 90}).keep == (1,)
    assert arms(releases.rollback(shelf, "m")) == {"stable": (1, 100.0)}


def test_a_hold_says_why_and_moves_nobody(shelf):
    releases.release(shelf, "m", 1)
    seen = releases.rollout(shelf, "m", 2, ladder=(5.0, 50.0))
    held = releases.hold(shelf, seen, by="controller", reason="too few units")
    assert (held.arms, held.ranges, held.rollout.held) == (seen.arms, seen.ranges, "too few units")
    assert held.move.kind == "hold"
    assert releases.hold(shelf, held).rollout.held == "inconclusive"
    assert releases.advance(shelf, releases.current(shelf, "m")).rollout.held == ""
    releases.promote(shelf, "m")
    with pytest.raises(Conflict, match="no candidate of m is under way"):
        releases.hold(shelf, releases.current(shelf, "m"))


# --- what is refused --------------------------------------------------------------------------------


def test_versions_and_models_that_there_are_not(shelf):
    for move in (
        lambda: releases.release(shelf, "m", 9),
        lambda: releases.release(shelf, "m", 9, percent=5.0),
        lambda: releases.shadow(shelf, "m", 9),
        lambda: releases.split(shelf, "m", {1: 50, 9: 50}),
        lambda: releases.promote(shelf, "m", 9),
    ):
        with pytest.raises(NotFound, match="there is no version 9 of m"):
            move()
    with pytest.raises(NotFound, match="there is no model nobody; there are m"):
        releases.release(shelf, "nobody", 1)
    with pytest.raises(NotFound, match="there is no model nobody"):
        releases.history(shelf, "nobody")
    assert releases.history(shelf, "m") == []
    assert releases.current(shelf, "m") is None
    bundles.withdraw(shelf, "m", 2)
    with pytest.raises(NotFound, match="there is no version 2 of m"):
        releases.release(shelf, "m", 2)


def test_one_candidate_at_a_time(shelf):
    releases.release(shelf, "m", 1)
    releases.release(shelf, "m", 2, percent=5.0)
    for move in (
        lambda: releases.release(shelf, "m", 3),
        lambda: releases.release(shelf, "m", 3, percent=5.0),
        lambda: releases.rollout(shelf, "m", 2),
        lambda: releases.shadow(shelf, "m", 3),
        lambda: releases.split(shelf, "m", {1: 50, 3: 50}),
        lambda: releases.promote(shelf, "m", 3),
    ):
        with pytest.raises(Conflict, match=r"version 2 of m is under way \(epoch 2\): promote it or roll it back"):
            move()
    assert releases.current(shelf, "m").epoch == 2
    # The candidate itself may be released whole.
    assert arms(releases.release(shelf, "m", 2)) == {"stable": (2, 100.0)}


def test_what_answers_already_is_no_candidate(shelf):
    releases.release(shelf, "m", 1)
    with pytest.raises(Conflict, match="version 1 of m answers everybody already"):
        releases.release(shelf, "m", 1, percent=5.0)


def test_promoting_needs_a_candidate_or_a_version(shelf):
    with pytest.raises(Conflict, match="no candidate of m is under way: say which version to promote"):
        releases.promote(shelf, "m")
    assert arms(releases.promote(shelf, "m", 3)) == {"stable": (3, 100.0)}


@pytest.mark.parametrize("percent", [-1.0, 100.5, float("nan"), float("inf")])
def test_percentages_that_will_not_do(shelf, percent):
    with pytest.raises(InvalidInput, match="must rise and be percentages"):
        releases.release(shelf, "m", 1, percent=percent)
    with pytest.raises(InvalidInput, match="percentages that sum to 100"):
        releases.split(shelf, "m", {1: percent, 2: 5.0})


def test_an_audience_needs_an_arm_of_the_split(shelf):
    with pytest.raises(InvalidInput, match=r"goes to 'v3'; there are \['v1', 'v2'\]"):
        releases.split(shelf, "m", {1: 50, 2: 50}, segments=(Segment("header:p", ("x",), "v3"),))


# --- a controller that is behind --------------------------------------------------------------------


@pytest.mark.parametrize("move", [releases.advance, releases.hold])
def test_a_controller_that_saw_an_old_epoch_moves_nothing(shelf, move):
    releases.release(shelf, "m", 1)
    seen = releases.rollout(shelf, "m", 2)
    releases.rollback(shelf, "m")
    with pytest.raises(Conflict, match=r"the release of m has moved on from epoch 2"):
        move(shelf, seen, by="controller")
    with pytest.raises(Conflict, match="moved on from epoch 2"):
        releases.rollback(shelf, "m", seen=seen)
    assert releases.current(shelf, "m").epoch == 3


def test_two_controllers_that_saw_the_same_advance_once(shelf):
    releases.release(shelf, "m", 1)
    seen = releases.rollout(shelf, "m", 2)
    releases.advance(shelf, seen, by="one")
    with pytest.raises(Conflict):
        releases.advance(shelf, seen, by="other")
    assert releases.current(shelf, "m").rollout.stage == 1


def test_a_person_who_moves_between_reading_and_writing_wins(shelf, monkeypatch):
    releases.release(shelf, "m", 1)
    seen = releases.rollout(shelf, "m", 2)
    at_stage = releases.moves.at_stage

    def late(*args):
        monkeypatch.setattr(releases.moves, "at_stage", at_stage)
        releases.rollback(shelf, "m", by="ana")
        return at_stage(*args)

    monkeypatch.setattr(releases.moves, "at_stage", late)
    with pytest.raises(Conflict, match="somebody else moved m to epoch 3 first"):
        releases.advance(shelf, seen)
    assert releases.current(shelf, "m").move.by == "ana"


# --- going back -------------------------------------------------------------------------------------


def test_back_from_a_candidate(shelf):
    releases.release(shelf, "m", 1)
    releases.release(shelf, "m", 2)
    releases.release(shelf, "m", 3, percent=5.0)
    back = releases.rollback(shelf, "m", by="guard", rule="errors", evidence={"count": 3})
    assert (arms(back), back.keep, back.rollout) == ({"stable": (2, 100.0)}, (1,), None)
    assert back.latched == (digest(shelf, 3),)
    assert (back.move.kind, back.move.rule, back.move.evidence) == ("rollback", "errors", {"count": 3})


def test_back_after_a_promotion_and_further_still(shelf):
    releases.release(shelf, "m", 1)
    releases.release(shelf, "m", 2)
    releases.rollout(shelf, "m", 3, ladder=(5.0,))
    releases.promote(shelf, "m")
    assert arms(releases.rollback(shelf, "m")) == {"stable": (2, 100.0)}
    again = releases.rollback(shelf, "m")
    assert arms(again) == {"stable": (1, 100.0)}
    assert set(again.latched) == {digest(shelf, 3), digest(shelf, 2)}
    with pytest.raises(Conflict, match="there is nothing to go back to"):
        releases.rollback(shelf, "m")


def test_back_without_a_latch_does_not_come_to_what_was_taken_back(shelf):
    for version in (1, 2, 3):
        releases.release(shelf, "m", version)
    assert arms(releases.rollback(shelf, "m", latch=False))["stable"][0] == 2
    assert arms(releases.rollback(shelf, "m", latch=False))["stable"][0] == 1
    assert releases.current(shelf, "m").latched == ()


def test_back_from_a_split(shelf):
    with pytest.raises(Conflict, match="m has no release: there is nothing to go back to"):
        releases.rollback(shelf, "m")
    releases.split(shelf, "m", {1: 95, 2: 5})
    with pytest.raises(Conflict, match="there is nothing to go back to"):
        releases.rollback(shelf, "m")
    releases.release(shelf, "m", 1)
    releases.split(shelf, "m", {1: 95, 2: 5})
    back = releases.rollback(shelf, "m")
    assert (arms(back), back.latched) == ({"stable": (1, 100.0)}, (digest(shelf, 2),))


def test_back_passes_over_what_has_been_deleted(shelf):
    for version in (1, 2, 3):
        releases.release(shelf, "m", version)
    models.delete(shelf, "m", 2, force=True)
    assert arms(releases.rollback(shelf, "m")) == {"stable": (1, 100.0)}


def test_going_back_reads_few_links_of_a_long_ledger(shelf):
    releases.release(shelf, "m", 1)
    for _ in range(20):
        releases.release(shelf, "m", 2)
        releases.release(shelf, "m", 1)
    reads = []

    class Counted:
        def __getattr__(self, name):
            return getattr(shelf, name)

        def get(self, key):
            reads.append(key)
            return shelf.get(key)

    releases.rollback(Counted(), "m")
    assert sum(key.startswith("releases/") for key in reads) <= 4, reads


def test_what_was_taken_back_comes_again_by_force_alone(shelf):
    releases.release(shelf, "m", 1)
    releases.release(shelf, "m", 2, percent=5.0)
    releases.rollback(shelf, "m")
    bad = digest(shelf, 2)
    for move in (
        lambda: releases.release(shelf, "m", 2),
        lambda: releases.release(shelf, "m", 2, percent=5.0),
        lambda: releases.rollout(shelf, "m", 2),
        lambda: releases.split(shelf, "m", {1: 95, 2: 5}),
        lambda: releases.promote(shelf, "m", 2),
    ):
        with pytest.raises(Conflict, match="version 2 of m was taken back before; release it again only by force"):
            move()
    # A shadow harms nobody, but is no way round.
    seen = releases.shadow(shelf, "m", 2)
    assert bad in seen.latched
    with pytest.raises(Conflict, match="only by force"):
        releases.promote(shelf, "m")
    releases.rollback(shelf, "m")
    # Forced, it may answer; it still climbs for a person only.
    seen = releases.rollout(shelf, "m", 2, ladder=(5.0, 50.0), force=True)
    assert bad in seen.latched
    with pytest.raises(Conflict, match="only by force"):
        releases.advance(shelf, seen, by="controller")
    forgiven = releases.promote(shelf, "m", force=True)
    assert (arms(forgiven), forgiven.latched) == ({"stable": (2, 100.0)}, ())
    releases.rollback(shelf, "m")
    assert releases.split(shelf, "m", {1: 95, 2: 5}, force=True).latched == ()


# --- asking -----------------------------------------------------------------------------------------


def test_what_answered_at_a_time(shelf):
    made = [releases.release(shelf, "m", version) for version in (1, 2, 3)]
    times = [datetime.fromisoformat(one.at) for one in made]
    assert releases.at(shelf, "m", times[0] - timedelta(microseconds=1)) is None
    for one, time in zip(made, times, strict=True):
        assert releases.at(shelf, "m", time) == one
        assert releases.at(shelf, "m", time + timedelta(microseconds=1)).epoch >= one.epoch
    assert releases.at(shelf, "m", datetime(2200, 1, 1, tzinfo=UTC)) == made[-1]


def test_a_ledger_that_was_tampered_with_is_not_believed(shelf):
    for version in (1, 2, 3):
        releases.release(shelf, "m", version)
    first = "releases/m/000000000001.json"
    shelf.put(first, shelf.get(first).replace(b'"by":"unknown"', b'"by":"somebody"'))
    for ask in (
        lambda: releases.history(shelf, "m"),
        lambda: releases.at(shelf, "m", datetime(2200, 1, 1, tzinfo=UTC)),
    ):
        with pytest.raises(BundleError, match="the ledger of m is broken at epoch 2"):
            ask()


# --- deleting -----------------------------------------------------------------------------------------


def test_a_version_that_a_release_needs_is_not_deleted(place):
    releases.release(place, "m", 1)
    releases.release(place, "m", 2)
    releases.release(place, "m", 3, percent=5.0)
    for version, why in (
        (2, "answers as stable and baseline"),
        (3, "answers as canary"),
        (1, "stays loaded to go back to"),
    ):
        with pytest.raises(Conflict, match=rf"version {version} of m {why} in its release \(epoch 3\)"):
            models.delete(place, "m", version)
    models.delete(place, "m", 4)
    releases.rollback(place, "m")
    models.delete(place, "m", 3)
    models.delete(place, "m", 1, force=True)
    assert [entry.version for entry in models.list_models(place)] == [2]


def test_a_version_is_not_deleted_while_the_ledger_cannot_be_read(place):
    releases.release(place, "m", 1)
    place.put("releases/m/000000000001.json", b"{")
    with pytest.raises(BundleError, match="cannot be read"):
        models.delete(place, "m", 2)


def test_releases_are_no_models(place: DiskStore, tmp_path: Path) -> None:
    publish(place, 1, "1")
    releases.release(place, "1", 1)
    assert {entry.name for entry in models.list_models(place)} == {"1", "m"}
    assert ledger.models(place) == ["1"]


# --- any moves in any order ---------------------------------------------------------------------------

VERSIONS = st.integers(1, 4)


class Moves(RuleBasedStateMachine):
    """What holds after any moves, by a person and by a controller that may be behind."""

    @initialize()
    def begin(self):
        self.place = open_store("memory:")
        publish(self.place)
        self.digests = {version: digest(self.place, version) for version in range(1, 5)}
        self.seen = None
        self.been = set()
        self.count = 0

    def moved(self, move):
        """Make a move; None where it is refused, and then nothing has changed."""
        before = releases.current(self.place, "m")
        try:
            made = move()
        except Conflict:
            assert releases.current(self.place, "m") == before
            return None, before
        self.count += 1
        assert releases.current(self.place, "m") == made
        assert made.epoch == self.count == (before.epoch if before else 0) + 1
        if made.stable is not None:
            self.been.add(made.stable.version)
        return made, before

    def unforced(self, made, before):
        """What was taken back does not answer again by itself."""
        if made is not None and before is not None:
            answered = {arm.digest for arm in before.arms if arm.role != "shadow"}
            answers = {arm.digest for arm in made.arms if arm.role != "shadow"}
            assert not (answers - answered) & set(before.latched)

    @rule(version=VERSIONS, percent=st.sampled_from([1.0, 5.0, 50.0, 100.0]), force=st.booleans())
    def release(self, version, percent, force):
        move = lambda: releases.release(self.place, "m", version, percent=percent, force=force)  # noqa: E731
        made, before = self.moved(move)
        if not force:
            self.unforced(made, before)

    @rule(version=VERSIONS)
    def shadow(self, version):
        self.unforced(*self.moved(lambda: releases.shadow(self.place, "m", version)))

    @rule(version=VERSIONS, ladder=st.sampled_from([LADDER, (5.0, 50.0), (0.0, 100.0)]))
    def rollout(self, version, ladder):
        self.unforced(*self.moved(lambda: releases.rollout(self.place, "m", version, ladder=ladder)))

    @rule(one=VERSIONS, other=VERSIONS, percent=st.sampled_from([0, 5, 50]))
    def split(self, one, other, percent):
        shares = {one: 100 - percent, other: percent} if one != other else {one: 100}
        self.unforced(*self.moved(lambda: releases.split(self.place, "m", shares)))

    @rule(version=st.none() | VERSIONS)
    def promote(self, version):
        self.unforced(*self.moved(lambda: releases.promote(self.place, "m", version)))

    @rule()
    def look(self):
        self.seen = releases.current(self.place, "m")

    @rule(hold=st.booleans())
    def control(self, hold):
        if self.seen is None:
            return
        move = releases.hold if hold else releases.advance
        made, before = self.moved(lambda: move(self.place, self.seen, by="controller"))
        if made is not None:
            assert before.epoch == self.seen.epoch
        self.unforced(made, before)

    @rule(latch=st.booleans())
    def rollback(self, latch):
        been = set(self.been)
        made, before = self.moved(lambda: releases.rollback(self.place, "m", latch=latch))
        if made is None:
            return
        assert made.stable.version in been
        assert made.rollout is None
        assert made.stable.digest not in before.latched
        if before.rollout is not None:
            assert made.stable.version == before.main.version
        elif before.stable is not None:
            assert made.stable.version != before.stable.version
        if latch:
            bad = {arm.digest for arm in before.arms} - {made.stable.digest}
            assert bad <= set(made.latched)

    @invariant()
    def holds(self):
        now = releases.current(self.place, "m")
        if now is None:
            return
        roles = [arm.role for arm in now.arms]
        assert roles.count("stable") == 1 or set(roles) == {"split"}
        assert sum(arm.share for arm in now.arms) == BUCKETS
        assert shares_of(now.ranges) == {arm.name: arm.share for arm in now.arms if arm.share}
        assert len({arm.name for arm in now.arms}) == len(now.arms)
        assert all(self.digests[arm.version] == arm.digest for arm in now.arms)
        assert set(now.keep) <= self.digests.keys()
        assert not set(now.keep) & {arm.version for arm in now.arms} or now.rollout is not None
        assert len(now.keep) <= 1
        assert (now.rollout is not None) == bool({"canary", "shadow"} & set(roles))
        assert now.main.digest not in now.latched
        if now.stable is None and self.been:
            # Going back from a split needs no download.
            back = releases._last_good(self.place, now)
            assert back is None or back.version in now.versions

    def teardown(self):
        if self.count:
            chain = releases.history(self.place, "m")
            assert [one.epoch for one in chain] == list(range(1, self.count + 1))
            assert [one.at for one in chain] == sorted({one.at for one in chain})


Moves.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestMoves = Moves.TestCase

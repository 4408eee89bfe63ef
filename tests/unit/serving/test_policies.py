import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.models import AspiredVersion, VersionState
from rung.domain.releases import Arm, Move, Release
from rung.serving.policies import Entry, Load, Policy, Unload, needed, plan

S = VersionState


def v(version: int, digest: str = "d", name: str = "m") -> AspiredVersion:
    return AspiredVersion(name, version, digest)


def entry(version: int, state: VersionState, failures: int = 0, digest: str = "d") -> Entry:
    return Entry(v(version, digest), state, failures)


AVAILABILITY = Policy()
RESOURCES = Policy(swap="resources")


@pytest.mark.parametrize(
    ("case", "aspired", "entries", "policy", "expected"),
    [
        ("nothing to do", [v(1)], [entry(1, S.AVAILABLE)], AVAILABILITY, []),
        ("first load", [v(1)], [], AVAILABILITY, [Load(v(1))]),
        ("only the latest", [v(1), v(2), v(3)], [], AVAILABILITY, [Load(v(3))]),
        ("the latest two", [v(1), v(2), v(3)], [], Policy(versions=2), [Load(v(3)), Load(v(2))]),
        ("all", [v(1), v(2)], [], Policy(keep="all"), [Load(v(2)), Load(v(1))]),
        ("pinned", [v(1), v(2), v(3)], [], Policy(pin=(2,)), [Load(v(2))]),
        ("pinned but absent", [v(1)], [], Policy(pin=(7,)), []),
        ("new one first", [v(1), v(2)], [entry(1, S.AVAILABLE)], AVAILABILITY, [Load(v(2))]),
        ("old one stays while the new loads", [v(2)], [entry(1, S.AVAILABLE), entry(2, S.LOADING)], AVAILABILITY, []),
        (
            "old one goes once the new one answers",
            [v(1), v(2)],
            [entry(1, S.AVAILABLE), entry(2, S.AVAILABLE)],
            AVAILABILITY,
            [Unload(v(1))],
        ),
        ("old memory first", [v(2)], [entry(1, S.AVAILABLE)], RESOURCES, [Unload(v(1))]),
        ("wait for the old memory", [v(2)], [entry(1, S.UNLOADING)], RESOURCES, []),
        ("then load", [v(2)], [entry(1, S.END)], RESOURCES, [Load(v(2))]),
        ("a failed load is tried again", [v(1)], [entry(1, S.END, failures=1)], AVAILABILITY, [Load(v(1))]),
        (
            "a spent version leaves the old one serving",
            [v(1), v(2)],
            [entry(1, S.AVAILABLE), entry(2, S.END, failures=3)],
            AVAILABILITY,
            [],
        ),
        (
            "a spent version is passed over at a cold start",
            [v(1), v(2)],
            [entry(2, S.END, failures=3)],
            AVAILABILITY,
            [Load(v(1))],
        ),
        (
            "new bytes under a spent number are a new attempt",
            [v(2, "new")],
            [entry(2, S.END, failures=3)],
            AVAILABILITY,
            [Load(v(2, "new"))],
        ),
        ("omitted means unload", [], [entry(1, S.AVAILABLE)], AVAILABILITY, [Unload(v(1))]),
        ("unloading is left alone", [v(2)], [entry(1, S.UNLOADING), entry(2, S.AVAILABLE)], AVAILABILITY, []),
    ],
)
def test_plan(case, aspired, entries, policy, expected):
    assert plan(aspired, entries, policy) == expected


versions = st.integers(1, 5)
entries_of = st.dictionaries(versions, st.tuples(st.sampled_from(S), st.integers(0, 4)), max_size=5)


@given(st.sets(versions), entries_of, st.sampled_from(["availability", "resources"]), st.integers(1, 3))
def test_any_state_converges_without_an_outage(aspired, states, swap, count):
    policy = Policy(swap=swap, versions=count)
    table = {version: (state, failures) for version, (state, failures) in states.items()}
    wanted_all = [v(version) for version in aspired]
    for _ in range(30):
        before = {version for version, (state, _) in table.items() if state is S.AVAILABLE}
        actions = plan(wanted_all, [entry(n, s, f) for n, (s, f) in table.items()], policy)
        for action in actions:
            number, failures = action.version.version, table.get(action.version.version, (None, 0))[1]
            table[number] = (S.AVAILABLE, failures) if isinstance(action, Load) else (S.END, failures)
        # What was on its way arrives.
        for number, (state, failures) in table.items():
            if state in (S.START, S.LOADING):
                table[number] = (S.AVAILABLE, failures)
            elif state is S.UNLOADING:
                table[number] = (S.END, failures)
        after = {version for version, (state, _) in table.items() if state is S.AVAILABLE}
        loadable = {n for n in aspired if table.get(n, (None, 0))[1] <= policy.retries}
        if swap == "availability" and before and loadable:
            assert after, "the model stopped answering"
    final = {version for version, (state, _) in table.items() if state is S.AVAILABLE}
    assert final == set(sorted(loadable, reverse=True)[:count])
    assert plan(wanted_all, [entry(n, s, f) for n, (s, f) in table.items()], policy) == []


# --- releases ---


@pytest.mark.parametrize(
    ("case", "entries", "policy", "released", "expected"),
    [
        ("what is released is loaded and not the latest", [], AVAILABILITY, (1, 2), [Load(v(2)), Load(v(1))]),
        ("an old release", [], AVAILABILITY, (1,), [Load(v(1))]),
        (
            "what is kept stays",
            [entry(1, S.AVAILABLE), entry(2, S.AVAILABLE)],
            AVAILABILITY,
            (1, 2),
            [],
        ),
        (
            "what no release needs goes",
            [entry(1, S.AVAILABLE), entry(3, S.AVAILABLE)],
            AVAILABILITY,
            (1,),
            [Unload(v(3))],
        ),
        (
            "but not before the released can answer",
            [entry(1, S.LOADING), entry(3, S.AVAILABLE)],
            AVAILABILITY,
            (1,),
            [],
        ),
        (
            "a canary that cannot load holds nothing up",
            [entry(1, S.AVAILABLE), entry(2, S.END, failures=3), entry(3, S.AVAILABLE)],
            AVAILABILITY,
            (1, 2),
            [Unload(v(3))],
        ),
        ("a pin adds", [], Policy(pin=(3,)), (1,), [Load(v(3)), Load(v(1))]),
        ("all adds", [], Policy(keep="all"), (1,), [Load(v(3)), Load(v(2)), Load(v(1))]),
        ("none of it is there", [], AVAILABILITY, (7,), [Load(v(3))]),
        ("none of it can be loaded", [entry(1, S.END, failures=3)], AVAILABILITY, (1,), [Load(v(3))]),
        ("memory is short", [entry(1, S.AVAILABLE)], RESOURCES, (2,), [Unload(v(1))]),
        ("memory is free", [entry(1, S.END)], RESOURCES, (2,), [Load(v(2))]),
    ],
)
def test_plan_with_a_release(case, entries, policy, released, expected):
    assert plan([v(1), v(2), v(3)], entries, policy, {"m": released}) == expected


def test_a_release_of_one_model_is_none_of_another():
    aspired = [v(1), v(2), v(1, name="n"), v(2, name="n")]
    assert plan(aspired, [], AVAILABILITY, {"m": (1,)}) == [Load(v(1)), Load(v(2, name="n"))]


def test_where_memory_is_short_nothing_is_kept_that_answers_nobody():
    arms = (Arm("stable", 2, "", "stable", 900_000), Arm("canary", 3, "", "canary", 100_000))
    release = Release("m", 1, "", "", arms, Move("release", "ana"), keep=(1,))
    assert needed(release, AVAILABILITY) == (1, 2, 3)
    assert needed(release, RESOURCES) == (2, 3)

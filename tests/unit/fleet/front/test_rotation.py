"""Who gets requests."""

import pytest

from rung.fleet.front.rotation import HUNG, Looks, rotation
from rung.fleet.state import RoleState


def replicas(**states: str) -> list[RoleState]:
    return [RoleState(name=name, role="replica", state=state) for name, state in states.items()]


@pytest.mark.parametrize(
    ("states", "unready", "expected"),
    [
        ({"a": "ready", "b": "ready"}, [], {"a": "ready", "b": "ready"}),
        ({"a": "ready", "b": "ready"}, ["b"], {"a": "ready", "b": "drain"}),
        # A model that no replica has must not take the others with it.
        ({"a": "ready", "b": "ready"}, ["a", "b"], {"a": "ready", "b": "ready"}),
        ({"a": "ready"}, ["a"], {"a": "ready"}),
        (
            {"a": "ready", "b": "starting", "c": "stopping", "d": "waiting", "e": "broken"},
            [],
            {"a": "ready", "b": "maint", "c": "leave", "d": "maint", "e": "maint"},
        ),
        ({"a": "stopping", "b": "ready"}, ["b"], {"a": "leave", "b": "ready"}),
        ({}, ["gone"], {}),
    ],
)
def test_who_gets_requests(states, unready, expected):
    assert rotation(replicas(**states), unready) == expected


def test_one_that_is_silent_for_long_hangs_unless_all_are():
    looks = Looks()
    looks.take({"a": True, "b": None, "c": False}, now=0.0)
    assert (looks.unready, looks.hung) == ({"c"}, [])
    looks.take({"a": True, "b": None, "c": None}, now=HUNG - 1)
    assert looks.hung == []
    looks.take({"a": True, "b": None, "c": None}, now=HUNG)
    assert looks.hung == ["b"], "one after another, the longest first"

    looks.take({"a": None, "b": None, "c": None}, now=3 * HUNG)
    assert looks.hung == [], "then it is the machine"
    looks.take({"a": True, "b": True, "c": None}, now=3 * HUNG)
    assert looks.hung == ["c"]
    looks.forget("c")
    assert looks.hung == []
    looks.take({"a": True, "b": True, "c": None}, now=3 * HUNG + 1)
    assert looks.hung == [], "its place is another's now"
    looks.take({"a": True, "b": True, "c": True}, now=4 * HUNG)
    assert looks.hung == []
    looks.take({"a": True, "c": None}, now=4 * HUNG + 1)
    assert looks.hung == [], "a sign of life begins the time anew"

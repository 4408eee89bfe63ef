"""Tables of what to do, and what holds whatever comes up, ends and is asked for in between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.fleet.replicas import End, Place, Start, plan


def ready(*numbers: int, old: bool = False) -> list[Place]:
    return [Place(number, ready=True, old=old) for number in numbers]


@pytest.mark.parametrize(
    ("places", "wanted", "actions"),
    [
        ([], 2, [Start(1), Start(2)]),
        (ready(1, 3), 4, [Start(2), Start(4)]),
        (ready(1, 2, 3, 4), 1, [End(4), End(3), End(2)]),
        (ready(1, 2), 2, []),
        # Who does not answer is not missed.
        ([Place(1), *ready(2, 3)], 2, [End(1)]),
        ([*ready(1), Place(2), Place(3)], 1, [End(3), End(2)]),
        # One that goes counts no more, but keeps its number until it has gone.
        ([*ready(1), Place(2, leaving=True)], 2, [Start(3)]),
        (ready(1, 2), 0, [End(2), End(1)]),
        # A restart: one more, then one less, and one at a time.
        (ready(1, 2, old=True), 2, [Start(3)]),
        ([*ready(1, 2, old=True), Place(3)], 2, []),
        ([*ready(1, 2, old=True), *ready(3)], 2, [End(1)]),
        ([Place(1, leaving=True, old=True), *ready(2, old=True), *ready(3)], 2, []),
        ([*ready(2, old=True), *ready(3)], 2, [Start(1)]),
        ([Place(1, old=True), *ready(2, old=True)], 2, [End(1)]),
        # The number falls while a restart is under way: the old go first.
        ([*ready(1, 2, old=True), *ready(3, 4)], 2, [End(2)]),
        ([*ready(1, 2, old=True), *ready(3, 4)], 1, [End(2), End(1)]),
        # But not one that answers, while the new ones do not yet.
        ([*ready(1, old=True), Place(2), Place(3)], 1, [End(3)]),
        (ready(1, 2, old=True), 0, [End(2), End(1)]),
    ],
)
def test_what_is_done(places, wanted, actions):
    assert plan(places, wanted) == actions


class World:
    """Replicas that come up, end and go as a machine has them."""

    def __init__(self) -> None:
        self.places: dict[int, Place] = {}
        self.wanted = 1

    def act(self) -> None:
        for action in plan(list(self.places.values()), self.wanted):
            if isinstance(action, Start):
                assert action.number not in self.places
                self.places[action.number] = Place(action.number)
            else:
                place = self.places[action.number]
                assert not place.leaving
                self.places[action.number] = Place(place.number, place.ready, leaving=True, old=place.old)

    def step(self) -> None:
        """The first that can does what it does next."""
        for number, place in list(self.places.items()):
            if place.leaving:
                del self.places[number]
                break
            if not place.ready:
                self.places[number] = Place(number, ready=True, old=place.old)
                break
        self.act()

    @property
    def answering(self) -> int:
        return sum(place.ready and not place.leaving for place in self.places.values())


@given(
    st.lists(
        st.one_of(
            st.integers(0, 6).map(lambda n: ("scale", n)),
            st.just(("restart", 0)),
            st.integers(0, 6).map(lambda n: ("crash", n)),
            st.just(("step", 0)),
        ),
        max_size=30,
    )
)
def test_it_ends_with_as_many_as_wanted_and_none_of_before(events):
    world = World()
    world.act()
    for kind, number in events:
        before, crashed = world.answering, False
        if kind == "scale":
            world.wanted = number
        elif kind == "restart":
            world.places = {n: Place(n, ready=p.ready, leaving=p.leaving, old=True) for n, p in world.places.items()}
        elif kind == "crash" and number in world.places and not world.places[number].leaving:
            crashed = True
            world.places[number] = Place(number)  # started again, hence new
        if kind != "step":
            world.act()
        else:
            world.step()
        # Nothing but a crash or a smaller number takes an answering one away.
        assert crashed or world.answering >= min(before, world.wanted)
        assert sum(not place.leaving for place in world.places.values()) <= max(world.wanted + 1, 7)
    for _ in range(60):
        world.step()
    assert [(p.ready, p.leaving, p.old) for p in world.places.values()] == [(True, False, False)] * world.wanted

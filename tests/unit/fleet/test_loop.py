import threading

import pytest

from rung.domain.errors import NotReady
from rung.fleet.loop import ControlLoop, Part


@pytest.mark.parametrize("every", [1.0, 3600.0])
def test_a_part_that_fails_is_tried_less_and_less_often_and_then_forgiven(every):
    failing = [True]

    def turn() -> None:
        if failing[0]:
            raise NotReady("the database is locked")

    part = Part("schedules", turn, every=every)
    loop = ControlLoop([part], 0.5)

    assert [loop.turn(part) for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    (health,) = loop.health()
    assert (health.failures, health.in_a_row, health.error) == (9, 9, "the database is locked")
    failing[0] = False
    assert loop.turn(part) == every
    (health,) = loop.health()
    assert (health.turns, health.failures, health.in_a_row, health.error) == (1, 9, 0, "")


@pytest.mark.parametrize("fault", ["raises", "hangs"])
def test_one_part_does_not_hold_up_another(fault):
    turns, held = threading.Semaphore(0), threading.Event()

    def bad() -> None:
        if fault == "raises":
            raise ValueError("a slip of ours")
        held.wait()

    loop = ControlLoop([Part("bad", bad), Part("good", turns.release, every=0.01)], 0.01)
    loop.open()
    for _ in range(5):
        assert turns.acquire(timeout=10)
    held.set()
    loop.close()

    bad_health, good_health = loop.health()
    assert good_health.turns >= 5
    assert not good_health.error
    assert bad_health.failures == (1 if fault == "raises" else 0)

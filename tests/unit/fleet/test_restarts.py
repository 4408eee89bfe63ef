import pytest

from rung.fleet.restarts import Restart, after_end


@pytest.mark.parametrize(
    ("streak", "lived", "wait", "broken"),
    [
        (0, 0.1, 0.0, False),  # the first end is answered at once
        (0, 3600, 0.0, False),
        (1, 1, 0.5, False),
        (2, 1, 1.0, False),
        (3, 59, 2.0, False),
        (4, 1, 60.0, True),  # the fifth short life opens the breaker
        (9, 1, 60.0, True),
        (9, 60, 0.0, False),  # a long life closes it
        (3, 61, 0.0, False),
    ],
)
def test_what_follows_an_end(streak, lived, wait, broken):
    restart = after_end(Restart(streak), lived)

    assert (restart.wait, restart.broken) == (wait, broken)


def test_five_crashes_at_once_open_the_breaker():
    restart, waited = Restart(), 0.0
    for _ in range(5):
        assert not restart.broken
        restart = after_end(restart, 0.01)
        waited += restart.wait

    assert restart.broken
    assert waited - restart.wait < 5, "what recovers within seconds is back within seconds"

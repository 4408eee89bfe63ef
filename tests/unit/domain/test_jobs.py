import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.jobs import LONGEST_BACKOFF, Line, backoff, share


@given(st.integers(0, 10**6), st.floats(0, 1000), st.floats(0, 0.999))
def test_backoff_stays_in_bounds_and_grows(attempts: int, base: float, jitter: float) -> None:
    wait = backoff(attempts, base, jitter)
    assert 0 <= wait <= LONGEST_BACKOFF
    assert wait <= backoff(attempts + 1, base, jitter)
    assert backoff(attempts, base, 0.0) / 2 <= wait


def test_backoff_doubles() -> None:
    assert [backoff(attempts, 1.0, 0.0) for attempts in (1, 2, 3, 10, 11)] == [1, 2, 4, 512, 600]


def line(owner: str, priority: int = 0, kind: str = "a") -> Line:
    return Line(kind, priority, owner)


@pytest.mark.parametrize(
    ("lines", "running", "room", "count", "expected"),
    [
        ([line("ann")], {}, {}, 3, {line("ann"): 3}),
        ([line("ann"), line("bob")], {}, {}, 4, {line("ann"): 2, line("bob"): 2}),
        ([line("ann"), line("bob")], {"ann": 3}, {}, 4, {line("bob"): 3, line("ann"): 1}),
        ([line("ann"), line("bob")], {}, {}, 1, {line("ann"): 1}),
        ([line("ann"), line("bob", priority=1)], {"bob": 9}, {}, 2, {line("bob", 1): 2}),
        ([line("ann"), line("ann", kind="b")], {}, {}, 4, {line("ann"): 2, line("ann", kind="b"): 2}),
        ([line("ann"), line("ann", kind="b")], {}, {"a": 1}, 4, {line("ann"): 1, line("ann", kind="b"): 3}),
        ([line("ann", priority=1), line("bob")], {}, {"a": 0}, 4, {}),
        ([line("ann", 1), line("bob", kind="b")], {}, {"a": 1}, 3, {line("ann", 1): 1, line("bob", kind="b"): 2}),
        ([], {}, {}, 4, {}),
    ],
)
def test_share(
    lines: list[Line], running: dict[str, int], room: dict[str, int], count: int, expected: dict[Line, int]
) -> None:
    assert share(lines, running, room, count) == expected


@given(
    st.lists(st.builds(Line, st.sampled_from("ab"), st.just(0), st.sampled_from("xyz")), unique=True, min_size=1),
    st.dictionaries(st.sampled_from("xyz"), st.integers(0, 5)),
    st.integers(0, 20),
)
def test_share_evens_out(lines: list[Line], running: dict[str, int], count: int) -> None:
    """Nobody gets a start while another who waits has fewer running."""
    given_to = share(lines, running, {}, count)
    assert sum(given_to.values()) == count
    load = {one.owner: running.get(one.owner, 0) for one in lines}
    for one, starts in given_to.items():
        load[one.owner] += starts
    grown = [load[one.owner] for one in given_to]
    assert not grown or max(grown) <= min(load.values()) + 1

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.domain.messages import Lease, Message, failed, unfit


def leased(attempts: int = 1, **fields) -> Lease:
    return Lease(Message(id="a", **fields), attempts)


@pytest.mark.parametrize(
    ("lease", "now", "reason"),
    [
        (leased(), 5.0, None),
        (leased(deadline=10.0), 9.9, None),
        (leased(deadline=10.0), 12.5, "its deadline passed 2.5 seconds ago"),
        (leased(5, max_attempts=5), 0.0, None),
        (leased(6, max_attempts=5), 0.0, "it was taken 5 times and never ended: its workers crashed or hung"),
        (leased(2, max_attempts=1), 0.0, "it was taken once and never ended: its workers crashed or hung"),
    ],
)
def test_what_must_not_be_worked_on(lease, now, reason):
    end = unfit(lease, now)
    assert (end and end.reason) == reason
    assert end is None or (end.ending, end.lease) == ("dead", lease)


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0, 0.99))
def test_a_failure_is_the_last_or_waits_longer_each_time(attempts, most, jitter):
    end = failed(leased(attempts, max_attempts=most), "no", pause=0.5, jitter=jitter)
    if attempts >= most:
        assert (end.ending, end.delay) == ("dead", 0.0)
    else:
        assert end.ending == "again"
        assert 0.25 * 2 ** min(attempts - 1, 11) <= end.delay + 1e-9 or end.delay >= 300
        assert end.delay <= 600
    assert end.reason == "no"

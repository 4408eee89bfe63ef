"""Claims of a quota, in whatever order replicas write and read them."""

from hypothesis import given, settings
from hypothesis import strategies as st

from rung.domain.quotas import Others, Quota


class Board:
    """Where replicas write, and the replicas; each step of a look is one of its own."""

    def __init__(self, size: int, replicas: int) -> None:
        self.size = size
        self.quotas = [Quota(size) for _ in range(replicas)]
        self.written: list[tuple[int, int]] = [(0, 0)] * replicas
        self.proposed: list[tuple[int, int] | None] = [None] * replicas
        self.fresh = [False] * replicas
        """Whether the claim that was proposed last has been written."""

    def propose(self, number: int) -> None:
        quota = self.quotas[number]
        claim = quota.propose(len(self.quotas))
        self.proposed[number], self.fresh[number] = (quota.spent, claim), False

    def write(self, number: int) -> None:
        if self.proposed[number] is not None:
            self.written[number], self.fresh[number] = self.proposed[number], True

    def read(self, number: int) -> None:
        if self.fresh[number]:
            others = [one for place, one in enumerate(self.written) if place != number]
            self.quotas[number].settle(Others(sum(spent for spent, _ in others), sum(claim for _, claim in others)))
            self.fresh[number] = False

    def spend(self, number: int) -> bool:
        if self.quotas[number].left <= 0:
            return False
        self.quotas[number].spent += 1
        return True

    def end(self, number: int) -> None:
        """It ends in order, and another begins in its place."""
        quota = self.quotas[number]
        self.written[number] = (quota.spent, quota.yield_())
        self.quotas[number] = Quota(self.size, quota.spent)
        self.proposed[number], self.fresh[number] = None, False

    def look(self, number: int) -> None:
        self.propose(number)
        self.write(number)
        self.read(number)

    @property
    def spent(self) -> int:
        return sum(quota.spent for quota in self.quotas)


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["propose", "write", "read", "look", "spend", "spend", "spend", "end"]), st.integers(0, 9)
    ),
    max_size=200,
)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 40), st.integers(1, 4), _STEPS)
def test_no_order_of_steps_lets_more_through_than_the_quota(size, replicas, steps):
    board = Board(size, replicas)
    for step, number in steps:
        getattr(board, step)(number % replicas)
        assert board.spent <= size
    # Where every replica is asked on, all of it is let through in the end.
    for _ in range(40):
        for number in range(replicas):
            board.look(number)
        for number in range(replicas):
            while board.spend(number):
                assert board.spent <= size
    assert board.spent == size


def test_two_that_begin_together_halve_it_at_once():
    board = Board(90, 2)
    for step in (board.propose, board.write, board.read):
        for number in range(2):
            step(number)
    assert [quota.left for quota in board.quotas] == [45, 45]


def test_one_that_gets_every_request_soon_has_nearly_all_of_it():
    board = Board(90, 2)
    for _ in range(20):
        for number in range(2):
            board.look(number)
        while board.spend(0):
            pass
    assert board.spent >= 89


def test_more_that_is_claimed_than_there_is_counts_for_nobody():
    quota = Quota(10)
    quota.propose(1)
    quota.settle(Others(spent=0, claimed=1))
    assert (quota.claim, quota.limit, quota.rest) == (10, 0, 10)
    assert quota.propose(1) == 9 + 1  # all of it is its share, and stays too much
    assert quota.propose(2) == 5
    quota.settle(Others(spent=0, claimed=1))
    assert quota.left == 5

"""A day's quota that several replicas let through, without asking each other on a request's way. Pure."""

from math import ceil

import msgspec

__all__ = ["Others", "Quota"]


class Others(msgspec.Struct, frozen=True):
    """What the other replicas have said of one key."""

    spent: int = 0
    """Requests that they have let through today."""
    claimed: int = 0
    """Requests up to which they may go."""


class Quota:
    """One replica's part of a quota.

    Each replica writes down a claim, how many requests it may let through today in all, and lets through no more. A
    higher claim counts only once it has been written and all claims, read after that, fit the quota together. Of two
    that were raised at once, whoever wrote last has read the other's, so claims in force never exceed the quota,
    whoever looks when, and neither does what is let through. Where replicas get unlike numbers of requests, those that
    have too much left lower their claims at their next look, and the others raise theirs at the one after.
    """

    __slots__ = ("claim", "limit", "others", "size", "spent")

    def __init__(self, size: int, spent: int = 0) -> None:
        self.size = size
        """Requests a day."""
        self.spent = spent
        """Requests let through here today."""
        self.limit = spent
        """Requests that may be let through here today."""
        self.claim = spent
        """What is written down as the limit: never below it."""
        self.others = Others()
        """What was last read."""

    @property
    def left(self) -> int:
        """Requests that may be let through here now."""
        return self.limit - self.spent

    @property
    def rest(self) -> int:
        """Requests that are left of today's quota over all replicas, as far as is known."""
        return self.size - self.spent - self.others.spent

    def propose(self, replicas: int) -> int:
        """The claim to be written down now, as one of so many replicas. A lower one holds at once."""
        rest = max(self.rest, 0)
        # Its own share may always be asked for, since the others will make room; more only where that is free.
        free = self.size - self.others.claimed - self.spent
        self.claim = self.spent + min(ceil(rest / replicas), max(rest // replicas, free))
        self.limit = min(self.limit, self.claim)
        return self.claim

    def settle(self, others: Others) -> None:
        """What the others had written when the claim was written already: use it if there is room."""
        self.others = others
        if self.claim + others.claimed <= self.size:
            self.limit = self.claim

    def yield_(self) -> int:
        """Claim no more than was let through: the claim to be written before this replica ends."""
        self.limit = self.claim = self.spent
        return self.claim

    def begin(self) -> None:
        """A new day: nothing is spent, and nothing claimed."""
        self.spent = self.limit = self.claim = 0
        self.others = Others()

"""What a model call costs, learned by size, and how many rows should share one.

Sizes are kept in powers of two. The first figures come from warm-up, every call refines them.
"""

__all__ = ["INLINE_CALL", "INLINE_ROW", "CostModel"]

INLINE_ROW = 150e-6
"""Seconds: below this a call of one row is cheaper than handing it to another thread and back."""
INLINE_CALL = 2e-3
"""Seconds: longest call that may hold the event loop."""
_PAYS = 0.95
"""On lanes a larger batch has to cost less than this per row, relative to the best smaller one."""
_NEUTRAL = 1.1
"""On the event loop, where nothing else could run meanwhile, it may cost this relative to a row alone."""
_MEMORY = 0.1
"""Weight of the newest call in the running mean."""
_REVIEW = 32
"""Calls after which the cap is thought over."""
_SPIKE = 3.0
"""How many times the mean a call may count for."""


class CostModel:
    """Seconds per call as a function of rows."""

    def __init__(self, objective: float = 0.0, largest: int = 1024) -> None:
        self.objective = objective
        """Seconds that a call may take; 0 derives it from the cost of one row."""
        self.largest = largest
        self._seconds: dict[int, float] = {}
        self._calls = 0
        self.wide = 0.0
        """Seconds of a one-row call that spreads over all cores; 0 if that was not measured."""
        self.cap = 1
        """Rows beyond which a batch does not pay or would miss the objective."""
        self.capped_by = "cost"
        """Why `cap` is what it is: `cost`, `objective` or `size`."""

    def learn(self, rows: int, seconds: float) -> None:
        """Take in one measured call."""
        size = 1 << (rows - 1).bit_length()
        # Scaled to the full bucket, so that 17 rows teach what 32 would have cost.
        scaled = seconds * (size / rows) if rows > 1 else seconds
        known = self._seconds.get(size)
        if known is not None:
            # A call that was held up by something else says little about the next one.
            scaled = known + _MEMORY * (min(scaled, _SPIKE * known) - known)
        self._seconds[size] = scaled
        self._calls += 1
        if known is None or self._calls % _REVIEW == 0:
            self._choose()

    def estimate(self, rows: int) -> float:
        """Seconds that a call of so many rows is expected to take; 0 before anything was learned."""
        size = 1 << (rows - 1).bit_length()
        known = self._seconds.get(size)
        if known is not None:
            return known
        if not self._seconds:
            return 0.0
        nearest = max((s for s in self._seconds if s < size), default=min(self._seconds))
        return self._seconds[nearest] * size / nearest

    @property
    def known(self) -> dict[int, float]:
        """Rows -> seconds of a call, of the sizes that were seen."""
        return self._seconds

    def row(self) -> float:
        """Seconds per row at the batch size in use: what a row in the queue adds to the wait."""
        return self.estimate(self.cap) / self.cap

    @property
    def inline(self) -> bool:
        """Whether one row costs less than a thread hop."""
        return 0.0 < self.estimate(1) < INLINE_ROW

    def limit(self) -> float:
        """Seconds that a call may take under the objective."""
        return self.objective or max(2.0 * self.estimate(1), 0.010)

    def _choose(self) -> None:
        alone = best_row = self._seconds.get(1, 0.0)
        inline, limit = self.inline, self.limit()
        if inline:
            limit = min(limit, INLINE_CALL)
        best, why = 1, "cost"
        for size in sorted(self._seconds):
            seconds = self._seconds[size]
            if size > 1 and seconds > limit:
                why = "objective"
                break
            row = seconds / size
            # Not the end at the first size that fails: one measurement may have been disturbed.
            if size > 1 and (not alone or row <= (_NEUTRAL * alone if inline else _PAYS * best_row)):
                best, best_row = size, row
        if best == max(self._seconds):
            why = "size"
        self.cap, self.capped_by = min(best, self.largest), why

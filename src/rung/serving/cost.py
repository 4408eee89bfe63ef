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
"""On the event loop, where nothing else could run meanwhile, it must not cost more than this."""
_MEMORY = 0.1
"""Weight of the newest call in the running mean."""


class CostModel:
    """Seconds per call as a function of rows."""

    def __init__(self, objective: float = 0.0, largest: int = 1024) -> None:
        self.objective = objective
        """Seconds that a call may take; 0 derives it from the cost of one row."""
        self.largest = largest
        self._seconds: dict[int, float] = {}
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
        self._seconds[size] = scaled if known is None else known + _MEMORY * (scaled - known)
        if known is None or abs(scaled - known) > 0.05 * known:
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
        limit, pays = (min(self.limit(), INLINE_CALL), _NEUTRAL) if self.inline else (self.limit(), _PAYS)
        best, best_row, why = 1, self._seconds.get(1, 0.0), "cost"
        for size in sorted(self._seconds):
            if size == 1:
                continue
            if self._seconds[size] > limit:
                why = "objective"
                break
            row = self._seconds[size] / size
            if row > pays * best_row and best_row:
                why = "cost"
                break
            best, best_row, why = size, min(row, best_row or row), "size"
        self.cap, self.capped_by = min(best, self.largest), why

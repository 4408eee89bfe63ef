"""What a source said last: one that cannot be read for a moment takes nothing away."""

from collections.abc import Callable
from time import monotonic

import structlog

from rung.domain.models import AspiredVersion
from rung.domain.releases import Release
from rung.ports import Source

__all__ = ["Feed"]

_log = structlog.get_logger("rung.serving")


class Feed:
    """A source with a memory.

    Guarantees:
        1. After it has been read once, an error keeps what it said before; each new reason is logged once.
        2. "Nothing at all" after something is believed when it has been said for `grace` seconds: a
           folder that is moved away and back, or a file replaced by delete and copy, unloads nothing.
    """

    def __init__(self, source: Source, grace: float, clock: Callable[[], float] = monotonic) -> None:
        self.source = source
        self._grace = grace
        self._clock = clock
        self._said: list[AspiredVersion] | None = None
        self._empty_since: float | None = None
        self._trouble = ""
        self._released: list[Release] | None = None
        self._unreleased = ""
        """Why the releases cannot be read."""

    def look(self) -> tuple[list[AspiredVersion], list[Release]]:
        """`read` and `releases` in one go, in this order: a source knows releases of what it has read. Blocks."""
        return self.read(), self.releases()

    def read(self) -> list[AspiredVersion]:
        """The whole list of versions. Blocks. Raises what the source raises while it was never read."""
        try:
            found = self.source.poll()
        except Exception as error:  # whatever a store raises, what is loaded stays
            if self._said is None:
                raise
            if str(error) != self._trouble:
                self._trouble = str(error)
                _log.warning(
                    "the repository cannot be read; what is loaded stays", action="poll_failed", reason=self._trouble
                )
            return self._said
        self._trouble = ""
        now = self._clock()
        if found or not self._said:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
            _log.warning("the repository is empty; what is loaded stays for now", action="poll_empty")
        if self._empty_since is None or now - self._empty_since >= self._grace:
            self._said, self._empty_since = found, None
        return self._said or []

    def releases(self) -> list[Release]:
        """The last known release of each of the source's models. Blocks. What cannot be read stays as it was.

        Raises what the source raises while it was never read: what nobody released must not answer.
        """
        try:
            self._released = self.source.releases()
        except Exception as error:  # a ledger that cannot be read moves nobody
            if self._released is None:
                raise
            if str(error) != self._unreleased:
                self._unreleased = str(error)
                _log.warning(
                    "the releases cannot be read; the last known stay", action="poll_failed", reason=self._unreleased
                )
            return self._released
        self._unreleased = ""
        return self._released

"""What waits for a model: by priority, then by age, grouped by what may share a call."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from rung.domain.predictions import LOWEST
from rung.serving.ticket import Ticket

__all__ = ["RequestQueue", "urgency"]


class RequestQueue:
    """Tickets in order of service. `take` gives a group of equal keys, oldest of the most urgent first.

    A dropped ticket stays where it is, unless it is the first of its group, and is left out when its turn comes.
    """

    def __init__(self) -> None:
        self.rows = 0
        """Rows of all tickets that wait."""
        self._groups: dict[tuple[float, Any], deque[tuple[int, Ticket]]] = {}
        self._level_rows: dict[float, int] = {}
        self._coming: dict[float, int] = {}
        self._count = 0
        self._serial = 0

    def __len__(self) -> int:
        return self._count

    @property
    def lowest(self) -> int:
        """Rows of those that wait until nobody else asks."""
        return self._level_rows.get(LOWEST, 0)

    def push(self, ticket: Ticket) -> None:
        """Add a ticket at the end of its level."""
        request = ticket.request
        level = urgency(request.priority)
        group = self._groups.get((level, ticket.key))
        if group is None:
            group = self._groups[level, ticket.key] = deque()
        ticket.queued = True
        self._serial += 1
        group.append((self._serial, ticket))
        self._count += 1
        self.rows += request.rows
        self._level_rows[level] = self._level_rows.get(level, 0) + request.rows

    def take(self, rows: int) -> list[Ticket]:
        """Remove and return the group whose turn it is: at least one ticket, at most `rows` rows if more than one."""
        groups = self._groups
        while groups:
            first = next(iter(groups)) if len(groups) == 1 else min(groups, key=lambda at: (at[0], groups[at][0][0]))
            taken: list[Ticket] = []
            used = self._draw(first, rows, taken)
            if taken and len(groups) and used < rows and first[0] < LOWEST:
                # Room left: the same kind of work from less urgent levels rides along.
                # Not what waits until nobody asks: it would make this call longer for those who do.
                for at in sorted((at for at in groups if at[1] == first[1] and at[0] < LOWEST), key=lambda at: at[0]):
                    used += self._draw(at, rows - used, taken, fill=True)
            if taken:
                return taken
        return []

    def _draw(self, at: tuple[float, Any], room: int, taken: list[Ticket], *, fill: bool = False) -> int:
        group = self._groups[at]
        used = 0
        while group:
            ticket = group[0][1]
            need = ticket.request.rows
            if ticket.queued and (taken or fill) and used + need > room:
                break
            group.popleft()
            if not ticket.queued:
                continue
            ticket.queued = False
            self._count -= 1
            self.rows -= need
            self._level_rows[at[0]] -= need
            used += need
            taken.append(ticket)
        if not group:
            del self._groups[at]
        return used

    def drop(self, ticket: Ticket) -> None:
        """A ticket that still waits is not wanted any more."""
        if not ticket.queued:
            return
        level = urgency(ticket.request.priority)
        ticket.queued = False
        self._count -= 1
        self.rows -= ticket.request.rows
        self._level_rows[level] -= ticket.request.rows
        # A group is as old as its first: that must be one who waits.
        group = self._groups[level, ticket.key]
        while group and not group[0][1].queued:
            group.popleft()
        if not group:
            del self._groups[level, ticket.key]

    def expect(self, priority: int, rows: int) -> None:
        """So many rows of this priority are on their way here, or, where negative, are no longer."""
        level = urgency(priority)
        self._coming[level] = self._coming.get(level, 0) + rows

    def rows_before(self, priority: int) -> int:
        """Rows that would be served before a new request of this priority: those that wait, and those on their way."""
        level = urgency(priority)
        return sum(rows for some in (self._level_rows, self._coming) for at, rows in some.items() if at <= level)

    def clear(self) -> Iterator[Ticket]:
        """Remove everything and give what was not settled."""
        groups, self._groups = self._groups, {}
        self.rows = self._count = 0
        self._level_rows.clear()
        for group in groups.values():
            for _, ticket in group:
                if ticket.queued:
                    ticket.queued = False
                    yield ticket


def urgency(priority: int) -> float:
    """Order of service: 1 first; 0, the default, after 4 and before 5."""
    return float(priority) if priority else 4.5

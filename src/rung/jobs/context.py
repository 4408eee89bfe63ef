"""What a handler is given: the job, and a way to speak about it while it runs."""

from collections.abc import Callable, Mapping
from typing import Any

from rung.domain.jobs import Job

__all__ = ["JobContext"]


class JobContext:
    """One try at one job, as its handler sees it.

    The handler returns plain JSON values, which become the job's result. It may run more than once: its lease can
    run out, its process can die after the work was done. What it writes elsewhere has to bear that, or be fenced by
    `job.token`, which grows with each try; what it writes by `effect` happens once.
    """

    def __init__(
        self,
        job: Job,
        *,
        report: Callable[[float, str], None],
        stopped: Callable[[], bool],
        parents: Callable[[], Mapping[int, Any]],
        effect: Callable[[Callable[[Any], None]], None],
    ) -> None:
        self.job = job
        self._report = report
        self._stopped = stopped
        self._parents = parents
        self._effect = effect

    @property
    def arguments(self) -> Any:
        """As submitted."""
        return self.job.arguments

    def progress(self, fraction: float, note: str = "") -> None:
        """Say how far it is, from 0 to 1, and in words. As often as you like: it is written once a second."""
        self._report(fraction, note)

    def should_stop(self) -> bool:
        """Whether to end soon: the job was cancelled, ran out of time or lost its lease, or the worker is ending.

        A handler that can go on later saves what it has and raises `Cancelled`: the job is handed back, and the try
        does not count. One that nearly is done simply finishes.
        """
        return self._stopped()

    def parents(self) -> Mapping[int, Any]:
        """Id -> result of the jobs that this one waited for."""
        return self._parents()

    def effect(self, write: Callable[[Any], None]) -> None:
        """Call `write(connection)` in the transaction that ends the job: it happens if and only if the result counts.

        The connection is SQLAlchemy's, to the database of the job table. Not in a child process.
        """
        self._effect(write)

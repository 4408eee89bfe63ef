"""Who does which kind of job: the table of the workers."""

from rung.domain.jobs import Handler

__all__ = ["HANDLERS", "SUBMITTED"]

HANDLERS: dict[str, Handler] = {}
"""Kind of a job -> the function that does it."""

SUBMITTED: tuple[str, ...] = ()
"""Kinds that may be submitted by request; the others are the platform's own."""

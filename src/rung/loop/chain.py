"""A retraining as a chain of jobs, one for each step."""

from collections.abc import Sequence

from sqlalchemy import Connection

from rung.domain.jobs import NewJob
from rung.domain.retraining import STEPS, Decision, Retraining
from rung.jobs.queue import JobStore
from rung.jobs.submission import add
from rung.loop import requests
from rung.ports import BlobStore

__all__ = ["KINDS", "follow", "start"]

KINDS = {f"retrain.{step}": step for step in STEPS}
"""Kind of a job -> the step that it does."""
_TRIES = {"release": 100}
"""A candidate that is on its way keeps the next one waiting, for as long as its ladder takes."""


def start(jobs: JobStore, retraining: Retraining, longest: float) -> list[int]:
    """Submit the chain, whole or not at all; ids of its jobs, in the order of the steps. Again, it is the same one.

    Args:
        jobs: the job table.
        retraining: what was asked for.
        longest: seconds that one try of a step may take; one that hangs is ended, and tried again.
    """

    def submit(connection: Connection) -> list[int]:
        ids: list[int] = []
        for kind, step in KINDS.items():
            job = NewJob(
                kind=kind,
                arguments={"model": retraining.model, "number": retraining.number},
                # Behind the chain before, whose candidate this one is compared with.
                key=f"retrain:{retraining.model}",
                idempotency_key=f"{retraining.model}/{retraining.number}",
                after=(ids[-1],) if ids else (),
                max_attempts=_TRIES.get(step, 5),
                backoff=2.0,
                timeout=longest,
            )
            ids += add(connection, [job], jobs.now(connection))
        return ids

    return jobs.database.write(submit)


def follow(jobs: JobStore, store: BlobStore, retraining: Retraining, ids: Sequence[int], now: float) -> Retraining:
    """A retraining that is not over, by its jobs: one whose job is dead or was cancelled ends with that."""
    for id in ids:
        job = jobs.get(id)
        if job.state in ("dead", "cancelled"):
            step = KINDS[job.kind]
            decision = Decision("fail", f"job {id} is {job.state}: {job.error}", now)
            kept = requests.decide(store, retraining.model, retraining.number, step, decision)
            decisions = {**retraining.decisions, step: kept}
            return Retraining(retraining.model, retraining.number, retraining.request, decisions)
    return retraining

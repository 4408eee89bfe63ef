"""Body of `rung mapreduce`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rung.cli.printing import print_json
from rung.offline.mapreduce import run as jobs
from rung.offline.mapreduce.plan import Plan
from rung.serving.lanes import cores
from rung.telemetry import configure_logs

__all__ = ["run"]


def run(plan: Plan, processes: int, *, resume: bool, as_json: bool) -> None:
    """Do it with so many processes of this machine (0: one a core); raises as `rung.offline.mapreduce.run.run` does."""
    configure_logs(level="warning")
    with _shown(quiet=as_json) as progress:
        found = jobs.run(plan, processes=processes or cores(), resume=resume, progress=progress)
    if as_json:
        print_json(found)
        return
    refused = f" ({found.refused:,} refused)" if found.refused else ""
    print(f"{found.read:,} rows{refused} in {found.chunks:,} chunks -> {found.pairs:,} pairs -> {found.keys:,} keys")
    print(f"written: {found.out}, {found.rows:,} rows ({found.seconds:.1f} s)")


@contextmanager
def _shown(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    if quiet or not sys.stderr.isatty():
        yield lambda _done, _of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("jobs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("jobs", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)

"""`rung jobs list|show|cancel|retry`, and of what models are asked later, `asked|answers|replay`."""

from typing import Annotated

import typer

__all__ = ["add"]

Database = Annotated[
    str,
    typer.Option(
        "--database", "-d", help="URL of the job table's database.  [store in rung.toml, else sqlite:.rung/rung.db]"
    ),
]
Id = Annotated[int, typer.Argument(metavar="ID", help="Number of the job.")]
Ids = Annotated[list[int], typer.Argument(metavar="ID...", help="Numbers of jobs.")]
Request = Annotated[str, typer.Argument(metavar="REQUEST", help="Id of the request.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    jobs = typer.Typer(help="List, inspect, cancel and retry jobs.", no_args_is_help=True)
    for name, command in (
        ("list", list_jobs),
        ("show", show),
        ("cancel", cancel),
        ("retry", retry),
        ("asked", asked),
        ("answers", answers),
        ("replay", replay),
    ):
        jobs.command(name)(command)
    app.add_typer(jobs, name="jobs")


def list_jobs(
    state: Annotated[
        str, typer.Option(help="Only waiting, scheduled, ready, leased, done, dead or cancelled ones.")
    ] = "",
    kind: Annotated[str, typer.Option(help="Only jobs of this kind.")] = "",
    owner: Annotated[str, typer.Option(help="Only jobs of this owner.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to list.")] = 20,
    before: Annotated[int, typer.Option(min=0, help="Only jobs with lower numbers: the next page.")] = 0,
    database: Database = "",
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first, under a count of all."""
    from rung.cli import jobs as bodies

    bodies.list_jobs(database, bodies.Which(state, kind, owner, before, limit), as_json=as_json)


def show(job: Id, database: Database = "", as_json: AsJson = False) -> None:
    """Show one job: arguments, tries, result, and why it failed or waits."""
    from rung.cli import jobs as bodies

    bodies.show(database, job, as_json=as_json)


def cancel(
    jobs: Ids,
    because: Annotated[str, typer.Option("--because", help="Why; kept with the job.")] = "cancelled by hand",
    database: Database = "",
) -> None:
    """Cancel jobs, and all that waits for them; one that runs is told to stop."""
    from rung.cli import jobs as bodies

    bodies.cancel(database, jobs, because)


def retry(jobs: Ids, database: Database = "") -> None:
    """Start dead or cancelled jobs anew, and what was cancelled because of them."""
    from rung.cli import jobs as bodies

    bodies.retry(database, jobs)


def asked(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="Only requests of this model.")] = "",
    dead: Annotated[bool, typer.Option("--dead", help="Only requests with items whose tries are used up.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most requests to list.")] = 20,
    database: Database = "",
    as_json: AsJson = False,
) -> None:
    """List what models are asked later, newest first."""
    from rung.cli import asked as bodies

    bodies.list_requests(database, model, dead=dead, limit=limit, as_json=as_json)


def answers(
    request: Request,
    after: Annotated[int, typer.Option(min=-1, help="Only items after this place: the next page.")] = -1,
    limit: Annotated[int, typer.Option(min=1, help="Most items to show.")] = 1000,
    database: Database = "",
    as_json: AsJson = False,
) -> None:
    """Show what became of the items of a request: answers, and why there is none."""
    from rung.cli import asked as bodies

    bodies.answers(database, request, after=after, limit=limit, as_json=as_json)


def replay(
    request: Request,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", help="Items that ended so: dead, failed, expired or cancelled.  [dead]"),
    ] = None,
    database: Database = "",
) -> None:
    """Ask anew for items that ended without an answer, with all their tries."""
    from rung.cli import asked as bodies

    bodies.replay(database, request, state or ["dead"])

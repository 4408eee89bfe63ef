"""`rung doctor`: what is measured, and what follows from it."""

from pathlib import Path

import typer

from rung.cli.printing import print_json, print_table
from rung.fleet.doctor import findings, worst
from rung.fleet.examination import examine
from rung.settings.file import project_here

__all__ = ["doctor"]


def doctor(seconds: float, *, start: bool, as_json: bool) -> None:
    """Print the findings; exit code 1 where one is a problem.

    Raises:
        ConfigurationError: the project file is wrong.
    """
    figures = examine(Path(), project_here(), seconds, start=start)
    found = findings(figures)
    if as_json:
        print_json({"worst": worst(found), "findings": found, "figures": figures})
    else:
        print_table(("LEVEL", "WHAT", "FIGURE"), [(one.level, one.what, one.figure) for one in found])
        steps = [one for one in found if one.next]
        if steps:
            print()
        for one in steps:
            print(f"{one.what}: {one.next}")
    if worst(found) == "problem":
        raise typer.Exit(1)

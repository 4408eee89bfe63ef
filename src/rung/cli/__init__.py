"""The command line. Commands are declared in `declared`; their bodies import what they need when they run."""

import os
import sys
from typing import Annotated

import typer

from rung import __version__
from rung.cli.auditing import audited
from rung.cli.declared import alerts as _alerts
from rung.cli.declared import compress as _compress
from rung.cli.declared import data as _data
from rung.cli.declared import doctor as _doctor
from rung.cli.declared import drift as _drift
from rung.cli.declared import evaluate as _evaluate
from rung.cli.declared import experiment as _experiment
from rung.cli.declared import init as _init
from rung.cli.declared import jobs as _jobs
from rung.cli.declared import keys as _keys
from rung.cli.declared import log as _log
from rung.cli.declared import mapreduce as _mapreduce
from rung.cli.declared import models as _models
from rung.cli.declared import plan as _plan
from rung.cli.declared import quality as _quality
from rung.cli.declared import releases as _releases
from rung.cli.declared import retrain as _retrain
from rung.cli.declared import runs as _runs
from rung.cli.declared import score as _score
from rung.cli.declared import serving as _serving
from rung.cli.declared import training as _training
from rung.cli.declared import tune as _tune
from rung.cli.declared import up as _up
from rung.domain.errors import ClientError, ConfigurationError, RungError

__all__ = ["app", "main"]

app = typer.Typer(
    name="rung",
    help="Takes a machine-learning model from one user to millions, and keeps it right while it climbs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; errors that rung raises on purpose become one line and an exit code.

    Exit codes: 0 done, 1 failed, 2 wrong usage or setting, 130 interrupted.
    """
    try:
        app(standalone_mode=True)
    except RungError as error:
        print(f"rung: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigurationError | ClientError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of a pipe left; point stdout elsewhere, so that the exit does not fail too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"rung {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options before the command."""


# In the order of a newcomer's first day, which is that of `rung --help`.
for _declared in (
    _serving,
    _models,
    _init,
    _data,
    _training,
    _runs,
    _tune,
    _evaluate,
    _compress,
    _up,
    _plan,
    _releases,
    _experiment,
    _retrain,
    _score,
    _mapreduce,
    _log,
    _drift,
    _quality,
    _jobs,
    _alerts,
    _keys,
    _doctor,
):
    _declared.add(app)
audited(app)


if __name__ == "__main__":
    main()

"""The command line. Commands are declared here; their bodies import what they need when they run."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rung import __version__
from rung.cli.declared import experiment as _experiment
from rung.cli.declared import jobs as _jobs
from rung.cli.declared import log as _log
from rung.cli.declared import releases as _releases
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
models = typer.Typer(help="Register, list, inspect and delete model versions.", no_args_is_help=True)
app.add_typer(models, name="models")

Repository = Annotated[
    str, typer.Option("--repository", "-r", envvar="RUNG_REPOSITORY", help="Folder or s3:// URL of the repository.")
]
Name = Annotated[str, typer.Argument(help="Name of the model.")]
Version = Annotated[int | None, typer.Argument(help="Number of the version.  [the latest]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


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


@app.command()
def serve(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="PATH...", help="Model files, bundles, repository folders or URLs, or module:Class."),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 lets the kernel choose.  [8000]")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model, for a single file or class.")] = None,
    objective_ms: Annotated[float | None, typer.Option(help="Latency to hold, in milliseconds.")] = None,
    keep: Annotated[str | None, typer.Option(help="Versions to serve: latest or all.  [latest]")] = None,
    versions: Annotated[int | None, typer.Option(help="How many of the latest versions to keep.  [1]")] = None,
    pin: Annotated[list[int] | None, typer.Option(help="Serve exactly this version; may be repeated.")] = None,
    swap: Annotated[
        str | None, typer.Option(help="availability loads the new version first, resources frees the old one first.")
    ] = None,
    coalesce: Annotated[
        bool | None, typer.Option("--coalesce", help="Compute equal requests in flight once; for deterministic models.")
    ] = None,
    cache: Annotated[
        str | None, typer.Option(help="Keep answers: 64MiB, redis://HOST:PORT/0 or both; for deterministic models.")
    ] = None,
    log: Annotated[
        str | None, typer.Option(help="Folder for the prediction log; gives answers an id and takes feedback.")
    ] = None,
    lanes: Annotated[int | None, typer.Option(help="Model calls at once.  [one per core]")] = None,
    threads: Annotated[int | None, typer.Option(help="Cores that a lone call may use.  [all]")] = None,
    server_name: Annotated[str | None, typer.Option(help="Name in server metadata: rung or triton.")] = None,
    access_log: Annotated[bool | None, typer.Option("--access-log", help="Write one line per request.")] = None,
    as_json: AsJson = False,
) -> None:
    """Serve models over HTTP until interrupted."""
    from rung.cli.serve import serve as run

    flags: dict[str, Any] = {
        "host": host,
        "port": port,
        "objective_ms": objective_ms,
        "keep": keep,
        "versions": versions,
        "pin": tuple(pin) if pin else None,
        "swap": swap,
        "coalesce": coalesce,
        "cache": cache,
        "log": log,
        "lanes": lanes,
        "threads": threads,
        "server_name": server_name,
        "access_log": access_log,
    }
    run(targets or [], name, flags, as_json=as_json)


@app.command()
def predict(
    target: Annotated[str, typer.Argument(help="A model (file, bundle, repository/NAME) or the URL of a served one.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Images, JSON or raw tensors.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the answers; without it they go to the screen.")] = None,
    accept: Annotated[str | None, typer.Option(help="Media type or view wanted: mask, overlay, json, raw.")] = None,
) -> None:
    """Answer files with a model, here or over HTTP."""
    from rung.cli.predict import predict as run

    run(target, inputs, out, accept)


@models.command("register")
def register(
    artifact: Annotated[str, typer.Argument(help="A model file, or module:Class.")],
    name: Annotated[str | None, typer.Option(help="Name of the model.  [from the file]")] = None,
    repository: Repository = ".rung/repository",
    task: Annotated[str, typer.Option(help="classification, detection, ...: picks the output step.")] = "",
    labels: Annotated[str, typer.Option(help="Names of the classes, separated by commas.")] = "",
    transforms: Annotated[Path | None, typer.Option(help="JSON file with input and output steps.")] = None,
    description: Annotated[str, typer.Option(help="One line for people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Make a new version out of a model file."""
    from rung.cli.models import register as run

    run(artifact, name, repository, task, labels, transforms, description, as_json=as_json)


@models.command("import")
def import_models(
    source: Annotated[
        str,
        typer.Argument(
            help="A TF Serving configuration, a Triton repository, an MLflow folder or models:/NAME@ALIAS, or a .mar."
        ),
    ],
    repository: Repository = ".rung/repository",
    name: Annotated[str | None, typer.Option(help="Name of the model, where there is one.  [the peer's]")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Take a .mar's model without its handler's code.")] = False,
    as_json: AsJson = False,
) -> None:
    """Register another server's models, and say what could not be carried over."""
    from rung.cli.import_models import run

    run(source, repository, name, trust=trust, as_json=as_json)


@models.command("list")
def list_models(repository: Repository = ".rung/repository", as_json: AsJson = False) -> None:
    """List models and their versions."""
    from rung.cli.models import list_models as run

    run(repository, as_json=as_json)


@models.command("show")
def show(
    name: Name,
    version: Version = None,
    repository: Repository = ".rung/repository",
    as_json: AsJson = False,
) -> None:
    """Show one version: signature, transforms, files, lineage."""
    from rung.cli.models import show as run

    run(name, version, repository, as_json=as_json)


@models.command("verify")
def verify(
    name: Name,
    version: Version = None,
    repository: Repository = ".rung/repository",
    as_json: AsJson = False,
) -> None:
    """Check a version's bytes, load it and compare its golden answers."""
    from rung.cli.models import verify as run

    run(name, version, repository, as_json=as_json)


@models.command("delete")
def delete(
    name: Name,
    version: Annotated[int, typer.Argument(help="Number of the version.")],
    repository: Repository = ".rung/repository",
    force: Annotated[bool, typer.Option("--force", help="Also the last version of a model.")] = False,
) -> None:
    """Delete one version."""
    from rung.cli.models import delete as run

    run(name, version, repository, force=force)


_experiment.add(app)
_jobs.add(app)
_log.add(app)
_releases.add(app)
_up.add(app)


if __name__ == "__main__":
    main()

"""`rung serve` and `rung predict`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rung.cli.declared.options import AsJson

__all__ = ["add"]


def add(app: typer.Typer) -> None:
    """Declare the commands."""
    app.command()(serve)
    app.command()(predict)


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
    tls_certificate: Annotated[
        str | None, typer.Option(metavar="FILE", help="PEM file of a certificate: the connection is encrypted.")
    ] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="PEM file of its key.  [the same file]")] = None,
    require_key: Annotated[
        bool | None, typer.Option("--require-key", help="Ask callers for a key also before there is one.")
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
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "require_key": require_key,
        "lanes": lanes,
        "threads": threads,
        "server_name": server_name,
        "access_log": access_log,
    }
    run(targets or [], name, flags, as_json=as_json)


def predict(
    target: Annotated[str, typer.Argument(help="A model (file, bundle, repository/NAME) or the URL of a served one.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Images, JSON or raw tensors.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the answers; without it they go to the screen.")] = None,
    accept: Annotated[str | None, typer.Option(help="Media type or view wanted: mask, overlay, json, raw.")] = None,
) -> None:
    """Answer files with a model, here or over HTTP."""
    from rung.cli.predict import predict as run

    run(target, inputs, out, accept)

"""`rung serve`: open the sources, run a replica, say where it answers."""

import sys
from pathlib import Path
from typing import Any

import orjson
import typer

from rung import settings as configuration
from rung.app.replica import Replica, run
from rung.catalog.source import artifact_in, open_source
from rung.domain.errors import ConfigurationError
from rung.domain.tensors import TensorSpec
from rung.protocols.describe import curl_example
from rung.telemetry import configure_logs, say

__all__ = ["serve"]

_CACHE = Path(".rung/cache")


def serve(targets: list[str], name: str | None, flags: dict[str, Any], *, as_json: bool) -> None:
    """Serve until interrupted.

    Raises:
        ConfigurationError: a flag, a variable or a target is wrong.
        BadParameter: nothing is named to serve.
        OperatorError: no model could be loaded.
    """
    platform = configuration.platform()
    given = {key: value for key, value in flags.items() if value is not None}
    settings = configuration.load((platform.settings if platform else {}) | given)
    if not targets and platform is not None:
        targets = [artifact_in(target) for target in platform.targets]
    if not targets and not settings.model_store:
        raise typer.BadParameter(
            "there is nothing to serve: give a model file, a folder, a URL or module:Class; "
            "SageMaker's and Vertex AI's variables are read where they are set"
        )
    if name is not None and len(targets) > 1:
        raise ConfigurationError("--name goes with a single model; give each model its own folder instead")
    configure_logs(settings.log_format, "info" if settings.access_log or not sys.stderr.isatty() else "warning")
    sources = [open_source(target, name, _CACHE) for target in targets]

    def announce(replica: Replica) -> None:
        # Flushed, since whoever started this may be reading through a pipe.
        say(sys.stdout, _as_json(replica) if as_json else _for_people(replica))

    run(sources, settings, announce)


def _as_json(replica: Replica) -> str:
    served = replica.manager.servables()
    models = [{"name": s.manifest.name, "version": s.manifest.version, "digest": s.digest} for s in served]
    return orjson.dumps({"url": replica.url, "models": models}).decode()


def _for_people(replica: Replica) -> str:
    lines = [f"rung serves at {replica.url}"]
    for servable in replica.manager.servables():
        manifest = servable.manifest
        lines.append(f"\n  {manifest.name} version {manifest.version}  ({servable.platform})")
        lines += [f"    in   {_tensor(spec)}" for spec in manifest.signature.inputs]
        lines += [f"    out  {_tensor(spec)}" for spec in manifest.signature.outputs]
        lines.append(f"    try  {curl_example(manifest, f'{replica.url}/predict/{manifest.name}')}")
    problems = replica.manager.problems()
    lines += [f"\n  not served: {problem}" for problem in problems]
    return "\n".join(lines)


def _tensor(spec: TensorSpec) -> str:
    shape = " x ".join("N" if size == -1 else str(size) for size in spec.shape)
    return f"{spec.name}  {spec.datatype}  [{shape}]"

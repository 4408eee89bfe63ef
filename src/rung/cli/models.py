"""`rung models`: the catalog's functions, with their results written for people or programs."""

from pathlib import Path

import msgspec
import orjson

from rung.catalog import models as catalog
from rung.catalog.exports import export_mlflow
from rung.catalog.graphs import read_graph, register_graph
from rung.cli.printing import print_json, print_table
from rung.domain.errors import ConfigurationError, InvalidInput, OperatorError
from rung.domain.models import Manifest, Transforms
from rung.domain.names import name_from
from rung.domain.tensors import TensorSpec
from rung.store.blobs import open_store
from rung.telemetry import configure_logs

__all__ = ["delete", "export", "list_models", "register", "show", "verify"]

_WIDEST = 400


def register(
    artifact: str,
    name: str | None,
    repository: str,
    task: str,
    labels: str,
    transforms: Path | None,
    description: str,
    *,
    as_json: bool,
) -> None:
    """Publish a model file as the next version."""
    configure_logs()
    path = Path(artifact)
    if not path.exists() and ":" in artifact:
        raise InvalidInput(
            f"{artifact} is code and a repository holds model files only; serve a class with `rung serve {artifact}`"
        )
    steps = _read_transforms(transforms)
    declared = catalog.Declared(
        task=task,
        labels=tuple(label.strip() for label in labels.split(",") if label.strip()),
        transforms=steps,
        description=description,
    )
    store, chosen = open_store(repository), name or name_from(path.stem)
    graph = read_graph(path)
    if graph is not None:
        manifest = register_graph(store, graph, name=chosen, **declared)
    else:
        manifest = catalog.register(store, path, name=chosen, **declared)
    if as_json:
        print_json(manifest)
    else:
        print(f"registered {manifest.name} version {manifest.version} in {repository}")
        if not steps.output:
            _print_chosen(manifest)


def _print_chosen(manifest: Manifest) -> None:
    for step in manifest.transforms.output:
        print(f"  {manifest.task}: its answers go through {step.name} {orjson.dumps(step.params).decode()}")
    if manifest.task and not manifest.transforms.output:
        print(f"  no output step fits the task {manifest.task!r} and these outputs: answers are plain tensors")


def _read_transforms(path: Path | None) -> Transforms:
    if path is None:
        return Transforms()
    try:
        return msgspec.json.decode(path.read_bytes(), type=Transforms)
    except OSError as error:
        raise ConfigurationError(f"--transforms {path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigurationError(
            f'--transforms {path} is not {{"input": [{{"name", "params"}}, ...], "output": [...]}}: {error}'
        ) from None


def export(name: str, version: int | None, folder: Path, repository: str, *, as_json: bool) -> None:
    """Write an MLflow model."""
    written = export_mlflow(open_store(repository), name, version, folder)
    if as_json:
        print_json(written)
        return
    print(f"exported {written.name} version {written.version} to {written.folder} (MLflow, {written.flavor})")
    for left in written.left:
        print(f"not carried over: {left.what}: {left.reason}")


def list_models(repository: str, *, as_json: bool) -> None:
    """One line per version."""
    entries = catalog.list_models(open_store(repository))
    if as_json:
        print_json(
            [
                {
                    "name": entry.name,
                    "version": entry.version,
                    "digest": entry.digest,
                    "size": entry.size,
                    "task": entry.manifest.task if entry.manifest else "",
                    "runtime": entry.manifest.runtime if entry.manifest else "",
                    "created": entry.manifest.created if entry.manifest else "",
                    "problem": entry.problem,
                }
                for entry in entries
            ]
        )
        return
    if not entries:
        print(f"no models in {repository}; add one with `rung models register FILE --repository {repository}`")
        return
    rows = [
        (
            entry.name,
            str(entry.version),
            entry.manifest.runtime if entry.manifest else "-",
            (entry.manifest.task or "-") if entry.manifest else "-",
            f"{entry.size:,}",
            (entry.manifest.created or "-")[:19] if entry.manifest else "-",
            entry.problem or entry.digest[:12] or "no manifest",
        )
        for entry in entries
    ]
    print_table(("NAME", "VERSION", "RUNTIME", "TASK", "BYTES", "CREATED", "DIGEST"), rows)


def show(name: str, version: int | None, repository: str, *, as_json: bool) -> None:
    """All that is known of one version."""
    manifest = catalog.show(open_store(repository), name, version)
    if as_json:
        print_json(manifest)
        return
    lines = [f"{manifest.name} version {manifest.version}"]
    facts = {
        "description": manifest.description,
        "task": manifest.task,
        "runtime": f"{manifest.runtime}  {manifest.artifact}",
        "created": manifest.created,
        "source": manifest.lineage.source,
        "labels": ", ".join(manifest.labels),
        "metrics": ", ".join(f"{key} {value:.4g}" for key, value in manifest.metrics.items()),
        "golden": f"{manifest.golden.count} examples" if manifest.golden else "none",
    }
    lines += [f"  {key:<12}{value}" for key, value in facts.items() if value]
    lines += _specs("in", manifest.signature.inputs) + _specs("out", manifest.signature.outputs)
    for side, steps in (("before", manifest.transforms.input), ("after", manifest.transforms.output)):
        lines += [f"  {side:<12}{step.name} {_shortened(orjson.dumps(step.params).decode())}" for step in steps]
    lines += [f"  {'file':<12}{file}  {digest.size:,} bytes" for file, digest in sorted(manifest.files.items())]
    print("\n".join(lines))


def _shortened(text: str) -> str:
    # A vocabulary may be a parameter.
    return text if len(text) <= _WIDEST else f"{text[:_WIDEST]}... ({len(text):,} characters)"


def _specs(side: str, specs: tuple[TensorSpec, ...]) -> list[str]:
    return [f"  {side:<12}{spec.name}  {spec.datatype}  {list(spec.shape)}" for spec in specs]


def verify(name: str, version: int | None, repository: str, *, as_json: bool) -> None:
    """Check bytes and answers.

    Raises:
        OperatorError: the version may not be served.
    """
    configure_logs(level="warning")
    found = catalog.verify(open_store(repository), name, version)
    if as_json:
        print_json(found)
    if not found.ok:
        raise OperatorError(f"{found.name} version {found.version} may not be served: {found.problem}")
    if not as_json:
        print(
            f"{found.name} version {found.version} is sound: {found.files} files, {found.size:,} bytes, "
            f"{found.examples} golden examples answered as at registration"
        )


def delete(name: str, version: int, repository: str, *, force: bool) -> None:
    """Withdraw one version."""
    catalog.delete(open_store(repository), name, version, force=force)
    print(f"deleted {name} version {version}")

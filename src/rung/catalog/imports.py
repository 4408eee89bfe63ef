"""Bring another server's models into the repository: tell whose they are, read them, register what can be served."""

import tempfile
from contextlib import suppress
from pathlib import Path

import msgspec

from rung.catalog import graphs, models
from rung.catalog.importers.mlflow import is_mlflow_folder, is_mlflow_url, plan_mlflow, plan_mlflow_url
from rung.catalog.importers.plan import Found, Left, Plan
from rung.catalog.importers.tfserving import is_model_config, plan_tf_serving
from rung.catalog.importers.torchserve import is_mar, plan_mar
from rung.catalog.importers.triton import is_triton_repository, plan_triton
from rung.domain.errors import ConfigurationError, Conflict, InvalidInput, NotFound, OperatorError
from rung.domain.models import Graph, Lineage, Manifest
from rung.ports import BlobStore

__all__ = ["Imported", "Report", "import_models"]


class Imported(msgspec.Struct, frozen=True):
    """One version that is in the repository now."""

    name: str
    version: int
    runtime: str
    source: str
    """Where it came from."""


class Report(msgspec.Struct):
    """What an import did."""

    kind: str
    """What the source was taken for."""
    imported: list[Imported] = []
    left: list[Left] = []


def import_models(store: BlobStore, source: str, *, name: str = "", trust: bool = False) -> Report:
    """Register every model of `source` that can be served, and say what of it could not be carried over.

    `source` is a TF Serving configuration file, a Triton repository, an MLflow model folder or registry URL
    (`models:/name@alias`), or a TorchServe `.mar`. `name` renames a single model; `trust` takes a `.mar`'s model
    without the code of its handler. One model that cannot be served does not stop the others.

    Raises:
        ConfigurationError: the source is none of these, or cannot be read; `name` is given for several models.
        NotFound: an MLflow registry has no such version.
        MissingDependency: reading the source needs an extra.
    """
    with tempfile.TemporaryDirectory(prefix="rung-import-") as scratch:
        plan = _plan(source, Path(scratch), trust=trust)
        report = Report(plan.kind, left=plan.left)
        if name and len({found.name for found in plan.found}) > 1:
            raise ConfigurationError(f"--name goes with a single model, and {source} holds several")
        for found in _in_order(plan.found):
            _register(store, msgspec.structs.replace(found, name=name or found.name), report)
    return report


def _plan(source: str, scratch: Path, *, trust: bool) -> Plan:
    if is_mlflow_url(source):
        return plan_mlflow_url(source, scratch)
    path = Path(source)
    if not path.exists():
        raise ConfigurationError(f"there is no file or folder {source!r}")
    if is_mlflow_folder(path):
        return plan_mlflow(path)
    if is_triton_repository(path):
        return plan_triton(path)
    if is_mar(path):
        return plan_mar(path, scratch, trust=trust)
    if is_model_config(path):
        return plan_tf_serving(path)
    raise ConfigurationError(
        f"{source} is nothing that can be imported: expected a TF Serving configuration (model_config_list), a Triton "
        "repository (config.pbtxt), an MLflow model (MLmodel, or models:/NAME@ALIAS) or a TorchServe archive (.mar). "
        "A single model file is registered with `rung models register`"
    )


def _in_order(found: list[Found]) -> list[Found]:
    """What others are made of comes before them; those that wait for each other in a circle come last."""
    ordered, pending = [], list(found)
    while pending:
        names = {one.name for one in pending}
        ready = [one for one in pending if not one.graph or not names & {node.model for node in one.graph.nodes}]
        ordered += ready or pending
        pending = [one for one in pending if one not in ready] if ready else []
    return ordered


def _register(store: BlobStore, found: Found, report: Report) -> None:
    declared: models.Declared = {
        "version": found.version,
        "task": found.task,
        "labels": found.labels,
        "lineage": Lineage(source=found.source),
    }
    try:
        if found.graph is not None:
            graph = _closed(store, found.graph)
            manifest = graphs.register_graph(store, graph, name=found.name, **declared)
        else:
            manifest = models.register(store, found.artifact, name=found.name, **declared)
    except (OperatorError, Conflict, InvalidInput, OSError) as error:
        # Where it was unpacked is nothing to the user.
        reason = str(error).replace(f"{found.artifact.parent}/", "")
        report.left.append(Left(f"{found.name} {found.version or ''}".strip(), reason))
        return
    report.imported.append(Imported(manifest.name, manifest.version, manifest.runtime, found.source))
    report.left.extend(_differences(found, manifest))


def _closed(store: BlobStore, graph: Graph) -> Graph:
    """Keep what a peer's graph does not mention out of the way of what it does: such an output goes nowhere there."""
    nodes = list(graph.nodes)
    for number, node in enumerate(graph.nodes):
        with suppress(NotFound):  # registering says it better
            specs = models.show(store, node.model, node.version).signature.outputs
            unused = {spec.name: f"{number}.{spec.name}" for spec in specs}
            nodes[number] = msgspec.structs.replace(node, outputs=unused | node.outputs)
    return msgspec.structs.replace(graph, nodes=tuple(nodes))


def _differences(found: Found, manifest: Manifest) -> list[Left]:
    """Where the peer's configuration says something else than the artifact, which decides here."""
    left = []
    sides = (
        ("input", found.inputs, manifest.signature.inputs),
        ("output", found.outputs, manifest.signature.outputs),
    )
    for side, stated, specs in sides:
        has = {spec.name: spec.datatype for spec in specs}
        for name, datatype in stated.items():
            if has.get(name) != datatype:
                reason = f"the configuration says {datatype}, the model {has.get(name, 'has no such tensor')}"
                left.append(Left(f"{found.name} {manifest.version}: {side} {name}", reason))
    return left

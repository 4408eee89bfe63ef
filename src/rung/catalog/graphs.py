"""Registering a graph of models: a version without an artifact, made of models in the same repository."""

from pathlib import Path
from typing import Unpack

import msgspec

from rung.catalog import bundles, models
from rung.domain.errors import InvalidInput, NotFound
from rung.domain.graphs import signature_of
from rung.domain.models import Graph, Manifest, Node
from rung.domain.names import check_name
from rung.domain.tensors import Signature
from rung.ports import BlobStore
from rung.transforms.pipeline import Pipeline

__all__ = ["RUNTIME", "read_graph", "register_graph"]

_FILE = "graph.json"
RUNTIME = "graph"
"""What a manifest names as runtime when other models compute."""


def read_graph(path: Path) -> Graph | None:
    """The graph that a JSON file holds; None if the file is something else.

    Raises:
        InvalidInput: it is meant to be a graph, and is not one; the message names the field.
    """
    if path.suffix != ".json" or not path.is_file():
        return None
    data = path.read_bytes()
    try:
        fields = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return None
    if not isinstance(fields, dict) or "nodes" not in fields:
        return None
    try:
        return msgspec.json.decode(data, type=Graph)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"{path.name} is no graph of models: {error}", field="graph") from None


def register_graph(store: BlobStore, graph: Graph, *, name: str, **declared: Unpack[models.Declared]) -> Manifest:
    """Publish a graph as the next version of a model, after proving that its models fit together.

    Raises:
        InvalidInput: a model of it is not in the repository, or does not fit the others; the message says which.
    """
    check_name(name)

    def find(node: Node) -> Signature:
        if node.model == name:
            raise InvalidInput(f"{name} cannot be a step of itself", field="nodes")
        try:
            return models.show(store, node.model, node.version).signature
        except NotFound as error:
            raise InvalidInput(f"a step of the graph is missing: {error}", field="nodes") from None

    manifest = Manifest(
        name=name,
        runtime=RUNTIME,
        signature=signature_of(graph, find),
        artifact=_FILE,
        graph=graph,
        **{"version": 0, **declared},  # type: ignore[arg-type]
    )
    Pipeline.build(manifest)
    return bundles.publish(store, manifest, {_FILE: msgspec.json.encode(graph)})

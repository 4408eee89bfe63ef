"""Models and their versions: what a bundle declares, and the states a version goes through."""

from enum import Enum
from typing import Any, Literal

import msgspec

from rung.domain.tensors import Signature

__all__ = [
    "AspiredVersion",
    "FileDigest",
    "Golden",
    "Graph",
    "Lineage",
    "Manifest",
    "Node",
    "Step",
    "Transforms",
    "VersionState",
    "VersionStatus",
]


class FileDigest(msgspec.Struct, frozen=True):
    """One file of a bundle: what its bytes must be."""

    sha256: str
    size: int


class Step(msgspec.Struct, frozen=True):
    """A transform by name with its parameters: `{"name": "image.resize", "params": {"height": 256}}`."""

    name: str
    params: dict[str, Any] = {}


class Transforms(msgspec.Struct, frozen=True):
    """What runs before and after the artifact: the same steps in training and in serving."""

    input: tuple[Step, ...] = ()
    output: tuple[Step, ...] = ()


class Golden(msgspec.Struct, frozen=True):
    """Example inputs with the answers that this version gave when it was registered.

    `file` is a `.npz` whose entries are named `{example}/in/{tensor}` and `{example}/out/{tensor}`.
    A loaded version must reproduce them within `atol + rtol * |expected|`.
    """

    file: str
    count: int
    rtol: float = 1e-3
    atol: float = 1e-4


class Lineage(msgspec.Struct, frozen=True):
    """Where a version came from."""

    source: str = ""
    """The file, run or import that it was registered from."""
    parent: str = ""
    """Digest of the version that it was derived from, if any."""
    code: str = ""
    """Commit of the training code, with `+` appended when the tree was dirty."""
    data: dict[str, str] = {}
    """Name -> digest of each data set that it was trained on."""
    extra: dict[str, str] = {}


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model in a graph of models."""

    model: str
    version: int | None = None
    """None follows whichever version answers."""
    inputs: dict[str, str] = {}
    """Input of the model -> name of the value that goes in; a name left out is the input's own."""
    outputs: dict[str, str] = {}
    """Output of the model -> name of the value that comes out; a name left out is the output's own."""
    weight: float = 1.0
    """Share in the mean of an ensemble."""
    case: tuple[str, ...] = ()
    """Values of a switch for which this model answers; empty for every other value."""


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Several models that answer as one.

    `sequence`: each model takes the request's inputs and what others made, by name; those that do not
    wait for each other run side by side. `ensemble`: all models take the same inputs, and their
    outputs of equal names are averaged. `switch`: the value of the input `on` picks the model, row by row.
    """

    kind: Literal["sequence", "ensemble", "switch"]
    nodes: tuple[Node, ...]
    on: str = ""
    outputs: tuple[str, ...] = ()
    """Values that leave the graph; empty means those that no model takes."""


class Manifest(msgspec.Struct, frozen=True):
    """All that rung knows about one version of a model. Its sha256 is the version's identity."""

    name: str
    version: int
    runtime: str
    """Key of the runtimes table, such as `onnx` or `python`."""
    signature: Signature
    artifact: str = ""
    """File (or `module:Class`) that the runtime loads."""
    task: str = ""
    """`segmentation`, `classification`, ... or empty when only tensors go in and out."""
    labels: tuple[str, ...] = ()
    transforms: Transforms = Transforms()
    golden: Golden | None = None
    files: dict[str, FileDigest] = {}
    lineage: Lineage = Lineage()
    metrics: dict[str, float] = {}
    profile: str = ""
    """File with the profile of the data that it was trained on, for checks; empty: there is none."""
    graph: Graph | None = None
    """The models behind this one, when it has no artifact of its own."""
    description: str = ""
    created: str = ""
    """RFC 3339, UTC."""
    format: int = 1


class VersionState(Enum):
    """The life of a version in a replica, in order. Values are TF Serving's numbers.

    A version is published as AVAILABLE after it can be called, and leaves that state before the
    last handle on it is dropped, so that nobody who sees AVAILABLE is refused.
    """

    START = 10
    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


class AspiredVersion(msgspec.Struct, frozen=True):
    """A version that a source wants loaded. The whole list is stated each time; omission means unload."""

    name: str
    version: int
    digest: str
    """Identity of the bytes: a changed digest under the same number is a new attempt at loading."""


class VersionStatus(msgspec.Struct, frozen=True):
    """Where one version stands, and why."""

    name: str
    version: int
    state: VersionState
    reason: str = ""
    digest: str = ""

"""The registry: the one set of functions that command line and API call to change or ask about models."""

import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict, Unpack

import msgspec
import numpy as np

from rung.catalog import bundles, ledger
from rung.catalog.artifacts import companions, recognise, refuse_pickle
from rung.catalog.golden import compare_golden, make_inputs, non_finite, pack_golden, unpack_golden
from rung.domain.errors import BundleError, Conflict, InvalidInput, ModelError, NotFound, OperatorError
from rung.domain.models import Golden, Lineage, Manifest, Transforms
from rung.domain.names import check_name, check_version
from rung.domain.tensors import Signature, Tensors
from rung.plugins import RUNTIMES, resolve
from rung.ports import BlobStore, Fetched, LoadOptions, Model
from rung.transforms.pipeline import Pipeline
from rung.transforms.tasks import default_output

__all__ = ["Declared", "Entry", "Verification", "delete", "list_models", "register", "show", "verify"]

_GOLDEN = "golden.npz"


class Declared(TypedDict, total=False):
    """What whoever registers a version says about it; see `Manifest`."""

    version: int
    task: str
    labels: tuple[str, ...]
    transforms: Transforms
    lineage: Lineage
    metrics: dict[str, float]
    description: str
    profile: str


class Entry(msgspec.Struct, frozen=True):
    """One version in the repository."""

    name: str
    version: int
    digest: str = ""
    """Empty where there is no readable manifest."""
    manifest: Manifest | None = None
    size: int = 0
    """Bytes of its files."""
    problem: str = ""
    """Why its manifest cannot be read."""


class Verification(msgspec.Struct, frozen=True):
    """What checking a version found."""

    name: str
    version: int
    digest: str
    files: int
    size: int
    """Bytes."""
    examples: int = 0
    """Golden examples that were answered as at registration."""
    problem: str = ""
    """Why it may not be served; empty when it may."""

    @property
    def ok(self) -> bool:
        """Whether it may be served."""
        return not self.problem


def register(
    store: BlobStore,
    artifact: Path,
    *,
    name: str,
    runtime: str = "",
    examples: Iterable[Tensors] | None = None,
    beside: Mapping[str, Path] | None = None,
    **declared: Unpack[Declared],
) -> Manifest:
    """Publish an artifact as the next version of a model, after proving that it loads and answers.

    `runtime` is recognised from the artifact when empty. `examples` are the inputs of the golden
    examples; None makes up two from the signature, the same every time. A task without output steps gets
    those of `rung.transforms.tasks` where they fit; the manifest says which. `beside` are files that the bundle holds
    for others to read, by their path in it.

    Raises:
        InvalidInput: the name or a declared value will not do, or an example does not fit the signature.
        BundleError: no model, a pickle, unloadable, one that answers an example with NaN or Infinity, or with
            transforms that there are not.
        Conflict: `version` is given and taken.
    """
    check_name(name)
    if not artifact.exists():
        raise InvalidInput(f"there is no file or folder {artifact}", field="artifact")
    if runtime:
        if artifact.is_file():
            refuse_pickle(artifact)
    else:
        runtime, artifact = recognise(artifact)
    with tempfile.TemporaryDirectory(prefix="rung-register-") as folder:
        # What is checked is a copy with only the bundle's files, so a file left behind shows here, not in production.
        staged = _stage(companions(artifact), Path(folder))
        try:
            model = _load(runtime, Path(folder, artifact.name))
        except BundleError as error:
            raise BundleError(str(error).replace(f"{folder}/", "")) from None
        try:
            signature = model.signature
            answered = _answer(model, make_inputs(signature) if examples is None else list(examples))
        finally:
            model.close()
        manifest = Manifest(
            name=name,
            runtime=runtime,
            signature=signature,
            artifact=artifact.name,
            golden=Golden(_GOLDEN, len(answered)),
            **{"version": 0, **declared},  # type: ignore[arg-type]
        )
        manifest = _completed(manifest, answered)
        Pipeline.build(manifest)
        return bundles.publish(store, manifest, {**staged, **(beside or {}), _GOLDEN: pack_golden(answered)})


def _completed(manifest: Manifest, answered: Sequence[tuple[Tensors, Tensors]]) -> Manifest:
    """With the output steps and the source that were not declared."""
    if not manifest.transforms.output:
        answers = [outputs for _, outputs in answered]
        chosen = default_output(manifest.task, manifest.signature, manifest.labels, answers)
        transforms = msgspec.structs.replace(manifest.transforms, output=chosen)
        manifest = msgspec.structs.replace(manifest, transforms=transforms)
    if not manifest.lineage.source:
        lineage = msgspec.structs.replace(manifest.lineage, source=manifest.artifact)
        manifest = msgspec.structs.replace(manifest, lineage=lineage)
    return manifest


def _stage(files: dict[str, Path], folder: Path) -> dict[str, Path]:
    staged = {file: folder / file for file in files}
    for file, path in files.items():
        staged[file].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, staged[file])
    return staged


def _load(runtime: str, artifact: Path) -> Model:
    model: Model = resolve(RUNTIMES, runtime, "runtime")().load(artifact, LoadOptions())
    return model


def _answer(model: Model, inputs: list[Tensors]) -> list[tuple[Tensors, Tensors]]:
    answered: list[tuple[Tensors, Tensors]] = []
    for number, example in enumerate(inputs, start=1):
        model.signature.check(example)
        try:
            answer = model.predict(example)
        except (ModelError, InvalidInput) as error:
            raise BundleError(f"it fails on example {number}: {error}. Give examples that it can answer") from None
        bad = non_finite(answer)
        if bad is not None:
            raise BundleError(f"it answers example {number} with NaN or Infinity in output {bad!r}")
        answered.append((example, {name: np.array(array) for name, array in answer.items()}))
    return answered


def list_models(store: BlobStore) -> list[Entry]:
    """Every version there is, by name and number. One unreadable manifest does not hide the others."""

    def read(folder: bundles.VersionFolder) -> Entry:
        size = sum(blob.size for blob in folder.files.values())
        if folder.manifest is None:
            return Entry(folder.name, folder.version, size=size)
        try:
            manifest, digest = bundles.read_version(store, folder.name, folder.version)
        except (BundleError, NotFound) as error:
            return Entry(folder.name, folder.version, size=size, problem=str(error))
        return Entry(folder.name, folder.version, digest, manifest, size)

    visible = [folder for folder in bundles.scan(store).values() if folder.manifest is not None or folder.foreign]
    if not visible:
        return []
    # A manifest in a bucket takes a round trip each.
    with ThreadPoolExecutor(min(8, len(visible))) as pool:
        return list(pool.map(read, visible))


def show(store: BlobStore, name: str, version: int | None = None) -> Manifest:
    """The manifest of a version, by default the latest.

    Raises:
        NotFound: there is no such model or version.
        BundleError: the manifest cannot be read.
    """
    return bundles.read_manifest(store, name, _version_or_latest(store, name, version))


def _version_or_latest(store: BlobStore, name: str, version: int | None) -> int:
    check_name(name)
    if version is not None:
        return check_version(version)
    versions = _versions(store, name)
    if not versions:
        raise bundles.absent(store, name)
    return versions[-1]


def _versions(store: BlobStore, name: str) -> list[int]:
    return [folder.version for folder in bundles.scan(store, name).values() if folder.manifest is not None]


def verify(store: BlobStore, name: str, version: int | None = None, cache: Path | None = None) -> Verification:
    """Check every byte of a version, load it, and compare its answers to its golden examples.

    `cache` keeps downloaded files; None throws them away.

    Raises:
        NotFound: there is no such model or version.
    """
    version = _version_or_latest(store, name, version)
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="rung-verify-") as folder:
            return verify(store, name, version, Path(folder))
    try:
        manifest, digest = bundles.read_version(store, name, version)
    except BundleError as error:
        return Verification(name, version, "", 0, 0, problem=str(error))
    size = sum(file.size for file in manifest.files.values())
    report = Verification(name, version, digest, len(manifest.files), size)
    try:
        fetched = bundles.fetch(store, name, version, cache)
        return msgspec.structs.replace(report, examples=_replay(fetched))
    except OperatorError as error:
        return msgspec.structs.replace(report, problem=str(error))


def _replay(fetched: Fetched) -> int:
    manifest, golden, folder = fetched.manifest, fetched.manifest.golden, fetched.folder
    if manifest.graph is not None:
        return 0  # what it answers is up to the versions of its models
    model = _load(manifest.runtime, Path(fetched.artifact))
    try:
        if model.signature != manifest.signature:
            raise BundleError("the artifact does not have the signature that its manifest states")
        if golden is None or folder is None:
            return 0
        examples = unpack_golden((folder / golden.file).read_bytes())
        for number, (inputs, expected) in enumerate(examples, start=1):
            _check_fits(manifest.signature, inputs, number)
            try:
                answer = model.predict(inputs)
            except (ModelError, InvalidInput) as error:
                raise BundleError(f"golden example {number} fails: {error}") from None
            reason = compare_golden(expected, answer, golden)
            if reason is not None:
                raise BundleError(f"golden example {number} is answered differently than at registration: {reason}")
        return len(examples)
    finally:
        model.close()


def _check_fits(signature: Signature, inputs: Tensors, number: int) -> None:
    try:
        signature.check(inputs)
    except InvalidInput as error:
        raise BundleError(f"golden example {number} does not fit the signature: {error}") from None


def delete(store: BlobStore, name: str, version: int, *, force: bool = False) -> None:
    """Withdraw a version: it is gone as soon as its manifest is, and its number is never used again.

    Also removes what a publisher left behind that died half-way.

    Raises:
        NotFound: there is no such version.
        Conflict: it is the only version of its model, or its release needs it, and `force` is not set; or rung did
            not make it.
    """
    check_name(name)
    if _versions(store, name) == [check_version(version)] and not force:
        raise Conflict(f"version {version} is the only one of {name}: deleting it leaves no model; use force to do so")
    link = None if force else ledger.last(store, name)
    if link is not None and version in link.release.versions:
        arms = [arm.name for arm in link.release.arms if arm.version == version]
        role = f"answers as {' and '.join(arms)}" if arms else "stays loaded to go back to"
        raise Conflict(
            f"version {version} of {name} {role} in its release (epoch {link.release.epoch}): "
            "move the release first, or use force"
        )
    bundles.withdraw(store, name, version)

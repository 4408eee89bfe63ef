"""A version's bytes: how it is published, read, verified and withdrawn.

    NAME/VERSION/.reserved       first: the number is taken, for ever
    NAME/VERSION/model.onnx ...  the files
    NAME/VERSION/manifest.json   last: from now on the version exists

Withdrawing goes the other way round and leaves the reservation, so a number never means two things.
A folder with neither file is another server's layout (TF Serving, Triton) and not ours to change.
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from rung.domain.errors import BundleError, Conflict, InvalidInput, NotFound
from rung.domain.models import FileDigest, Manifest
from rung.domain.names import check_name, check_version, rather
from rung.domain.tensors import DATATYPES
from rung.ports import Blob, BlobStore, Fetched
from rung.store.blobs import check_key

__all__ = [
    "FORMAT",
    "MANIFEST",
    "VersionFolder",
    "absent",
    "decode_manifest",
    "digest_of",
    "encode_manifest",
    "fetch",
    "fetch_folder",
    "publish",
    "read_manifest",
    "read_version",
    "scan",
    "withdraw",
]

MANIFEST = "manifest.json"
FORMAT = 1
_RESERVED = ".reserved"
_SHOWN = 10
"""Versions that a message lists, the latest."""
_ENCODER = msgspec.json.Encoder(order="sorted")
_DECODER = msgspec.json.Decoder(Manifest)


class _Head(msgspec.Struct):
    """What is read of a manifest before its format is known."""

    format: int = 1


class VersionFolder(msgspec.Struct):
    """What lies under `NAME/VERSION/`."""

    name: str
    version: int
    files: dict[str, Blob] = {}
    """Path inside the folder -> blob, without manifest and reservation."""
    manifest: Blob | None = None
    reserved: bool = False

    @property
    def foreign(self) -> bool:
        """Whether another tool put it here: files, but neither reservation nor manifest."""
        return self.manifest is None and not self.reserved


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical JSON: sorted keys, no spaces."""
    return _ENCODER.encode(manifest)


def digest_of(manifest: Manifest) -> str:
    """Identity of a version that was just published: sha256 of its canonical manifest, in hex.

    Of a stored version take it from `read_version`: a later rung may write the same manifest with more fields.
    """
    return hashlib.sha256(encode_manifest(manifest)).hexdigest()


def decode_manifest(data: bytes, where: str) -> Manifest:
    """Read and check a manifest; `where` names its folder in messages.

    Raises:
        BundleError: not JSON of this format, or it names files, tensors or versions that cannot be.
    """
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.format != FORMAT:
            raise BundleError(
                f"{where}/{MANIFEST} has format {head.format}, this rung reads format {FORMAT}: upgrade rung"
            )
        manifest = _DECODER.decode(data)
        check_name(manifest.name)
        check_version(manifest.version)
        for file in manifest.files:
            _check_file_name(file)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, InvalidInput) as error:
        raise BundleError(f"{where}/{MANIFEST} cannot be read: {error}") from None
    for spec in (*manifest.signature.inputs, *manifest.signature.outputs):
        if spec.datatype not in DATATYPES:
            raise BundleError(f"{where}/{MANIFEST}: tensor {spec.name!r} has the unknown datatype {spec.datatype!r}")
    artifact = manifest.artifact
    if artifact not in manifest.files and not any(file.startswith(f"{artifact}/") for file in manifest.files):
        raise BundleError(f"{where}/{MANIFEST}: the artifact {artifact!r} is not among its files")
    if manifest.golden is not None and manifest.golden.file not in manifest.files:
        raise BundleError(f"{where}/{MANIFEST}: the golden examples {manifest.golden.file!r} are not among its files")
    return manifest


def _check_file_name(file: str) -> None:
    check_key(file)
    if file in {MANIFEST, _RESERVED}:
        raise InvalidInput(f"{file!r} cannot be a file of a bundle: the name has a meaning of its own", field="files")


def scan(store: BlobStore, name: str = "") -> dict[tuple[str, int], VersionFolder]:
    """What lies in the version folders of one model, or of all; by name and number, ascending.

    Files outside `NAME/<number>/` are passed over, and so are names that rung cannot serve.
    """
    folders: dict[tuple[str, int], VersionFolder] = {}
    for blob in store.list(check_name(name) if name else ""):
        parts = blob.key.split("/", 2)
        if len(parts) < 3 or not parts[1].isdecimal():
            continue
        try:
            identity = (check_name(parts[0]), check_version(parts[1]))
        except InvalidInput:
            continue
        folder = folders.setdefault(identity, VersionFolder(*identity))
        if parts[2] == MANIFEST:
            folder.manifest = blob
        elif parts[2] == _RESERVED:
            folder.reserved = True
        else:
            folder.files[parts[2]] = blob
    return dict(sorted(folders.items()))


def absent(store: BlobStore, name: str, version: int = 0) -> NotFound:
    """What to say where a model, or a version of one, is asked for that is not there: with those that are."""
    there = [one for one in scan(store).values() if one.manifest is not None or one.foreign]
    own = [one for one in there if one.name == name]
    foreign = [str(one.version) for one in own if one.manifest is None]
    if str(version) in foreign or (foreign and not version):
        which = f"{name} version {version or ', '.join(foreign[-_SHOWN:])}"
        return NotFound(
            f"rung did not make {which}, so nothing is known of it but its files: serve it as it is, or take it over "
            "by rung models import"
        )
    versions = [str(one.version) for one in own]
    if versions:
        shown = ["...", *versions[-_SHOWN:]] if len(versions) > _SHOWN else versions
        return NotFound(f"there is no version {version} of {name}; there are {', '.join(shown)}")
    if not there:
        return NotFound(f"there is no model {name}, and no other yet: rung train or rung models register makes one")
    return NotFound(f"there is no model {name}; {rather(name, sorted({one.name for one in there}))}")


def publish(store: BlobStore, manifest: Manifest, files: Mapping[str, bytes | Path]) -> Manifest:
    """Make a version of these files and return its manifest, with number, digests and time filled in.

    `manifest.version` 0 takes the next number. Nobody sees the version before all of it is there.

    Raises:
        Conflict: the number that was asked for is taken, or was.
        InvalidInput: a name, path or value cannot stand in a manifest, or a file is empty.
    """
    check_name(manifest.name)
    for file in files:
        _check_file_name(file)
    digests = {file: _digest(file, data) for file, data in files.items()}
    version = _reserve(store, manifest.name, manifest.version)
    where = f"{manifest.name}/{version}"
    draft = msgspec.structs.replace(
        manifest,
        version=version,
        files=digests,
        format=FORMAT,
        created=manifest.created or datetime.now(UTC).isoformat(timespec="seconds"),
    )
    try:
        # Read back before it is written: what JSON cannot hold must not become a version.
        complete = decode_manifest(encode_manifest(draft), where)
    except BundleError as error:
        raise InvalidInput(str(error)) from None
    try:
        for file, data in files.items():
            store.put(f"{where}/{file}", data)
        _commit(store, f"{where}/{MANIFEST}", encode_manifest(complete))
    except BaseException:
        # Whatever went wrong matters more than what is left behind.
        with suppress(Exception):
            store.delete(f"{where}/{file}" for file in files)
        raise
    return complete


def _digest(file: str, data: bytes | Path) -> FileDigest:
    if isinstance(data, Path):
        digest = _digest_of_file(data)
    else:
        digest = FileDigest(hashlib.sha256(data).hexdigest(), len(data))
    if digest.size == 0:
        raise InvalidInput(f"the file {file!r} is empty", field="files")
    return digest


def _digest_of_file(path: Path) -> FileDigest:
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileDigest(sha256, stream.tell())


def _reserve(store: BlobStore, name: str, version: int) -> int:
    """Take the next number, or the one asked for. The create-only put decides between rivals."""
    stamp = datetime.now(UTC).isoformat().encode()
    taken = [number for _, number in scan(store, name)]
    if version:
        check_version(version)
        if version in taken:
            raise Conflict(f"version {version} of {name} exists already, or did; a number is never used twice")
        store.put(f"{name}/{version}/{_RESERVED}", stamp, create=True)
        return version
    version = max(taken, default=0)
    while True:
        version = check_version(version + 1)
        try:
            store.put(f"{name}/{version}/{_RESERVED}", stamp, create=True)
        except Conflict:
            continue
        return version


def _commit(store: BlobStore, key: str, data: bytes) -> None:
    try:
        store.put(key, data, create=True)
    except Conflict:
        # A lost reply that was sent again meets its own manifest.
        if store.get(key) != data:
            raise


def withdraw(store: BlobStore, name: str, version: int) -> None:
    """Remove a version, or what a publisher left that died; its number stays taken.

    Raises:
        NotFound: there is no such version.
        Conflict: the folder was not made by rung.
    """
    folder = scan(store, name).get((name, check_version(version)))
    if folder is None or (folder.manifest is None and not folder.files):
        raise absent(store, name, version)
    if folder.foreign:
        raise Conflict(f"{name}/{version} has no {MANIFEST}: rung did not make it and does not remove it")
    # Without a reservation the folder, once its manifest is gone, would look like another server's.
    if not folder.reserved:
        store.put(f"{name}/{version}/{_RESERVED}", datetime.now(UTC).isoformat().encode())
    if folder.manifest is not None:
        store.delete([folder.manifest.key])
    store.delete(blob.key for blob in folder.files.values())


def read_manifest(store: BlobStore, name: str, version: int) -> Manifest:
    """The manifest of one version.

    Raises:
        NotFound: there is no such version.
        BundleError: it cannot be read, or belongs to another folder.
    """
    return read_version(store, name, version)[0]


def read_version(store: BlobStore, name: str, version: int) -> tuple[Manifest, str]:
    """`read_manifest`, and the version's identity: the sha256 of the stored bytes."""
    where = f"{check_name(name)}/{check_version(version)}"
    try:
        data = store.get(f"{where}/{MANIFEST}")
    except NotFound:
        raise absent(store, name, version) from None
    manifest = decode_manifest(data, where)
    if (manifest.name, manifest.version) != (name, version):
        raise BundleError(
            f"{where}/{MANIFEST} says that it is version {manifest.version} of {manifest.name}: "
            "it lies in the wrong folder"
        )
    return manifest, hashlib.sha256(data).hexdigest()


def fetch(store: BlobStore, name: str, version: int, cache: Path) -> Fetched:
    """Bring a version here and check every byte of it.

    Raises:
        NotFound: there is no such version.
        BundleError: naming the file that is missing, surplus, empty, truncated or corrupt.
    """
    return fetch_folder(store, f"{name}/{version}", read_manifest(store, name, version), cache)


def fetch_folder(store: BlobStore, where: str, manifest: Manifest, cache: Path) -> Fetched:
    """`fetch` for a folder of any name; an empty `where` is the store's root."""
    prefix = f"{where}/" if where else ""
    present = {blob.key.removeprefix(prefix): blob for blob in store.list(where)}
    surplus = sorted(set(present) - set(manifest.files) - {MANIFEST, _RESERVED})
    if surplus:
        raise BundleError(f"{prefix}{surplus[0]} is not in the manifest: a bundle holds nothing else")
    for file, want in manifest.files.items():
        blob = present.get(file)
        if blob is None:
            raise BundleError(f"{prefix}{file} is missing")
        if blob.size != want.size or blob.size == 0:
            state = "empty" if blob.size == 0 else "truncated" if blob.size < want.size else "too long"
            raise BundleError(f"{prefix}{file} is {state}: {blob.size} bytes, the manifest says {want.size}")
    root, is_copy = _root(store, prefix, manifest, cache)
    for file, want in manifest.files.items():
        if is_copy:
            _bring(store, prefix + file, root / file, cache)
        if _digest_of_file(root / file) == want:
            continue
        if is_copy:
            # The copy may have been damaged here; the original decides.
            (root / file).unlink(missing_ok=True)
            _bring(store, prefix + file, root / file, cache)
        if not is_copy or _digest_of_file(root / file) != want:
            raise BundleError(f"{prefix}{file} is corrupt: its sha256 is not the manifest's")
    return Fetched(manifest=manifest, artifact=root / manifest.artifact, folder=root)


def _root(store: BlobStore, prefix: str, manifest: Manifest, cache: Path) -> tuple[Path, bool]:
    """The folder in which the store keeps the bundle, or one for a copy that only these bytes use."""
    path = store.local(prefix + MANIFEST, cache / "blobs")
    if path.is_relative_to(cache / "blobs"):
        return cache / "bundles" / digest_of(manifest), True
    return path.parent, False


def _bring(store: BlobStore, key: str, target: Path, cache: Path) -> None:
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    # Moved, not linked: loaders of external weights refuse files that have several names.
    # It is gone already when another process fetches the same bundle; then the target is there.
    with suppress(FileNotFoundError):
        store.local(key, cache / "blobs").replace(target)

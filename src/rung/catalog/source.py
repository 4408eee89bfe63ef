"""Where a replica's models come from: a repository, one bundle, one file, or a class of the user's own.

Each states the whole list of versions at every poll. What they keep between polls only saves work,
or tells a folder that is still being copied from one that is complete.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
import structlog

from rung.catalog import bundles
from rung.catalog.artifacts import companions, pickle_in, recognise, refuse_pickle
from rung.catalog.ledger import ReleaseFollower
from rung.domain.errors import BundleError, ConfigurationError, InvalidInput, NotFound, RungError
from rung.domain.models import AspiredVersion, Manifest
from rung.domain.names import check_name, check_version, name_from
from rung.domain.releases import Release
from rung.domain.tensors import Signature
from rung.plugins import RUNTIMES
from rung.ports import Blob, BlobStore, Fetched, Source
from rung.store.blobs import DiskStore, open_store

__all__ = ["FileSource", "FolderSource", "RenamedSource", "RepositorySource", "artifact_in", "open_source"]

_SETTLE = 2.0
"""Seconds without a change after which a folder that nobody commits counts as complete at first sight."""

_CLASS = re.compile(r"([A-Za-z_]\w*(\.[A-Za-z_]\w*)*|.+\.py):[A-Za-z_]\w*", re.ASCII)
_log = structlog.get_logger(__name__)


def _fingerprint(blobs: Iterable[Blob]) -> str:
    """Digest of names, sizes and times: what stands in for a manifest's."""
    return hashlib.sha256(repr([(blob.key, blob.size, blob.tag) for blob in blobs]).encode()).hexdigest()


def _made_up(name: str, version: int, runtime: str, artifact: str) -> Manifest:
    return Manifest(name=name, version=version, runtime=runtime, signature=Signature((), ()), artifact=artifact)


class RepositorySource:
    """Every version in a repository: rung's bundles, and folders in the layout of TF Serving and Triton.

    A folder without manifest (`NAME/1/model.onnx`) is offered once its files are the same in two
    polls, or have not changed for two seconds. While files of an offered one change, it stays
    offered as it was.
    """

    def __init__(
        self,
        store: BlobStore,
        cache: Path,
        models: Iterable[str] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._cache = cache
        self._models = None if models is None else sorted(check_name(name) for name in models)
        self._clock = clock
        self._digests: dict[str, tuple[str, str]] = {}
        """Key of a manifest -> its tag, and the sha256 of its bytes."""
        self._follower = ReleaseFollower(store)
        self._names: set[str] = set()
        """Models at the last poll."""
        self._seen: dict[tuple[str, int], str] = {}
        """Fingerprint of a foreign folder at the last poll."""
        self._settled: dict[tuple[str, int], str] = {}
        """Its fingerprint when it last held still."""

    def poll(self) -> list[AspiredVersion]:
        """The whole list of versions, by name and number.

        A manifest that cannot be read is offered all the same, and says why when it is fetched.
        """
        folders: dict[tuple[str, int], bundles.VersionFolder] = {}
        for name in self._models or [""]:
            folders |= bundles.scan(self._store, name)
        aspired = []
        for identity, folder in folders.items():
            digest = self._digest(folder.manifest) if folder.manifest else None
            if folder.foreign:
                digest = self._settle(identity, folder)
            if digest is not None:
                aspired.append(AspiredVersion(folder.name, folder.version, digest))
        self._forget(folders)
        self._names = {version.name for version in aspired}
        return aspired

    def releases(self) -> list[Release]:
        """The last link of each model's chain. Raises `BundleError` for a ledger that cannot be read."""
        return self._follower.poll(self._names)

    def _digest(self, manifest: Blob) -> str | None:
        tag, digest = self._digests.get(manifest.key, ("", ""))
        if tag == manifest.tag and tag:
            return digest
        try:
            digest = hashlib.sha256(self._store.get(manifest.key)).hexdigest()
        except NotFound:
            return None  # withdrawn since the listing
        except (RungError, OSError) as error:
            _log.warning("A manifest cannot be read.", key=manifest.key, error=str(error))
            return _fingerprint([manifest])
        self._digests[manifest.key] = (manifest.tag, digest)
        return digest

    def _settle(self, identity: tuple[str, int], folder: bundles.VersionFolder) -> str | None:
        fingerprint = _fingerprint(folder.files.values())
        newest = max((blob.modified for blob in folder.files.values()), default=0.0)
        if self._seen.get(identity) == fingerprint or newest < self._clock() - _SETTLE:
            self._settled[identity] = fingerprint
        self._seen[identity] = fingerprint
        return self._settled.get(identity)

    def _forget(self, folders: dict[tuple[str, int], bundles.VersionFolder]) -> None:
        keys = {folder.manifest.key for folder in folders.values() if folder.manifest}
        self._digests = {key: known for key, known in self._digests.items() if key in keys}
        self._seen = {identity: known for identity, known in self._seen.items() if identity in folders}
        self._settled = {identity: known for identity, known in self._settled.items() if identity in folders}

    def fetch(self, version: AspiredVersion) -> Fetched:
        """Bring a version here. Raises `BundleError` for whatever is wrong with it."""
        try:
            folder = bundles.scan(self._store, version.name).get((version.name, version.version))
            if folder is not None and folder.foreign:
                return self._fetch_foreign(folder, version)
            return bundles.fetch(self._store, version.name, version.version, self._cache)
        except BundleError:
            raise
        except (RungError, OSError) as error:
            raise BundleError(f"version {version.version} of {version.name} cannot be read: {error}") from error

    def _fetch_foreign(self, folder: bundles.VersionFolder, version: AspiredVersion) -> Fetched:
        if _fingerprint(folder.files.values()) != version.digest:
            raise BundleError(f"the files of {version.name}/{version.version} are changing; waiting until they settle")
        root = self._cache / "folders" / version.digest
        for file, blob in folder.files.items():
            if (root / file).exists():
                continue
            path = self._store.local(blob.key, self._cache / "blobs")
            if not path.is_relative_to(self._cache / "blobs"):
                root = path.parents[file.count("/")]
                break
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):  # another process has moved it to the same place
                path.replace(root / file)
        runtime, artifact = recognise(root)
        manifest = _made_up(version.name, version.version, runtime, artifact.name)
        return Fetched(manifest=manifest, artifact=artifact, folder=root, inferred=True)


class FolderSource:
    """One bundle in a folder of any name, offered as the version that its manifest states, under any name."""

    def __init__(self, folder: Path, name: str, version: int, cache: Path) -> None:
        self._folder = folder
        self._name = name
        self._version = version
        self._cache = cache

    def poll(self) -> list[AspiredVersion]:
        """The one version, or none once the manifest is gone."""
        try:
            data = (self._folder / bundles.MANIFEST).read_bytes()
        except FileNotFoundError:
            return []
        return [AspiredVersion(self._name, self._version, hashlib.sha256(data).hexdigest())]

    def releases(self) -> list[Release]:
        """None: only a repository has releases."""
        return []

    def fetch(self, version: AspiredVersion) -> Fetched:
        """The files where they lie, verified."""
        try:
            data = (self._folder / bundles.MANIFEST).read_bytes()
            manifest = bundles.decode_manifest(data, str(self._folder))
            fetched = bundles.fetch_folder(DiskStore(self._folder), "", manifest, self._cache)
        except OSError as error:
            raise BundleError(f"{self._folder} cannot be read: {error}") from error
        named = msgspec.structs.replace(manifest, name=version.name, version=version.version)
        return msgspec.structs.replace(fetched, manifest=named)


class RenamedSource:
    """One model of another source under a name that its folder does not have."""

    def __init__(self, source: Source, name: str, called: str) -> None:
        self._source = source
        self._name = name
        self._called = check_name(called)

    def poll(self) -> list[AspiredVersion]:
        """The source's versions of the model."""
        found = [version for version in self._source.poll() if version.name == self._name]
        return [msgspec.structs.replace(version, name=self._called) for version in found]

    def releases(self) -> list[Release]:
        """The model's release, if it has one."""
        found = [release for release in self._source.releases() if release.model == self._name]
        return [msgspec.structs.replace(release, model=self._called) for release in found]

    def fetch(self, version: AspiredVersion) -> Fetched:
        """What the source has, with the other name in its manifest."""
        fetched = self._source.fetch(msgspec.structs.replace(version, name=self._name))
        named = msgspec.structs.replace(fetched.manifest, name=self._called)
        return msgspec.structs.replace(fetched, manifest=named)


class FileSource:
    """A model file, a model folder, or the user's own `module:Class`, served as version 1.

    The version's digest follows the file: a changed file is a new attempt at loading. While it is
    being written it stays offered as it was.
    """

    def __init__(self, target: Path | str, name: str, search_path: Path | None = None) -> None:
        self._target = target
        self._name = check_name(name)
        self._search_path = search_path or Path()
        self._seen = ""
        self._settled = ""

    def poll(self) -> list[AspiredVersion]:
        """The one version, or none once the file is gone."""
        fingerprint = self._fingerprint()
        if not fingerprint:
            self._seen = self._settled = ""
            return []
        if not self._settled or fingerprint == self._seen:
            self._settled = fingerprint
        self._seen = fingerprint
        return [AspiredVersion(self._name, 1, self._settled)]

    def releases(self) -> list[Release]:
        """None: only a repository has releases."""
        return []

    def _fingerprint(self) -> str:
        files = self._files()
        blobs = []
        for key, path in files.items():
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            tag = f"{status.st_mtime_ns}-{status.st_ino}"
            blobs.append(Blob(key, status.st_size, tag, status.st_mtime))
        if blobs:
            return _fingerprint(blobs)
        return "" if isinstance(self._target, Path) else hashlib.sha256(self._target.encode()).hexdigest()

    def _files(self) -> dict[str, Path]:
        if isinstance(self._target, Path):
            return companions(self._target) if self._target.exists() else {}
        # The module's file is found by its name: importing it here would run the user's code in the replica.
        module = self._target.rpartition(":")[0]
        if module.endswith(".py"):
            return {"module": self._search_path / module}
        stem = self._search_path.joinpath(*module.split("."))
        return {"module": stem.with_suffix(".py"), "package": stem / "__init__.py"}

    def fetch(self, version: AspiredVersion) -> Fetched:
        """The file itself; a class is trusted because the user named it."""
        if isinstance(self._target, str):
            manifest = _made_up(version.name, version.version, "python", self._target)
            return Fetched(manifest=manifest, artifact=self._target, folder=None, trusted=True, inferred=True)
        if not self._target.exists():
            raise BundleError(f"{self._target} is gone")
        try:
            runtime, artifact = recognise(self._target)
        except OSError as error:
            raise BundleError(f"{self._target} cannot be read: {error}") from error
        manifest = _made_up(version.name, version.version, runtime, artifact.name)
        return Fetched(manifest=manifest, artifact=artifact, folder=None, inferred=True)


def open_source(target: str, name: str | None, cache: Path) -> Source:
    """Tell what `target` is and return its source.

    In this order: the URL of a repository, `module:Class`, a model file, a bundle's folder, a
    repository's folder, the folder of one model in a repository, a folder that is a model itself.
    `name` renames a single model and picks one out of a repository.

    Raises:
        ConfigurationError: nothing there can be served; the message says what was looked for.
    """
    if name is not None:
        check_name(name)
    if not target:
        raise ConfigurationError("there is nothing to serve: give a model file, a folder, a URL or module:Class")
    if "://" in target:
        return _open_repository(open_store(target), target, name, cache)
    path = Path(target)
    if not path.exists():
        if _CLASS.fullmatch(target):
            return FileSource(target, name or name_from(target.rpartition(":")[2]), Path.cwd())
        raise ConfigurationError(
            f"there is no file or folder {target!r}; a Python class is written module:Class or file.py:Class"
        )
    if path.is_file():
        try:
            refuse_pickle(path)
            recognise(path)
        except BundleError as error:
            raise ConfigurationError(str(error)) from None
        return FileSource(path, name or name_from(path.stem))
    manifest = path / bundles.MANIFEST
    if manifest.is_file():
        try:
            stated = bundles.decode_manifest(manifest.read_bytes(), str(path))
        except BundleError as error:
            raise ConfigurationError(str(error)) from None
        return FolderSource(path, name or stated.name, stated.version, cache)
    return _open_folder(path, name, cache)


def artifact_in(target: str) -> str:
    """What a platform put into a folder: its one model file, else the folder of its one model, else all of it."""
    path = Path(target)
    if "://" in target or not path.is_dir() or (path / bundles.MANIFEST).exists():
        return target
    with suppress(BundleError):
        return str(recognise(path)[1])
    folders = [child for child in path.iterdir() if child.is_dir()]
    if len(folders) == 1 and any(_is_version(child) for child in folders[0].iterdir()):
        return str(folders[0])
    return target


def _open_folder(path: Path, name: str | None, cache: Path) -> Source:
    folder = path.resolve()
    children = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    if any(_is_version(grandchild) for child in children for grandchild in child.iterdir()):
        return _open_repository(DiskStore(path), str(path), name, cache)
    if any(_is_version(child) for child in children):
        source = _open_repository(DiskStore(folder.parent), str(folder.parent), folder.name, cache)
        return source if name in {None, folder.name} else RenamedSource(source, folder.name, name or "")
    try:
        _, artifact = recognise(folder)
    except BundleError:
        raise ConfigurationError(_nothing_in(path)) from None
    if artifact != folder:
        raise ConfigurationError(f"{_nothing_in(path)} To serve {artifact.name}, give that file")
    return FileSource(path, name or name_from(folder.name))


def _is_version(folder: Path) -> bool:
    try:
        check_version(folder.name)
    except InvalidInput:
        return False
    return folder.is_dir()


def _open_repository(store: BlobStore, where: str, name: str | None, cache: Path) -> Source:
    try:
        folders = bundles.scan(store, name or "")
    except InvalidInput as error:
        raise ConfigurationError(f"{where}: {error}") from None
    if not any(folder.manifest or folder.foreign for folder in folders.values()):
        looked = f"{name}/VERSION" if name else "NAME/VERSION, where NAME is lower-case and VERSION a number,"
        raise ConfigurationError(
            f"there is no model in {where}: looked in {looked} for {bundles.MANIFEST} or a model file"
        )
    return RepositorySource(store, cache, [name] if name else None)


def _nothing_in(path: Path) -> str:
    pickle = pickle_in(path)
    if pickle is not None:
        try:
            refuse_pickle(pickle)
        except BundleError as error:
            return f"there is no model in {path}: {error}."
    held = sorted(child.name for child in path.iterdir())
    return (
        f"there is no model in {path}: looked for {bundles.MANIFEST} (a bundle), NAME/VERSION/ with {bundles.MANIFEST} "
        f"or a model file (a repository), VERSION/ (one model of a repository) and a folder that is a model "
        f"({', '.join(RUNTIMES)}). It holds {', '.join(held[:5]) or 'nothing'}{' and more' if len(held) > 5 else ''}."
    )

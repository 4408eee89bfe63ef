"""Bytes by key: on a disk, in a bucket, in memory.

The disk is ours and not obstore's because obstore's never calls `fsync`, reads a file whole into
memory for a create-only put, and costs a replica that serves from disk its import and threads.
"""

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qsl, unquote, urlsplit

from rung.domain.errors import ConfigurationError, Conflict, InvalidInput, NotFound, NotReady, RungError
from rung.ports import Blob, BlobStore
from rung.store.folders import sync_folder

__all__ = ["DiskStore", "RemoteStore", "check_key", "open_store"]

_TEMPORARY = ".rung-tmp-"
_CHUNK = 32 << 20
_SETTINGS = frozenset({"endpoint", "region"})


def check_key(key: str) -> str:
    """Return `key` if it is a relative path without tricks.

    Raises:
        InvalidInput: for an empty, absolute or dotted part, a backslash or a control character.
    """
    parts = key.split("/")
    if any(part in {"", ".", ".."} or len(part.encode(errors="replace")) > 255 for part in parts):
        raise InvalidInput(f"{key!r:.200} is not a relative path of plain parts joined by '/'", field="key")
    if "\\" in key or not key.isprintable():
        raise InvalidInput(f"{key!r:.200} holds a backslash or an unprintable character", field="key")
    if parts[-1].startswith(_TEMPORARY):
        raise InvalidInput(f"{key!r:.200} begins like a temporary file of this store", field="key")
    return key


def open_store(url: str) -> BlobStore:
    """Open the store that a URL or plain path names.

    `file:///folder` and plain paths are folders of this machine, created by the first put.
    `s3://bucket/prefix` takes endpoint, region and keys from the usual `AWS_*` variables;
    `?endpoint=` and `?region=` override them. `memory:` lives as long as the object.

    Raises:
        ConfigurationError: the scheme is unknown, the bucket is missing, an option is unknown or
            holds a secret, or the endpoint is plain HTTP beyond this machine.
    """
    scheme = url.split(":", 1)[0].lower() if ":" in url else ""
    if scheme == "memory":
        from obstore.store import MemoryStore

        return RemoteStore(MemoryStore(), f"memory:{secrets.token_hex(8)}")
    if scheme == "file":
        parts = urlsplit(url)
        if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
            raise ConfigurationError(f"store {url!r} is no local folder: write file:///folder or a plain path")
        return DiskStore(Path(unquote(parts.path)))
    if scheme == "s3":
        return _open_s3(url)
    if "://" in url:
        raise ConfigurationError(f"store {url!r} has an unknown scheme: use a path, file:///folder or s3://bucket")
    if not url:
        raise ConfigurationError("the store's URL is empty: use a path, file:///folder or s3://bucket")
    return DiskStore(Path(url))


def _open_s3(url: str) -> BlobStore:
    from obstore.store import S3Store

    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if not parts.netloc or "@" in parts.netloc:
        raise ConfigurationError("an S3 store is written s3://bucket/prefix; keys belong in AWS_* variables")
    unknown = sorted(set(options) - _SETTINGS)
    if unknown:
        raise ConfigurationError(
            f"store s3://{parts.netloc} has unknown options {unknown}: a URL may set endpoint and region, "
            "everything else comes from AWS_* variables"
        )
    endpoint = options.get("endpoint") or next(
        (
            os.environ[name]
            for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
            if name in os.environ
        ),
        "",
    )
    client: dict[str, Any] = {"connect_timeout": "5s", "timeout": "60s"}
    if endpoint.startswith("http://"):
        if not _is_loopback(urlsplit(endpoint).hostname or "") and os.environ.get("AWS_ALLOW_HTTP") != "true":
            raise ConfigurationError(
                f"the S3 endpoint {endpoint} is plain HTTP on another machine: use https, "
                "or set AWS_ALLOW_HTTP=true if the network between is yours"
            )
        client["allow_http"] = True
    config: dict[str, Any] = {"endpoint": endpoint} if endpoint else {}
    if "region" in options:
        config["region"] = options["region"]
    prefix = unquote(parts.path).strip("/")
    inner = S3Store(
        parts.netloc,
        prefix=check_key(prefix) if prefix else None,
        client_options=client,  # type: ignore[arg-type]
        retry_config={"max_retries": 3, "retry_timeout": _seconds(20)},
        **config,
    )
    return RemoteStore(inner, f"s3://{parts.netloc}/{prefix}@{endpoint}")


def _seconds(count: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=count)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class DiskStore:
    """A folder.

    Guarantees:
        1. A key is absent, or holds the whole bytes of one put: they are written beside it, synced,
           and linked or renamed into place.
        2. When `put` returns, bytes and name have been synced to the disk.
        3. Of several `create` puts for one key, one wins; the others raise `Conflict`.
    The file system must have hard links (NFS and every usual Linux file system do).
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(self, key: str) -> bytes:
        """Return the bytes. Raises `NotFound`."""
        try:
            return (self.root / check_key(key)).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise NotFound(f"there is no {key!r} in {self.root}") from None

    def put(self, key: str, data: bytes | Path, *, create: bool = False) -> None:
        """Write bytes or a file's bytes; see the class for what is guaranteed.

        Raises:
            Conflict: `create` is set and the key exists.
        """
        target = self.root / check_key(key)
        _make_folder(target.parent)
        temporary = target.with_name(_TEMPORARY + secrets.token_hex(8))
        try:
            with _open_new(temporary) as file:
                if isinstance(data, Path):
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                else:
                    file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if create:
                os.link(temporary, target)
            else:
                temporary.replace(target)
        except FileExistsError:
            raise Conflict(f"{key!r} exists already in {self.root}") from None
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(target.parent)

    def list(self, prefix: str = "") -> Iterable[Blob]:
        """Every file under the folder `prefix`, sorted; links are followed, loops of links are not."""
        folder = self.root / check_key(prefix) if prefix else self.root
        return sorted(self._walk(folder, f"{prefix}/" if prefix else "", frozenset()))

    def _walk(self, folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[Blob]:
        try:
            status = folder.stat()
            entries = list(os.scandir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            return
        for entry in entries:
            try:
                status = entry.stat()
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from self._walk(folder / entry.name, f"{prefix}{entry.name}/", above | {identity})
            elif stat.S_ISREG(status.st_mode) and not entry.name.startswith(_TEMPORARY):
                tag = f"{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
                # A copy that keeps the time of modification cannot keep the time of change.
                modified = max(status.st_mtime, status.st_ctime)
                yield Blob(prefix + entry.name, status.st_size, tag, modified)

    def delete(self, keys: Iterable[str]) -> None:
        """Remove these files; absent ones are no error. Folders stay."""
        folders = set()
        for key in keys:
            path = self.root / check_key(key)
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
                folders.add(path.parent)
        for folder in folders:
            sync_folder(folder)

    def local(self, key: str, cache: Path) -> Path:
        """The file itself; `cache` is not used. Raises `NotFound`."""
        del cache
        path = self.root / check_key(key)
        if not path.is_file():
            raise NotFound(f"there is no {key!r} in {self.root}")
        return path


def _make_folder(folder: Path) -> None:
    """Create a folder with its parents, each synced into the one above it."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def _open_new(path: Path) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb")


class RemoteStore:
    """A bucket, or memory, through obstore.

    Guarantees:
        1. A key is absent, or holds the whole bytes of one put.
        2. When `put` returns, the bytes are as durable as the service makes them.
        3. Of several `create` puts for one key, at most one succeeds; the others raise `Conflict`.
           One whose reply was lost may raise it too, although its bytes are there.
    A file is sent in parts; only with `create` it is read whole, so that is for small files.
    """

    def __init__(self, inner: Any, url: str) -> None:
        self._inner = inner
        self.url = url

    def get(self, key: str) -> bytes:
        """Return the bytes. Raises `NotFound`."""
        with self._errors(key):
            return bytes(self._inner.get(check_key(key)).bytes())

    def put(self, key: str, data: bytes | Path, *, create: bool = False) -> None:
        """Write bytes or a file's bytes. Raises `Conflict` if `create` is set and the key exists."""
        check_key(key)
        if isinstance(data, Path):
            data.stat()  # a missing file is the caller's, not the store's
            if create:
                data = data.read_bytes()
        with self._errors(key):
            self._inner.put(key, data, mode="create" if create else "overwrite")

    def list(self, prefix: str = "") -> Iterable[Blob]:
        """Every object under the folder `prefix`, sorted."""
        with self._errors(prefix):
            found = self._inner.list(check_key(prefix) if prefix else None).collect()
        return sorted(
            Blob(row["path"], row["size"], row["e_tag"] or "", row["last_modified"].timestamp()) for row in found
        )

    def delete(self, keys: Iterable[str]) -> None:
        """Remove these objects; absent ones are no error."""
        names = [check_key(key) for key in keys]
        if names:
            with self._errors(names[0]), suppress(FileNotFoundError):
                self._inner.delete(names)

    def local(self, key: str, cache: Path) -> Path:
        """A copy under `cache`, named by store, key and the object's tag, so that other bytes have another name.

        Raises:
            NotFound: there is no such key.
        """
        with self._errors(key):
            head = self._inner.head(check_key(key))
        tag, size = head["e_tag"] or head["last_modified"].isoformat(), head["size"]
        identity = "\0".join((self.url, key, tag, str(size)))
        path = cache / hashlib.sha256(identity.encode()).hexdigest()
        if path.exists():
            return path
        cache.mkdir(parents=True, exist_ok=True)
        temporary = cache / (_TEMPORARY + secrets.token_hex(8))
        try:
            with _open_new(temporary) as file:
                # In ranges, so that neither memory nor one request's time grows with the file.
                for start in range(0, size, _CHUNK):
                    options = {"range": (start, min(start + _CHUNK, size)), "if_match": head["e_tag"]}
                    with self._errors(key):
                        file.write(self._inner.get(key, options=options).bytes())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        return path

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        from obstore import exceptions

        try:
            yield
        except exceptions.AlreadyExistsError:
            raise Conflict(f"{key!r} exists already in {self.url}") from None
        except (FileNotFoundError, exceptions.BaseError) as error:
            raise self._explain(key, error) from error

    def _explain(self, key: str, error: Exception) -> RungError:
        text = str(error)
        # Some operations wrap the service's refusal in a general error; then only its text tells.
        if "<Code>NoSuchBucket</Code>" in text:
            return ConfigurationError(f"the bucket of {self.url} does not exist: create it, or correct the URL")
        if isinstance(error, FileNotFoundError):
            return NotFound(f"there is no {key!r} in {self.url}")
        if "status code: 403" in text or "status code: 401" in text:
            return ConfigurationError(f"{self.url} refuses access to {key!r}: check the AWS_* variables")
        return NotReady(f"{self.url} cannot be used for {key!r}: {text.splitlines()[0]:.500}")

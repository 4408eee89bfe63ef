"""What a run ran in: packages, code, machine. Written down so that it can be built again."""

import hashlib
import io
import os
import platform
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import msgspec

__all__ = ["Code", "Environment", "code", "environment", "hardware", "normal", "snapshot", "system", "unpack"]

_SUFFIXES = frozenset({".py", ".toml", ".csv", ".json", ".txt", ".yaml", ".yml", ".cfg", ".sql", ".md"})
_SEPARATORS = re.compile(r"[-_.]+")
_LARGEST = 1 << 20
"""Bytes of a file that counts as code; larger ones are data."""


class Environment(msgspec.Struct, frozen=True):
    """An interpreter and all that is installed for it."""

    python: str
    system: str
    packages: tuple[str, ...]
    """`name==version`, sorted."""
    unpublished: tuple[str, ...] = ()
    """Packages that no index has: installed from a folder or an address."""

    @property
    def digest(self) -> str:
        """sha256 of all of it."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()


class Code(msgspec.Struct, frozen=True):
    """The project's own files."""

    digest: str
    """sha256 of names and contents."""
    files: dict[str, str]
    """Path -> sha256."""
    commit: str = ""
    """Empty outside git."""
    diff: str = ""
    """How the files that git knows differ from the commit."""
    dirty: bool = False
    """Whether there is a difference, or a file that git does not know."""

    @property
    def state(self) -> str:
        """The commit, with `+` where the files are not those of it; empty outside git."""
        return f"{self.commit}+" if self.commit and self.dirty else self.commit


def environment() -> Environment:
    """That of this process."""
    packages, unpublished = set(), set()
    for one in metadata.distributions():
        name = normal(one.metadata["Name"] or "")
        if not name:
            continue
        packages.add(f"{name}=={one.version}")
        if one.read_text("direct_url.json"):
            unpublished.add(name)
    return Environment(
        python=platform.python_version(),
        system=system(),
        packages=tuple(sorted(packages)),
        unpublished=tuple(sorted(unpublished)),
    )


def normal(name: str) -> str:
    """The name of a package as indexes compare it."""
    return _SEPARATORS.sub("-", name).lower()


def system() -> str:
    """The kind of machine that packages are built for."""
    return f"{platform.system()} {platform.machine()}"


def hardware() -> dict[str, str]:
    """Processor, cores and memory."""
    import psutil

    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return {
        "processor": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{psutil.virtual_memory().total >> 20} MiB",
        "python": sys.version.split()[0],
    }


def code(folder: Path) -> Code:
    """The state of the code of a project."""
    files = {path.relative_to(folder).as_posix(): _sha256(path) for path in _sources(folder)}
    digest = hashlib.sha256(msgspec.json.encode(files, order="sorted")).hexdigest()
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return Code(digest, files)
    dirty = bool(_git(folder, "status", "--porcelain", "--", ".", ":!.rung"))
    return Code(digest, files, commit, _git(folder, "diff", "HEAD", "--", ".") if dirty else "", dirty)


def snapshot(folder: Path, into: Path) -> None:
    """Pack the project's own files into a `.tar.gz` whose bytes depend on nothing else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in _sources(folder):
            content = path.read_bytes()
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    import gzip

    into.write_bytes(gzip.compress(buffer.getvalue(), mtime=0))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack what `snapshot` packed; nothing can land outside `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "r:gz") as content:
        content.extractall(folder, filter="data")


def _sources(folder: Path) -> Iterator[Path]:
    """Files that are code or settings: small, of a known kind, and not hidden. Pictures and tables are data."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith((".", "__")) and name not in ("out", "node_modules", "venv")
        )
        for name in sorted(names):
            path = Path(place, name)
            if path.suffix in _SUFFIXES and not name.startswith(".") and path.stat().st_size <= _LARGEST:
                yield path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""

"""What two trained models are compared by: a digest of what they hold, whatever the moment they were written."""

import hashlib
import zipfile
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["weights_digest"]

_SCHEMA = "schema.json"


def weights_digest(artifact: Path) -> str:
    """sha256 of a model file or folder.

    A zip counts by what is in it, without the times of its entries; of a skops file the numbers that stand for
    objects, which are addresses in memory, count by the order in which they come.
    """
    if artifact.is_dir():
        files = sorted(path for path in artifact.rglob("*") if path.is_file())
        return _joined([(path.relative_to(artifact).as_posix(), _of_file(path)) for path in files])
    return _of_file(artifact)


def _of_file(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if _SCHEMA in names:
            return _of_skops(archive)
        return _joined([(name, hashlib.sha256(archive.read(name)).hexdigest()) for name in sorted(names)])


def _of_skops(archive: zipfile.ZipFile) -> str:
    schema = msgspec.json.decode(archive.read(_SCHEMA))
    seen: dict[Any, int] = {}
    parts: list[tuple[str, str]] = []

    def plain(node: Any) -> Any:
        if isinstance(node, list):
            return [plain(one) for one in node]
        if not isinstance(node, dict):
            return node
        made = {}
        for key, value in node.items():
            if key == "__id__":
                made[key] = seen.setdefault(value, len(seen))
            elif key == "file" and isinstance(value, str) and "__loader__" in node:
                # Named by the same addresses. A vocabulary may hold the word as well.
                parts.append((str(len(parts)), hashlib.sha256(archive.read(value)).hexdigest()))
                made[key] = len(parts)
            else:
                made[key] = plain(value)
        return made

    text = msgspec.json.encode(plain(schema))
    return _joined([*parts, (_SCHEMA, hashlib.sha256(text).hexdigest())])


def _joined(parts: list[tuple[str, str]]) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

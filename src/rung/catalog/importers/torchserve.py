"""TorchServe: a `.mar` archive, of which the model's file and the names of its classes are taken."""

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from rung.catalog.importers.plan import Found, Plan, named
from rung.domain.errors import ConfigurationError, InvalidInput
from rung.domain.names import check_version

__all__ = ["is_mar", "plan_mar"]

_MANIFEST = "MAR-INF/MANIFEST.json"
_LABELS = "index_to_name.json"
_MOST_FILES = 10_000
_LARGEST = 8 << 30
"""Bytes that an archive may unpack to."""
_DENSEST = 200
"""Times its size that an archive may unpack to, once that is over 64 MiB."""
_HANDLERS = {
    "image_classifier": "classification",
    "image_segmenter": "segmentation",
    "object_detector": "detection",
    "text_classifier": "text-classification",
    "base_handler": "",
    "": "",
}
"""TorchServe's own handlers -> task."""


def is_mar(path: Path) -> bool:
    """Whether a file is called a model archive."""
    return path.is_file() and path.suffix in {".mar", ".war"}


def plan_mar(path: Path, scratch: Path, *, trust: bool) -> Plan:
    """What a `.mar` holds; the model's file is unpacked into `scratch`, nothing else is.

    `trust` takes the model without the handler that its author put round it. Code is not run either way.

    Raises:
        ConfigurationError: it is no such archive, or one made to do harm.
    """
    plan = Plan(f"a TorchServe archive, {path.name}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = _checked(path, archive)
            if _MANIFEST not in entries:
                raise ConfigurationError(f"{path.name} has no {_MANIFEST}: torch-model-archiver did not write it")
            manifest = _json(path, archive, entries[_MANIFEST])
            _plan_model(plan, path, archive, entries, manifest, scratch, trust)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ConfigurationError(
            f"{path.name} is not a zip file that can be read ({error}): TorchServe's tgz and no-archive forms "
            "have to be unpacked first"
        ) from None
    return plan


def _checked(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries = archive.infolist()
    size, packed = sum(entry.file_size for entry in entries), path.stat().st_size
    if len(entries) > _MOST_FILES or size > _LARGEST or size > max(64 << 20, _DENSEST * packed):
        raise ConfigurationError(
            f"{path.name} holds {len(entries)} files of {size:,} bytes in {packed:,}: more than a model archive does"
        )
    for entry in entries:
        parts = PurePosixPath(entry.filename).parts
        if entry.filename.startswith("/") or ".." in parts or "\\" in entry.filename or ":" in entry.filename:
            raise ConfigurationError(f"{path.name} holds {entry.filename!r:.200}, a path that leads out of the archive")
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ConfigurationError(f"{path.name} holds {entry.filename!r:.200}, a symbolic link")
    named = {entry.filename: entry for entry in entries}
    if len(named) < len(entries):
        raise ConfigurationError(f"{path.name} holds two files of one name")
    return named


def _json(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> dict[str, Any]:
    if entry.file_size > 1 << 24:
        raise ConfigurationError(f"{path.name}: {entry.filename} has {entry.file_size:,} bytes, too many for that")
    try:
        return msgspec.json.decode(archive.read(entry), type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(f"{path.name}: {entry.filename} cannot be read: {error}") from None


def _plan_model(
    plan: Plan,
    path: Path,
    archive: zipfile.ZipFile,
    entries: dict[str, zipfile.ZipInfo],
    manifest: dict[str, Any],
    scratch: Path,
    trust: bool,
) -> None:
    model = manifest.get("model")
    model = model if isinstance(model, dict) else {}
    name, file, handler = (str(model.get(key) or "") for key in ("modelName", "serializedFile", "handler"))
    name = name or path.stem
    code = sorted({file for file in entries if file.endswith((".py", ".so"))} | ({handler} - _HANDLERS.keys()))
    if code and not trust:
        plan.leave(
            name,
            f"its handler is code of its author ({', '.join(code[:3])}), which is never run; with --trust the model "
            "is taken without it, and answers what the model answers and not what the handler makes of that",
        )
        return
    if not file or file not in entries:
        plan.leave(name, f"the archive holds no {file or 'serialized model'}: its weights are only made by code")
        return
    for piece in code:
        plan.leave(f"{name}: {piece}", "code is left behind; declare transforms for what it did round the model")
    task = _HANDLERS.get(handler, "")
    if task:
        plan.leave(f"{name}: handler {handler}", "how it prepares its input is not in the archive; declare transforms")
    others = entries.keys() - {_MANIFEST, _LABELS, file, *code}
    for other in sorted(other for other in others if not other.endswith("/"))[:20]:
        plan.leave(f"{name}: {other}", "an extra file of the handler's")
    labels = _labels(_json(path, archive, entries[_LABELS])) if _LABELS in entries else ()
    target = scratch / PurePosixPath(file).name
    with archive.open(entries[file]) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy)
    # TorchScript keeps no shapes, and torch-model-archiver asks for none: whoever moves states them beside the archive.
    stated = path.with_name(f"{target.name}.signature.json")
    if stated.is_file():
        shutil.copyfile(stated, scratch / stated.name)
    version = _version(plan, name, str(model.get("modelVersion") or ""))
    plan.found.append(Found(named(plan, name), target, f"{path.name}: {file}", version, task, labels))


def _version(plan: Plan, name: str, stated: str) -> int:
    """`1.0` and `3` are versions; what is no whole number takes the next."""
    try:
        return check_version(stated.removesuffix(".0"))
    except InvalidInput:
        if stated:
            plan.leave(f"{name}: modelVersion {stated}", "a version is a whole number from 1; it takes the next")
        return 0


def _labels(index: dict[str, Any]) -> tuple[str, ...]:
    """`{"0": "cat"}` and `{"0": ["n01", "cat"]}`, in order, where the numbers run from 0 without a gap."""
    values = [index.get(str(number)) for number in range(len(index))]
    names = [value[-1] if isinstance(value, list) and value else value for value in values]
    return tuple(map(str, names)) if None not in names else ()

"""Which files an ONNX model reads beside itself, found without loading it.

A tensor of an ONNX file may name another file that holds its bytes. A hostile model names `/etc/passwd`
and answers with it, so the names are checked before onnxruntime sees the model: older releases of it follow
any path, newer ones still follow hard links. This walks the protobuf wire format down the fields that
lead to tensors and skips the rest, so weights are never read.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from rung.domain.errors import BundleError

__all__ = ["external_files", "looks_like_onnx"]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_DEEPEST = 64

# Message -> field number -> message it holds (of onnx.proto); what is not named here leads to no tensor.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
_MODEL_FIELDS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26})
_GRAPH, _OPSETS = 7, 8


def external_files(path: Path) -> list[Path]:
    """Return the files that the model at `path` reads beside itself, each once.

    Raises:
        BundleError: the model is not ONNX, or names a file that is missing, is not a plain file, or lies
            (or is linked) outside the model's folder.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # The key that every such reference has: most models have none, and need no walk.
            if data.find(b"location") < 0:
                return []
            with memoryview(data) as view:
                names = dict.fromkeys(_locations(view, "model", 0))
    except OSError as error:
        raise BundleError(f"{path.name} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BundleError(
            f"{path.name} is not an ONNX file: {error if path.stat().st_size else 'it is empty'}"
        ) from None
    return [_inside(path, name) for name in names]


def looks_like_onnx(path: Path) -> bool:
    """Whether the file is, from first to last byte, fields of an ONNX model."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            numbers = set()
            with memoryview(data) as view:
                for number, _, part in _fields(view):
                    part.release()
                    if number not in _MODEL_FIELDS:
                        return False
                    numbers.add(number)
            return {_GRAPH, _OPSETS} <= numbers
    except (ValueError, OSError):
        return False


def _inside(model: Path, name: str) -> Path:
    refusal = f"{model.name} wants to read {name!r}, which is "
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
        raise BundleError(refusal + "not a path inside its own folder: save the model again with relative file names")
    folder = model.resolve().parent
    file = folder / name
    if file.resolve() != file:
        raise BundleError(refusal + "a symbolic link: put the file itself into the model's folder")
    if not file.is_file():
        raise BundleError(refusal + "not there: copy the file beside the model, under this name")
    if file.stat().st_nlink > 1:
        raise BundleError(refusal + "a hard link to a file elsewhere: put a copy into the model's folder")
    return file


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    inner = _FIELDS[kind]
    for number, wire, part in _fields(message):
        with part:
            held = inner.get(number)
            if held is None or wire != _BYTES:
                continue
            if held != "external":
                yield from _locations(part, held, depth + 1)
                continue
            entry = {field: bytes(value) for field, _, value in _fields(part)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode()


def _fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, wire type and bytes of each field; ValueError where the bytes are no message."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        wire, size = tag & 7, 0
        if wire == _VARINT:
            _, at = _varint(message, at)
        elif wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"field {tag >> 3} has wire type {wire}")
        if at + size > end:
            raise ValueError("it is cut short")
        yield tag >> 3, wire, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it is cut short")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number in it is too long")

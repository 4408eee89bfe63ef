"""A folder of files: pictures with their class as the folder's name, or pictures beside their masks."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rung.data.sources import Address
from rung.domain.datasets import Piece, Quarantined
from rung.domain.errors import ConfigurationError, InvalidData

__all__ = ["open_folder"]

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_BYTES = 4 << 20
_LARGEST = 256 << 20


class _Folder:
    incremental = False

    def __init__(self, address: Address) -> None:
        address.allow("check")
        self._check = address.options.get("check") != "no"
        self._folder = address.folder / address.rest
        if not self._folder.is_dir():
            raise ConfigurationError(f"there is no folder {self._folder}")

    def read(self, cursor: str) -> Iterator[Piece]:
        """Files in the order of their paths: `name`, `path`, the bytes as `image` or `file`, `label` or `mask`."""
        masks = self._folder / "masks"
        paired = (self._folder / "images").is_dir() and masks.is_dir()
        base = self._folder / "images" if paired else self._folder
        rows: list[dict[str, Any]] = []
        refused: list[Quarantined] = []
        size = 0
        for number, path in enumerate(sorted(one for one in base.rglob("*") if _wanted(one, base)), 1):
            try:
                row = _row(path, base, masks if paired else None, check=self._check)
            except _Bad as error:
                refused.append(Quarantined(str(path), number, str(error), ""))
                continue
            except OSError as error:
                raise InvalidData(f"{path} cannot be read: {error.strerror or error}") from None
            rows.append(row)
            size += sum(len(value) for value in row.values() if isinstance(value, bytes))
            if size >= _BYTES:
                yield _piece(rows, refused)
                rows, refused, size = [], [], 0
        yield _piece(rows, refused)

    def keep(self, cursor: str) -> None:
        """Nothing to keep."""


class _Bad(Exception):
    """A file that will not do."""


def _wanted(path: Path, base: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(base).parts)


def _row(path: Path, base: Path, masks: Path | None, *, check: bool) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST:
        raise _Bad(f"larger than {_LARGEST >> 20} MiB")
    content = path.read_bytes()
    within = path.relative_to(base)
    picture = path.suffix.lower() in _PICTURES
    row: dict[str, Any] = {"name": path.stem, "path": within.as_posix(), "image" if picture else "file": content}
    if picture and check:
        _check_picture(content)
    if masks is not None:
        found = [one for one in (masks / within.with_suffix(suffix) for suffix in sorted(_PICTURES)) if one.is_file()]
        if not found:
            raise _Bad(f"no mask of its name in {masks.name}")
        row["mask"] = found[0].read_bytes()
        if check:
            _check_picture(row["mask"])
    elif len(within.parts) > 1:
        row["label"] = within.parts[0]
    return row


def _check_picture(content: bytes) -> None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _Bad(f"no picture that can be read: {error}") from None


def _piece(rows: list[dict[str, Any]], refused: list[Quarantined]) -> Piece:
    import polars as pl

    return Piece(pl.DataFrame(rows, infer_schema_length=None), refused)


def open_folder(address: Address) -> _Folder:
    """`files:FOLDER`: classes as sub-folders, or `images` and `masks` with equal names.

    With `check=no` pictures are not looked into: whoever reads them finds out what is none.
    """
    return _Folder(address)

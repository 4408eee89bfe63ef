"""Where the images come from: a folder, the official archive, or drawn ones, in that order.

Image set BBBC038v1 of the Broad Bioimage Benchmark Collection (2018 Data Science Bowl, stage 1), CC0 1.0;
Caicedo et al., Nature Methods 16, 1247 (2019). `checksums.csv` names the images used here, with the SHA-256
of each file and the split it belongs to, so that everybody trains and measures on the same pixels.
"""

import csv
import hashlib
import io
import os
import urllib.error
import urllib.request
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

__all__ = ["ARCHIVE", "DataError", "Dataset", "Sample", "domain_of", "find"]

ARCHIVE = "https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"
HERE = Path(__file__).resolve().parent
BESIDE_THE_REPOSITORY = HERE.parents[2] / "shared" / "data" / "nuclei_dsb2018"
CHECKSUMS = HERE / "checksums.csv"
MATCHING = 0.9
"""Share of the listed images that a downloaded archive has to hold unchanged."""

Array = np.ndarray[Any, np.dtype[Any]]
Notify = Callable[[int, int], None]
"""Called with bytes received so far and bytes in all (0 when unknown)."""


class DataError(Exception):
    """These images cannot be used; the message says why and what would do."""


class Sample(NamedTuple):
    """One picture with its truth."""

    id: str
    domain: str
    split: str
    """`train`, `val` or `test`."""
    image: bytes
    """The file as it came, to be decoded by the bundle's own steps."""
    mask: Array
    """uint8 [H, W], 1 where there is a nucleus."""


class Dataset(NamedTuple):
    """All samples, and a sentence that says where they are from."""

    kind: str
    """`folder`, `archive` or `drawn`."""
    where: str
    samples: tuple[Sample, ...]

    def select(self, domain: str, split: str) -> list[Sample]:
        """Return the samples of one domain and split, in the order of their ids."""
        return [sample for sample in self.samples if (sample.domain, sample.split) == (domain, split)]

    def counts(self) -> dict[str, Counter[str]]:
        """Return domain -> split -> number of images."""
        table: dict[str, Counter[str]] = {}
        for sample in self.samples:
            table.setdefault(sample.domain, Counter())[sample.split] += 1
        return dict(sorted(table.items()))


def domain_of(pixels: Array) -> str:
    """Name the kind of microscopy and the size of a picture, such as `fluo_256` or `stained_256x320`.

    Stained tissue has colour; of the grey ones, fluorescence is dark and brightfield is light.
    Fluorescence of 256 x 320 comes from the microscope of the 256 x 256 ones and counts as that.

    Args:
        pixels: uint8 [H, W, 3].
    """
    red, green, blue = (pixels[..., channel] for channel in range(3))
    light, dark = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    saturation = float((light - dark).mean())
    kind = "stained" if saturation > 4 else "fluo" if pixels.mean() < 96 else "brightfield"
    height, width = pixels.shape[:2]
    if height == width or (kind, height, width) == ("fluo", 256, 320):
        return f"{kind}_{height}"
    return f"{kind}_{height}x{width}"


def find(data: str | Path | None = None, notify: Notify | None = None, *, download: bool = True) -> Dataset:
    """Return the images: from `data`, `RUNG_DATA`, beside the repository, the archive, or drawn.

    A folder has `manifest.csv`, `images/` and `masks/`. A folder that was asked for by name is never replaced
    by something else.

    Raises:
        DataError: the folder that was asked for does not hold the images.
    """
    asked = data or os.environ.get("RUNG_DATA")
    if asked:
        return _folder(Path(asked).expanduser())
    if (BESIDE_THE_REPOSITORY / "manifest.csv").is_file():
        return _folder(BESIDE_THE_REPOSITORY)
    if not download:
        return _drawn("no images were found and downloading is switched off")
    try:
        return _archive(_download(notify or (lambda _received, _total: None)))
    except (DataError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = getattr(error, "reason", error)
        return _drawn(f"no folder with images was found and {ARCHIVE} cannot be used ({reason})")


@cache
def _folder(folder: Path) -> Dataset:
    try:
        with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        samples = [_read(folder, row) for row in rows]
    except (OSError, KeyError) as error:
        raise DataError(
            f"{folder} does not hold the images: manifest.csv, images/ID.png and masks/ID.png are expected ({error})"
        ) from error
    return Dataset("folder", f"the folder {folder}", tuple(sorted(samples, key=_by_id)))


def _by_id(sample: Sample) -> str:
    return sample.id


def _read(folder: Path, row: dict[str, str]) -> Sample:
    image = (folder / "images" / f"{row['id']}.png").read_bytes()
    if hashlib.sha256(image).hexdigest() != row["image_sha256"]:
        raise DataError(f"images/{row['id']}.png in {folder} is not the file that manifest.csv names: copy it again")
    mask = _pixels((folder / "masks" / f"{row['id']}.png").read_bytes(), "L")
    return Sample(row["id"], domain_of(_pixels(image)), row["split"], image, (mask > 0).astype(np.uint8))


def _pixels(data: bytes, mode: str = "RGB") -> Array:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        return np.asarray(image.convert(mode))


def _download(notify: Notify) -> Path:
    """Fetch the archive into the user's cache, once."""
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rung" / "nuclei" / "stage1_train.zip"
    if cached.is_file():
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    part = cached.with_suffix(".part")
    with urllib.request.urlopen(ARCHIVE, timeout=20) as response, part.open("wb") as file:
        total, received = int(response.headers.get("content-length") or 0), 0
        while chunk := response.read(1 << 20):
            file.write(chunk)
            received += len(chunk)
            notify(received, total)
    if total and received != total:
        raise DataError(f"the download ended after {received} of {total} bytes")
    part.replace(cached)
    return cached


def _archive(path: Path) -> Dataset:
    """Read the listed images out of the official archive, each checked against the list.

    The publisher gives no checksum of the archive itself. Its masks, one file for each nucleus, are checked
    by the archive's own CRCs only.
    """
    with CHECKSUMS.open(newline="", encoding="utf-8") as file:
        listed = {row["id"]: row for row in csv.DictReader(file)}
    images: dict[str, str] = {}
    masks: dict[str, list[str]] = {}
    samples = []
    with _opened(path) as archive:
        for name in archive.namelist():
            parts = name.split("/")
            if len(parts) >= 3 and name.endswith(".png") and (key := parts[-3][:16]) in listed:
                if parts[-2] == "images":
                    images[key] = name
                elif parts[-2] == "masks":
                    masks.setdefault(key, []).append(name)
        for key, row in sorted(listed.items()):
            image = archive.read(images[key]) if key in images else b""
            if hashlib.sha256(image).hexdigest() != row["sha256"] or key not in masks:
                continue
            mask = np.maximum.reduce([_pixels(archive.read(name), "L") for name in masks[key]])
            domain = domain_of(_pixels(image))
            samples.append(Sample(key, domain, row["split"], image, (mask > 0).astype(np.uint8)))
        if len(samples) < MATCHING * len(listed):
            raise DataError(f"only {len(samples)} of the {len(listed)} listed images in it have the right checksum")
    return Dataset("archive", f"the official archive, {len(samples)} of {len(listed)} images as listed", tuple(samples))


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open the archive; one that turns out to be bad leaves the cache, so that the next run fetches it again."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (DataError, zipfile.BadZipFile, zlib.error):
        path.unlink()
        raise


def _drawn(reason: str) -> Dataset:
    """Draw ellipses that look a little like nuclei: enough to see everything run, no proof of quality."""
    rng = np.random.default_rng(38)
    samples: list[Sample] = []
    plan = [("train", False, 96), ("val", False, 16), ("test", False, 40), ("test", True, 8)]
    for split, stained, count in plan:
        for _ in range(count):
            image, mask = _draw(rng, stained=stained)
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "PNG", compress_level=1)
            samples.append(Sample(f"drawn{len(samples):04d}", domain_of(image), split, buffer.getvalue(), mask))
    return Dataset("drawn", f"DRAWN IMAGES, not real ones: {reason}", tuple(samples))


def _draw(rng: np.random.Generator, *, stained: bool) -> tuple[Array, Array]:
    height, width = (256, 320) if stained else (256, 256)
    shapes = Image.new("L", (width, height))
    light = Image.new("L", (width, height))
    for _ in range(int(rng.integers(8, 60))):
        x, y, a, b = (*rng.uniform(0, (width, height)), *rng.uniform(5, 12, 2))
        box = (x - a, y - b, x + a, y + b)
        ImageDraw.Draw(shapes).ellipse(box, fill=255)
        ImageDraw.Draw(light).ellipse(box, fill=int(rng.integers(120, 256)))
    mask = (np.asarray(shapes) > 0).astype(np.uint8)
    glow = np.asarray(light.filter(ImageFilter.GaussianBlur(1.2)), np.float64)[..., None] / 255
    noise = rng.normal(0, 1, (height, width, 1))
    if stained:
        image = np.array((232, 200, 222)) - glow * np.array((140, 130, 80)) + 6 * noise
    else:
        image = rng.uniform(2, 14) + glow * rng.uniform(25, 150) + 1.5 * noise + np.zeros(3)
    return image.clip(0, 255).astype(np.uint8), mask

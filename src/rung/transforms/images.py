"""Pictures to tensors: decode, resize, normalize, layout.

Each step is a `ports.Transform`. The context of an item gathers what the heads need to undo them:

- `image`: uint8 [H, W, 3], the upright picture as decoded;
- `size`: (H, W) before the first resize;
- `frame`: (height, width) after the last resize;
- `window`: (top, left, height, width) as fractions of that frame, where the picture lies in it.

The same bytes give the same tensor, bit for bit, wherever the step runs.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.domain.tensors import Array

__all__ = ["METHODS", "decode", "layout", "normalize", "resize"]

METHODS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
}
"""Name of a resampling method -> Pillow's filter. Bilinear widens its support when it shrinks, so it does not alias."""

_FORMATS = ("jpeg", "png", "bmp", "gif", "tiff", "webp")
# Formats whose Pillow reader runs no other program.
_SCAN_BUDGET = 32
# A progressive JPEG of a few kilobytes may ask for hundreds of passes over all pixels: `max_pixels` times
# this many pixel visits are allowed in all, which real cameras stay far below.
_ORIENTATION_TAG = 0x0112
_UPRIGHT: dict[int, tuple[bool, bool, bool]] = {
    # EXIF orientation -> (swap axes, then flip rows, then flip columns)
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


def decode(
    value: Any,
    context: dict[str, Any],
    *,
    max_pixels: int = 50_000_000,
    max_bytes: int = 64 * 2**20,
    formats: Sequence[str] = ("jpeg", "png"),
) -> Array:
    """Turn the bytes of a picture into uint8 [H, W, 3] RGB, upright as its EXIF says.

    Grey and palette pictures become RGB. Of 16-bit samples the high byte is kept. CMYK is converted without
    a colour profile. An alpha channel is dropped and the stored colours stay, as most training code does.
    Dimensions are checked in the header, before any pixel is decoded.

    Args:
        value: the file's bytes.
        context: receives `image` and `size`.
        max_pixels: largest height x width.
        max_bytes: largest file.
        formats: of `jpeg`, `png`, `bmp`, `gif`, `tiff`, `webp`.

    Raises:
        InvalidInput: not a whole, still picture of these formats within these limits.
        ConfigurationError: `formats` names one that is not offered.
    """
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidInput("an image is expected: send the bytes of the file")
    if len(value) > max_bytes:
        raise InvalidInput(f"the image file has {len(value)} bytes, the limit is {max_bytes}")
    with _open(value, formats) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise InvalidInput(f"the image has {width} x {height} pixels, the limit is {max_pixels} in all")
        is_jpeg = image.format in ("JPEG", "MPO")
        if is_jpeg and width * height * bytes(value).count(b"\xff\xda") > _SCAN_BUDGET * max_pixels:
            raise InvalidInput("the JPEG image asks for too many passes over its pixels: save it as a baseline JPEG")
        # The second picture in a phone's JPEG is a preview or a depth map, not an animation.
        if not is_jpeg and getattr(image, "n_frames", 1) > 1:
            raise InvalidInput("the image is animated or has several pages: send one still picture")
        pixels = _upright(_pixels(image, value, is_jpeg), _orientation(image))
    context["image"] = pixels
    context["size"] = pixels.shape[:2]
    return pixels


def resize(
    value: Array,
    context: dict[str, Any],
    *,
    height: int,
    width: int,
    method: str = "bilinear",
    keep_aspect: bool = False,
    pad: float = 0,
) -> Array:
    """Scale [H, W, C] of uint8 or float32 to [height, width, C], the same dtype.

    Args:
        value: the picture.
        context: receives `size` (unless a step before set it), `frame` and `window`.
        height: of the result, in pixels.
        width: of the result, in pixels.
        method: `bilinear`, `nearest` or `area`.
        keep_aspect: scale by one factor, centre, and fill the border with `pad`.
        pad: value of the border.

    Raises:
        ConfigurationError: an unknown method, or a size below 1.
    """
    if method not in METHODS or height < 1 or width < 1:
        raise ConfigurationError(
            f"image.resize takes height and width from 1 and a method of {', '.join(METHODS)}, "
            f"not {height}, {width} and {method!r}"
        )
    rows, columns = value.shape[:2]
    context.setdefault("size", (rows, columns))
    context["frame"] = (height, width)
    if not keep_aspect:
        context["window"] = (0.0, 0.0, 1.0, 1.0)
        return _scale(value, height, width, method)
    factor = min(height / rows, width / columns)
    inner_height = min(height, max(1, round(rows * factor)))
    inner_width = min(width, max(1, round(columns * factor)))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    framed = np.full((height, width, value.shape[2]), pad, value.dtype)
    framed[top : top + inner_height, left : left + inner_width] = _scale(value, inner_height, inner_width, method)
    context["window"] = (top / height, left / width, inner_height / height, inner_width / width)
    return framed


def normalize(
    value: Array,
    context: dict[str, Any],
    *,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    scale: float | None = None,
) -> Array:
    """Return `(value * scale - mean) / std` as float32; channels lie on the last axis.

    Args:
        value: uint8 or float [H, W, C].
        context: not used.
        mean: one number, or one per channel.
        std: one number, or one per channel; not 0.
        scale: 1/255 for uint8 and 1 for the rest when not given.

    Raises:
        ConfigurationError: as many means or deviations as there are no channels, or a deviation of 0.
    """
    if scale is None:
        scale = 1 / 255 if value.dtype == np.uint8 else 1.0
    mean_of, std_of = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    channels = value.shape[-1]
    if any(given.ndim and given.shape != (channels,) for given in (mean_of, std_of)) or not std_of.all():
        raise ConfigurationError(
            f"image.normalize takes one mean and one std other than 0, or {channels} of each, not {mean} and {std}"
        )
    result = value.astype(np.float32)
    result *= (scale / std_of).astype(np.float32)
    if mean_of.any():
        result -= (mean_of / std_of).astype(np.float32)
    return result


def layout(value: Array, context: dict[str, Any], *, order: str = "CHW") -> Array:
    """Return [H, W, C] as contiguous [C, H, W] (`order="CHW"`) or as it is (`order="HWC"`).

    Args:
        value: the picture.
        context: not used.
        order: `CHW` or `HWC`.

    Raises:
        ConfigurationError: another order.
    """
    if order == "CHW":
        return np.ascontiguousarray(value.transpose(2, 0, 1))
    if order == "HWC":
        return np.ascontiguousarray(value)
    raise ConfigurationError(f"image.layout knows the orders CHW and HWC, not {order!r}")


def _open(value: Any, formats: Sequence[str]) -> Image.Image:
    """Read the header and nothing more."""
    unknown = [name for name in formats if name not in _FORMATS]
    if unknown:
        raise ConfigurationError(f"image.decode reads {', '.join(_FORMATS)}, not {', '.join(map(repr, unknown))}")
    try:
        return Image.open(io.BytesIO(value), formats=[name.upper() for name in formats])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InvalidInput("the image has far more pixels than any limit here allows") from None
    except Exception as error:
        # Pillow's readers raise whatever a damaged header leads them to.
        if not value:
            raise InvalidInput("the image is empty: send the bytes of the file") from None
        raise InvalidInput(f"the bytes are no {' or '.join(map(str.upper, formats))} image that can be read") from error


def _pixels(image: Image.Image, value: Any, is_jpeg: bool) -> Array:
    if is_jpeg and image.mode in ("RGB", "L"):
        try:
            return simplejpeg.decode_jpeg(value, "RGB", fastdct=False, fastupsample=False)  # type: ignore[no-any-return]
        except ValueError:
            # It is strict: harmless stray bytes count as damage. Pillow tells the two apart.
            pass
    if image.mode in ("I", "F"):
        raise InvalidInput("the image has 32-bit samples: send 8 or 16 bits per channel")
    try:
        image.load()
        # Else Pillow warns that the conversion to RGB loses it.
        image.info.pop("transparency", None)
        if image.mode.startswith("I;16"):
            grey = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(grey[:, :, None], 3, axis=2)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as error:
        # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more on damaged files.
        raise InvalidInput(f"the image is damaged or truncated: {error}") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # noqa: BLE001
        # Damaged metadata does not make the picture unreadable.
        return 1


def _upright(pixels: Array, orientation: int) -> Array:
    if orientation not in _UPRIGHT:
        return pixels
    swap, flip_rows, flip_columns = _UPRIGHT[orientation]
    if swap:
        pixels = pixels.transpose(1, 0, 2)
    return np.ascontiguousarray(pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


def _scale(value: Array, height: int, width: int, method: str) -> Array:
    if value.shape[:2] == (height, width):
        return value
    size, resampling = (width, height), METHODS[method]
    if value.dtype == np.uint8 and value.shape[2] == 3:
        return np.asarray(Image.fromarray(value).resize(size, resampling))
    # One plane at a time: Pillow knows no other many-channel image.
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(value[:, :, channel])).resize(size, resampling))
        for channel in range(value.shape[2])
    ]
    return np.stack(planes, axis=2)

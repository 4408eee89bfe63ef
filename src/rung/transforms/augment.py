"""Pictures changed at random while a model trains, so that it learns what does not matter.

What is drawn depends on seed, sample, epoch and the step's place alone: neither the order of samples nor the number of
processes changes a picture, and an interrupted run goes on with the same ones. A mask takes part in what moves pixels,
and keeps its values.
"""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from PIL import Image

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.domain.tensors import Array

__all__ = ["Augmentation", "Brightness", "Crop", "Flip", "Grey", "Quarters", "Resize", "Rotate", "augment"]

_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness: ITU-R BT.601."""
_INT32 = 2**31


class Resize(msgspec.Struct, frozen=True):
    """To one size, always: bilinear, a mask by the nearest pixel."""

    height: int
    width: int


class Crop(msgspec.Struct, frozen=True):
    """A piece of this size from anywhere within."""

    height: int
    width: int


class Flip(msgspec.Struct, frozen=True):
    """Left to right, and if wanted upside down, each with probability `chance`."""

    horizontal: bool = True
    vertical: bool = False
    chance: float = 0.5


class Quarters(msgspec.Struct, frozen=True):
    """By 0, 90, 180 or 270 degrees, each as probable; height and width change places."""


class Rotate(msgspec.Struct, frozen=True):
    """By an angle of up to `degrees` either way, about the centre; the size stays, corners become `fill`."""

    degrees: float = 15.0
    fill: int = 0


class Grey(msgspec.Struct, frozen=True):
    """Without colour, with probability `chance`; pictures without three or four channels stay."""

    chance: float = 0.1


class Brightness(msgspec.Struct, frozen=True):
    """Times a factor between 1 - `by` and 1 + `by`, cut off at 255."""

    by: float = 0.2


Augmentation = Resize | Crop | Flip | Quarters | Rotate | Grey | Brightness
_Pair = tuple[Array, Array | None]


def augment(
    image: Array, mask: Array | None, steps: Sequence[Augmentation], *, seed: int, sample: int, epoch: int
) -> tuple[Array, Array | None]:
    """One picture, and its mask if it has one, through the steps in their order.

    Args:
        image: uint8 [height, width, channels].
        mask: integers or booleans [height, width], or None.
        steps: what is done.
        seed: of the run.
        sample: number of the picture among all of them, the same in each epoch.
        epoch: number of the epoch; another one draws anew.

    Returns:
        New arrays of the same types; the arguments stay as they are.

    Raises:
        InvalidInput: no such picture, a mask of another size, or a piece larger than the picture.
        ConfigurationError: a step that contradicts itself.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or not image.size:
        raise InvalidInput(f"a picture is uint8 [height, width, channels], not {image.dtype} {list(image.shape)}")
    if mask is not None and (mask.shape != image.shape[:2] or mask.dtype.kind not in "iub"):
        raise InvalidInput(
            f"the mask of a picture of {image.shape[0]} x {image.shape[1]} pixels is integers or booleans of "
            f"that size, not {mask.dtype} {list(mask.shape)}"
        )
    pair: _Pair = image, mask
    for place, step in enumerate(steps):
        try:
            act = _ACTS[type(step)]
        except KeyError:
            raise ConfigurationError(f"{step!r:.60} is no augmentation of rung.transforms.augment") from None
        pair = act(step, pair, np.random.default_rng((seed, sample, epoch, place)))
    done, masked = pair
    # Neither views of the arguments nor arrays that run backwards, which torch does not take.
    return _owned(done, image), masked if masked is None or mask is None else _owned(masked, mask)


def _owned(array: Array, given: Array) -> Array:
    return array.copy() if np.shares_memory(array, given) else np.ascontiguousarray(array)


def _resize(step: Resize, pair: _Pair, _draw: np.random.Generator) -> _Pair:
    if step.height < 1 or step.width < 1:
        raise ConfigurationError(f"Resize takes a height and a width from 1, not {step.height} and {step.width}")
    size = step.width, step.height
    image, mask = pair
    return (
        _by_channel(image, lambda one: one.resize(size, Image.Resampling.BILINEAR)),
        None if mask is None else _by_value(mask, lambda one: one.resize(size, Image.Resampling.NEAREST)),
    )


def _crop(step: Crop, pair: _Pair, draw: np.random.Generator) -> _Pair:
    height, width = pair[0].shape[:2]
    if not 1 <= step.height <= height or not 1 <= step.width <= width:
        raise InvalidInput(
            f"there is no piece of {step.height} x {step.width} pixels in a picture of {height} x {width}"
        )
    top = int(draw.integers(height - step.height + 1))
    left = int(draw.integers(width - step.width + 1))
    return _both(pair, lambda array: array[top : top + step.height, left : left + step.width])


def _flip(step: Flip, pair: _Pair, draw: np.random.Generator) -> _Pair:
    across, down = draw.random(2) < _share(step.chance, "Flip")
    if step.horizontal and across:
        pair = _both(pair, lambda array: array[:, ::-1])
    return _both(pair, lambda array: array[::-1]) if step.vertical and down else pair


def _quarters(_step: Quarters, pair: _Pair, draw: np.random.Generator) -> _Pair:
    turns = int(draw.integers(4))
    return _both(pair, lambda array: np.rot90(array, turns))


def _rotate(step: Rotate, pair: _Pair, draw: np.random.Generator) -> _Pair:
    if not 0 <= step.degrees <= 180 or not 0 <= step.fill <= 255:
        raise ConfigurationError(f"Rotate takes degrees from 0 to 180 and a fill from 0 to 255, not {step}")
    angle = float(draw.uniform(-step.degrees, step.degrees))
    image, mask = pair
    return (
        _by_channel(image, lambda one: one.rotate(angle, Image.Resampling.BILINEAR, fillcolor=step.fill)),
        None if mask is None else _by_value(mask, lambda one: one.rotate(angle, Image.Resampling.NEAREST)),
    )


def _grey(step: Grey, pair: _Pair, draw: np.random.Generator) -> _Pair:
    image, mask = pair
    if draw.random() >= _share(step.chance, "Grey") or image.shape[2] not in (3, 4):
        return pair
    grey = np.rint(image[..., :3] @ np.array(_LUMA)).astype(np.uint8)
    # The fourth channel says how opaque a pixel is, not which colour it has.
    return np.concatenate([np.repeat(grey[..., None], 3, axis=2), image[..., 3:]], axis=2), mask


def _brightness(step: Brightness, pair: _Pair, draw: np.random.Generator) -> _Pair:
    image, mask = pair
    factor = float(draw.uniform(1 - step.by, 1 + _share(step.by, "Brightness")))
    levels = np.rint(np.minimum(np.arange(256) * factor, 255)).astype(np.uint8)
    if image.shape[2] == 4:
        return np.concatenate([levels[image[..., :3]], image[..., 3:]], axis=2), mask
    return levels[image], mask


_ACTS: dict[type, Callable[..., _Pair]] = {
    Resize: _resize,
    Crop: _crop,
    Flip: _flip,
    Quarters: _quarters,
    Rotate: _rotate,
    Grey: _grey,
    Brightness: _brightness,
}


def _both(pair: _Pair, move: Callable[[Array], Array]) -> _Pair:
    image, mask = pair
    return move(image), None if mask is None else move(mask)


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise ConfigurationError(f"{name} takes a number from 0 to 1, not {value}")
    return value


def _by_channel(image: Array, act: Callable[[Image.Image], Image.Image]) -> Array:
    """Channels one by one, whatever they stand for."""
    channels = [np.asarray(act(Image.fromarray(np.ascontiguousarray(one)))) for one in np.moveaxis(image, 2, 0)]
    return np.stack(channels, axis=2)


def _by_value(mask: Array, act: Callable[[Image.Image], Image.Image]) -> Array:
    """A mask through Pillow, which knows 8 and 32 bits."""
    if mask.dtype == np.uint8 or mask.dtype.kind == "b":
        return np.asarray(act(Image.fromarray(np.ascontiguousarray(mask.astype(np.uint8))))).astype(mask.dtype)
    if mask.size and not -_INT32 <= int(mask.min()) <= int(mask.max()) < _INT32:
        raise InvalidInput("a mask holds numbers of up to 32 bits")
    return np.asarray(act(Image.fromarray(np.ascontiguousarray(mask.astype(np.int32))))).astype(mask.dtype)

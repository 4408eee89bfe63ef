"""A probability map becomes a mask at the picture's own size, in every form that people ask for."""

import io

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from rung.domain.errors import ConfigurationError, ModelError, NotAcceptable
from rung.transforms.heads import JSON, OVERLAY, PNG, RAW, Segmentation, count_regions, run_lengths, segmentation_mask
from rung.transforms.images import resize

RENDER = segmentation_mask.renderers
BOOLEANS = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def disc(height, width, centre, radius):
    rows, columns = np.mgrid[0:height, 0:width]
    return ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2).astype(np.uint8)


def read(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_logits_above_zero_are_foreground():
    result = segmentation_mask(np.array([[[-1000.0, -0.1], [0.1, 1000.0]]], np.float32), {})
    np.testing.assert_array_equal(result.mask, [[0, 0], [1, 1]])
    assert result.mask.dtype == np.uint8
    assert result.fraction == 0.5
    assert result.labels == ("foreground",)


def test_probabilities_meet_the_threshold():
    values = np.array([[0.2, 0.3], [0.5, 0.9]], np.float32)
    result = segmentation_mask(values, {}, activation="none", threshold=0.3, labels=["background", "nucleus"])
    np.testing.assert_array_equal(result.mask, [[0, 1], [1, 1]])
    assert result.labels == ("nucleus",)


@pytest.mark.parametrize("keep_aspect", [False, True])
@pytest.mark.parametrize("size", [(90, 150), (150, 90), (64, 64), (30, 20)])
def test_the_mask_comes_back_at_the_original_size(size, keep_aspect):
    height, width = size
    truth = disc(height, width, (height * 0.4, width * 0.6), min(size) * 0.3)
    context = {}
    picture = np.repeat(truth[:, :, None] * np.uint8(255), 3, 2)
    small = resize(picture, context, height=64, width=64, keep_aspect=keep_aspect)
    # A model whose output is half as large as its input.
    small = np.asarray(Image.fromarray(small).resize((32, 32), Image.Resampling.BOX))
    mask = segmentation_mask(small[None, :, :, 0] / 255, context, activation="none").mask
    assert mask.shape == size
    assert (mask & truth).sum() / (mask | truth).sum() > 0.85


def test_several_classes_take_the_largest():
    maps = np.zeros((3, 4, 4), np.float32)
    maps[0] = 0.5
    maps[1, :2] = 1
    maps[2, 3] = 2
    result = segmentation_mask(maps, {"labels": ("background", "cell", "nucleus")}, activation="none")
    np.testing.assert_array_equal(result.mask, maps.argmax(0))
    assert result.labels == ("cell", "nucleus")
    image = Image.open(io.BytesIO(RENDER[PNG](result)))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), result.mask)
    assert len({tuple(colour) for colour in np.asarray(image.convert("RGB")).reshape(-1, 3)}) == 3


def test_one_of_several_outputs():
    outputs = {"a": np.zeros((1, 2, 2), np.float32), "b": np.ones((1, 2, 2), np.float32)}
    assert segmentation_mask(outputs, {}, output="b").mask.all()
    with pytest.raises(ConfigurationError, match="'a', 'b'"):
        segmentation_mask(outputs, {})


def test_nonsense_from_the_model_is_the_models_error():
    with pytest.raises(ModelError, match="not finite"):
        segmentation_mask(np.full((1, 2, 2), np.nan, np.float32), {})
    with pytest.raises(ModelError, match=r"\[5\]"):
        segmentation_mask(np.zeros(5, np.float32), {})


def test_nonsense_in_the_manifest_is_the_operators_error():
    maps = np.zeros((1, 2, 2), np.float32)
    with pytest.raises(ConfigurationError, match="relu"):
        segmentation_mask(maps, {}, activation="relu")
    with pytest.raises(ConfigurationError, match="labels"):
        segmentation_mask(maps, {}, labels=["a", "b", "c"])


def test_mask_png_and_raw_bytes():
    mask = disc(40, 50, (20, 20), 9)
    result = Segmentation(mask, ("nucleus",))
    np.testing.assert_array_equal(read(RENDER[PNG](result)), mask * 255)
    assert RENDER[RAW](result) == mask.tobytes()


def test_overlay_tints_the_inside_draws_the_border_and_leaves_the_rest():
    mask = disc(60, 60, (30, 30), 15)
    image = np.full((60, 60, 3), 40, np.uint8)
    drawn = read(RENDER[OVERLAY](Segmentation(mask, ("nucleus",), image))).astype(int)
    np.testing.assert_array_equal(drawn[mask == 0], image[mask == 0])
    inside, border = drawn[30, 30], drawn[30, 15]
    assert not (inside == 40).all()
    assert np.abs(border - 40).sum() > 2 * np.abs(inside - 40).sum()
    assert (image == 40).all()


def test_an_overlay_needs_a_picture():
    with pytest.raises(NotAcceptable, match="picture"):
        RENDER[OVERLAY](Segmentation(disc(5, 5, (2, 2), 1), ("nucleus",)))


def test_json_says_everything_and_the_mask_can_be_rebuilt():
    mask = disc(40, 50, (10, 10), 6) | disc(40, 50, (30, 40), 5)
    answer = orjson.loads(RENDER[JSON](Segmentation(mask, ("nucleus",))))
    assert answer["size"] == [40, 50]
    (nucleus,) = answer["classes"]
    assert nucleus["label"] == "nucleus"
    assert nucleus["regions"] == 2
    assert nucleus["pixels"] == mask.sum()
    assert nucleus["fraction"] == pytest.approx(mask.mean())
    np.testing.assert_array_equal(rebuilt(nucleus["rle"]["counts"], 40, 50), mask)


def rebuilt(counts, height, width):
    values = np.arange(len(counts)) % 2
    return np.repeat(values, counts).reshape((height, width), order="F")


@given(BOOLEANS)
def test_run_lengths_rebuild_any_mask(mask):
    counts = run_lengths(mask)
    assert counts.sum() == mask.size
    assert (counts[1:] > 0).all()
    np.testing.assert_array_equal(rebuilt(counts, *mask.shape), mask)


@given(BOOLEANS)
def test_regions_are_counted_as_a_flood_fill_does(mask):
    left = {tuple(point) for point in np.argwhere(mask).tolist()}
    regions = 0
    while left:
        regions += 1
        front = [left.pop()]
        while front:
            row, column = front.pop()
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            front.extend(near)
    assert count_regions(mask) == regions


def test_noise_is_not_counted():
    assert count_regions(np.indices((400, 400)).sum(0) % 2 == 0) is None

"""Pictures changed at random, alike wherever and in whatever order they are made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.transforms.augment import Brightness, Crop, Flip, Grey, Quarters, Resize, Rotate, augment

STEPS = (Flip(vertical=True), Quarters(), Rotate(30), Grey(0.5), Brightness(0.5), Crop(5, 6), Resize(8, 7))
shapes = st.tuples(st.integers(6, 16), st.integers(6, 16), st.sampled_from([1, 3, 4, 5]))
steps = st.lists(
    st.sampled_from(
        [Flip(vertical=True), Quarters(), Rotate(45), Grey(0.5), Brightness(0.5), Resize(9, 11), Crop(6, 6)]
    ),
    max_size=4,
)


def picture(shape, seed=0):
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, shape, np.uint8), draw.integers(0, 4, shape[:2], np.uint8)


@settings(max_examples=80, deadline=None)
@given(shapes, steps, st.integers(0, 2**31), st.permutations(range(4)))
def test_neither_order_nor_company_changes_a_picture(shape, chosen, seed, order):
    images = [picture(shape, number) for number in range(4)]
    first = [augment(*pair, chosen, seed=seed, sample=number, epoch=3) for number, pair in enumerate(images)]
    for number in order:
        image, mask = augment(*images[number], chosen, seed=seed, sample=number, epoch=3)
        np.testing.assert_array_equal(image, first[number][0])
        np.testing.assert_array_equal(mask, first[number][1])
        alone, none = augment(images[number][0], None, chosen, seed=seed, sample=number, epoch=3)
        np.testing.assert_array_equal(alone, image)
        assert none is None


@settings(max_examples=80, deadline=None)
@given(shapes, steps, st.integers(0, 9))
def test_types_sizes_and_values_stay_sound(shape, chosen, epoch):
    image, mask = picture(shape)
    before, before_mask = image.copy(), mask.copy()
    changed, moved = augment(image, mask, chosen, seed=1, sample=2, epoch=epoch)
    assert changed.dtype == moved.dtype == np.uint8
    assert changed.shape == (*moved.shape, shape[2])
    assert changed.flags.c_contiguous
    assert moved.flags.c_contiguous
    assert set(np.unique(moved)) <= {*np.unique(mask), 0}
    changed += 1
    moved += 1
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(mask, before_mask)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(0, 50))
def test_the_mask_moves_with_the_picture(shape, sample):
    """The mask is a channel of the picture: whatever moves one moves the other, and colour leaves the mask alone."""
    image, _ = picture(shape)
    image[..., 0] %= 4
    mask = image[..., 0].copy()
    changed, moved = augment(image, mask, (Flip(vertical=True), Quarters(), Crop(5, 5)), seed=0, sample=sample, epoch=0)
    np.testing.assert_array_equal(changed[..., 0], moved)
    _, kept = augment(image, mask, (Grey(1.0), Brightness(1.0)), seed=0, sample=sample, epoch=0)
    np.testing.assert_array_equal(kept, mask)


def test_a_turned_mask_lies_over_the_turned_picture():
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:40, 28:50] = 255
    for sample in range(8):
        changed, mask = augment(image, image[..., 0] > 0, (Rotate(90), Resize(96, 80)), seed=0, sample=sample, epoch=0)
        assert mask.dtype == bool
        both, either = ((changed[..., 0] > 127) & mask).sum(), ((changed[..., 0] > 127) | mask).sum()
        assert both / either > 0.93


def test_epoch_sample_seed_and_step_draw_apart():
    image, mask = picture((16, 16, 3))
    base = {"seed": 0, "sample": 0, "epoch": 0}
    seen = {augment(image, mask, (Crop(8, 8),), **{**base, name: n})[0].tobytes() for name in base for n in range(20)}
    assert len(seen) > 30
    # Two steps of a kind do not draw the same: two flips in a row would never be seen.
    twice = [augment(image, mask, (Flip(), Flip()), **{**base, "sample": n})[0] for n in range(40)]
    assert any((one != image).any() for one in twice)


def test_chances_are_kept():
    image, _ = picture((4, 5, 3))
    flipped = sum(
        np.array_equal(augment(image, None, (Flip(chance=0.25),), seed=5, sample=n, epoch=0)[0], image[:, ::-1])
        for n in range(2000)
    )
    # 500 expected, 4 deviations of a binomial count either way.
    assert abs(flipped - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5
    turns = [augment(image, None, (Quarters(),), seed=5, sample=n, epoch=0)[0].shape[0] for n in range(400)]
    assert abs(turns.count(5) - 200) < 4 * 10


def test_colours():
    image = np.full((2, 2, 4), 100, np.uint8)
    image[..., 0], image[..., 3] = 200, 7
    grey, _ = augment(image, None, (Grey(1.0),), seed=0, sample=0, epoch=0)
    assert grey[0, 0].tolist() == [130, 130, 130, 7]
    factors = [
        augment(image, None, (Brightness(0.5),), seed=0, sample=n, epoch=0)[0][0, 0].astype(int) for n in range(200)
    ]
    assert {int(one[3]) for one in factors} == {7}
    assert 50 <= min(one[1] for one in factors) < 60
    assert 140 < max(one[1] for one in factors) <= 150
    assert max(one[0] for one in factors) == 255
    np.testing.assert_array_equal(
        augment(image[..., :1], None, (Grey(1.0),), seed=0, sample=0, epoch=0)[0], image[..., :1]
    )


def test_large_numbers_in_a_mask_are_kept():
    image, _ = picture((8, 8, 3))
    mask = np.arange(64, dtype=np.int64).reshape(8, 8) * 1_000_000
    _, moved = augment(image, mask, (Resize(16, 16),), seed=0, sample=0, epoch=0)
    assert moved.dtype == np.int64
    np.testing.assert_array_equal(moved[::2, ::2], mask)
    with pytest.raises(InvalidInput, match="32 bits"):
        augment(image, mask * 10**9, (Resize(4, 4),), seed=0, sample=0, epoch=0)


@pytest.mark.parametrize(
    ("image", "mask", "chosen", "error", "words"),
    [
        (np.zeros((4, 4), np.uint8), None, (), InvalidInput, "a picture is uint8"),
        (np.zeros((4, 4, 3), np.float32), None, (), InvalidInput, "not float32"),
        (np.zeros((0, 4, 3), np.uint8), None, (), InvalidInput, "a picture is uint8"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8), (), InvalidInput, "4 x 4 pixels"),
        (np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4)), (), InvalidInput, "not float64"),
        (np.zeros((4, 4, 3), np.uint8), None, (Crop(5, 4),), InvalidInput, "no piece of 5 x 4"),
        (np.zeros((4, 4, 3), np.uint8), None, (Resize(0, 4),), ConfigurationError, "Resize"),
        (np.zeros((4, 4, 3), np.uint8), None, (Flip(chance=2),), ConfigurationError, "Flip takes"),
        (np.zeros((4, 4, 3), np.uint8), None, (Rotate(200),), ConfigurationError, "Rotate takes"),
        (np.zeros((4, 4, 3), np.uint8), None, (Brightness(-1),), ConfigurationError, "Brightness takes"),
        (np.zeros((4, 4, 3), np.uint8), None, ("flip",), ConfigurationError, "no augmentation"),
    ],
)
def test_what_makes_no_sense_is_refused(image, mask, chosen, error, words):
    with pytest.raises(error, match=words):
        augment(image, mask, chosen, seed=0, sample=0, epoch=0)

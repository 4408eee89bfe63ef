import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from rung.data.drift_features import features_of, free_text, vocabulary


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def plain(colour, side=16):
    return png(np.full((side, side, 3), colour))


def row(cell):
    return features_of(pl.DataFrame({"p": [cell]}, schema={"p": pl.Binary})).row(0, named=True)


def test_pictures_of_one_colour_are_what_they_are():
    white, black, red = row(plain((255, 255, 255))), row(plain((0, 0, 0))), row(plain((255, 0, 0)))
    assert white["p brightness"] == pytest.approx(1.0)
    assert (black["p brightness"], black["p dark"]) == (0.0, 1.0)
    assert (red["p saturation"], red["p hue"]) == (pytest.approx(1.0), pytest.approx(0.0))
    assert row(plain((0, 0, 255)))["p hue"] == pytest.approx(240.0)
    assert white["p hue"] is None  # grey has none
    assert white["p contrast"] == pytest.approx(0.0, abs=1e-9)


def test_noise_is_sharper_and_has_more_contrast_than_a_ramp():
    rng = np.random.default_rng(1)
    noise = row(png(rng.integers(0, 256, (64, 64, 3))))
    ramp = row(png(np.repeat(np.linspace(0, 255, 64)[None, :, None], 64, 0).repeat(3, 2)))
    assert noise["p sharpness"] > 10 * ramp["p sharpness"]
    assert ramp["p contrast"] > 0.2


def test_large_grey_deep_and_transparent_pictures_are_read():
    sixteen = io.BytesIO()
    Image.fromarray(np.full((40, 40), 65_535, np.uint16)).save(sixteen, "PNG")
    assert row(sixteen.getvalue())["p brightness"] == pytest.approx(1.0)
    assert row(png(np.full((900, 700), 128)))["p brightness"] == pytest.approx(128 / 255, abs=0.01)
    assert row(png(np.full((8, 8, 4), 255)))["p brightness"] == pytest.approx(1.0)
    assert row(plain((9, 9, 9), side=1))["p sharpness"] == 0.0


@pytest.mark.parametrize("cell", [b"", b"no picture", plain((1, 2, 3))[:40], None])
def test_what_is_no_picture_is_missing(cell):
    assert set(row(cell).values()) == {None}


def test_texts_become_numbers_by_a_vocabulary():
    known = vocabulary(["the cat sat", "the dog", None])
    found = features_of(pl.DataFrame({"t": ["THE cat", "12 zebras", None, "!"], "n": [1, 2, 3, 4]}), {"t": known})
    assert found.columns == ["t length", "t digits", "t upper", "t unknown", "n"]
    assert found["t unknown"].to_list() == [0.0, 1.0, None, None]
    assert found["t upper"][0] == pytest.approx(3 / 7)
    assert found["t digits"][1] == pytest.approx(2 / 9)
    assert found["n"].to_list() == [1, 2, 3, 4]


def test_free_text_is_told_from_categories():
    assert free_text(pl.Series([f"text {number}" for number in range(100)]))
    assert not free_text(pl.Series(["red", "green"] * 50))
    assert not free_text(pl.Series([1, 2, 3]))
    assert not free_text(pl.Series([None, None], dtype=pl.String))

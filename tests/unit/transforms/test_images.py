"""Any picture that people send becomes the same tensor everywhere, or a clear refusal."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from rung.domain.errors import ConfigurationError, InvalidInput
from rung.transforms.images import decode, layout, normalize, resize


def picture(height=48, width=64):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 256], axis=2).astype(np.uint8)


def encode(image, fmt="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, fmt, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width, height, body=b"\0" * 100):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def test_png_is_decoded_exactly_and_the_context_remembers_it():
    context = {}
    pixels = decode(encode(picture()), context)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, picture())
    np.testing.assert_array_equal(context["image"], picture())
    assert context["size"] == (48, 64)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_jpeg_equals_what_pillow_reads(options):
    data = encode(picture(), "JPEG", **options)
    np.testing.assert_array_equal(decode(data, {}), np.asarray(Image.open(io.BytesIO(data))))


def test_jpeg_with_stray_bytes_is_read_all_the_same():
    data = encode(picture(), "JPEG")
    np.testing.assert_array_equal(decode(data + b"trailer of a phone", {}), decode(data, {}))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(picture(), "JPEG", exif=exif.tobytes())
    context = {}
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data, context), upright)
    assert context["size"] == upright.shape[:2]


# Pillow warns, and the picture is read all the same.
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_matter():
    data = encode(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data, {}).shape == (48, 64, 3)


def test_alpha_is_dropped_and_the_colours_stay():
    alpha = np.full((48, 64, 1), 255, np.uint8)
    alpha[:10] = 0
    np.testing.assert_array_equal(decode(encode(np.concatenate([picture(), alpha], 2)), {}), picture())


def test_grey_palette_bilevel_and_their_transparency():
    grey = picture()[:, :, 0]
    as_rgb = np.repeat(grey[:, :, None], 3, 2)
    np.testing.assert_array_equal(decode(encode(grey), {}), as_rgb)
    np.testing.assert_array_equal(decode(encode(grey, "JPEG"), {})[:, :, 0], decode(encode(grey, "JPEG"), {})[:, :, 2])
    np.testing.assert_array_equal(decode(encode(Image.fromarray(grey).convert("LA")), {}), as_rgb)
    bilevel = Image.fromarray(grey > 100)
    assert set(np.unique(decode(encode(bilevel), {}))) == {0, 255}
    palette = Image.fromarray(picture()).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    np.testing.assert_array_equal(decode(encode(palette), {}), expected)
    np.testing.assert_array_equal(decode(encode(palette, transparency=bytes([0, 128])), {}), expected)


def test_sixteen_bits_keep_the_high_byte():
    deep = (picture()[:, :, 0].astype(np.uint16) << 8) | 0x7F
    np.testing.assert_array_equal(decode(encode(deep), {}), np.repeat(picture()[:, :, :1], 3, 2))


def test_cmyk_jpeg_becomes_rgb():
    data = encode(Image.fromarray(picture()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(data, {}).astype(int) - picture()).mean() < 12


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "no JPEG or PNG"),
        (b"\x80\x04\x95 pickle", "no JPEG or PNG"),
        (encode(picture(), "GIF"), "no JPEG or PNG"),
        (encode(picture())[:-60], "damaged or truncated"),
        (encode(picture(), "JPEG")[:400], "damaged|no JPEG"),
        (encode(picture(), "JPEG")[:-200], "damaged or truncated"),
        (encode(picture())[:20], "no JPEG or PNG"),
        (png_claiming(100_000, 100_000), "pixels"),
        (png_claiming(12_000, 10_000), "pixels, the limit is 50000000|far more pixels"),
        (png_claiming(64, 48), "damaged"),
        (png_claiming(0, 0), "no JPEG or PNG|damaged"),
    ],
)
def test_what_is_no_whole_picture_is_refused(data, reason):
    with pytest.raises(InvalidInput, match=reason):
        decode(data, {})


def test_animations_are_refused():
    frames = [Image.fromarray(picture()), Image.fromarray(255 - picture())]
    with pytest.raises(InvalidInput, match="animated"):
        decode(encode(frames[0], "PNG", save_all=True, append_images=frames[1:]), {})
    with pytest.raises(InvalidInput, match="animated"):
        decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), {}, formats=["gif"])


def test_limits_are_named():
    with pytest.raises(InvalidInput, match=r"64 x 48 pixels, the limit is 3000 in all"):
        decode(encode(picture()), {}, max_pixels=3000)
    with pytest.raises(InvalidInput, match="the limit is 100"):
        decode(encode(picture()), {}, max_bytes=100)


def test_a_huge_claim_costs_no_memory():
    bomb = png_claiming(9_000, 9_000, b"\0" * 1_000_000)
    tracemalloc.start()
    with pytest.raises(InvalidInput):
        decode(bomb, {})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def test_a_jpeg_of_endless_passes_is_refused():
    data = encode(picture(), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    scan = data[start:-2]
    with pytest.raises(InvalidInput, match="passes"):
        decode(data[:start] + scan * 500 + data[-2:], {}, max_pixels=4000)


def test_other_formats_only_when_asked_for():
    np.testing.assert_array_equal(decode(encode(picture(), "BMP"), {}, formats=["bmp"]), picture())
    np.testing.assert_array_equal(decode(encode(picture(), "TIFF"), {}, formats=["png", "tiff"]), picture())
    np.testing.assert_array_equal(decode(encode(picture(), "WEBP", lossless=True), {}, formats=["webp"]), picture())
    with pytest.raises(ConfigurationError, match="'eps'"):
        decode(b"", {}, formats=["eps"])


@given(st.binary(max_size=200), st.integers(0, 3000))
def test_damage_anywhere_is_a_refusal_or_a_picture(noise, where):
    for data in (SOUND_PNG, SOUND_JPEG):
        at = where % len(data)
        try:
            pixels = decode(data[:at] + noise + data[at + len(noise) :], {})
        except InvalidInput:
            continue
        assert pixels.ndim == 3
        assert pixels.dtype == np.uint8


SOUND_PNG, SOUND_JPEG = encode(picture()), encode(picture(), "JPEG", progressive=True)


@pytest.mark.parametrize("method", ["bilinear", "nearest", "area"])
def test_resize_keeps_flat_colours_and_remembers_the_size(method):
    flat = np.full((30, 40, 3), 77, np.uint8)
    context = {}
    resized = resize(flat, context, height=16, width=20, method=method)
    assert resized.shape == (16, 20, 3)
    assert (resized == 77).all()
    assert context["size"] == (30, 40)
    assert context["window"] == (0, 0, 1, 1)


def test_resize_of_floats_agrees_with_bytes():
    resized = resize(picture().astype(np.float32), {}, height=20, width=20)
    assert resized.dtype == np.float32
    assert np.abs(resized - resize(picture(), {}, height=20, width=20)).max() <= 1


def test_keep_aspect_pads_in_the_middle():
    context = {}
    framed = resize(np.full((50, 100, 3), 200, np.uint8), context, height=64, width=64, keep_aspect=True, pad=9)
    assert framed.shape == (64, 64, 3)
    assert (framed[:16] == 9).all()
    assert (framed[16:48] == 200).all()
    assert (framed[48:] == 9).all()
    assert context["window"] == (0.25, 0, 0.5, 1)


def test_resize_refuses_nonsense():
    with pytest.raises(ConfigurationError, match="cubist"):
        resize(picture(), {}, height=2, width=2, method="cubist")
    with pytest.raises(ConfigurationError):
        resize(picture(), {}, height=0, width=2)


def test_normalize_is_the_formula_of_torchvision():
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    result = normalize(picture(), {}, mean=mean, std=std)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, (picture() / 255 - mean) / std, atol=2e-6)
    np.testing.assert_allclose(normalize(picture(), {}), picture() / 255, atol=1e-7)
    np.testing.assert_array_equal(normalize(picture(), {}, scale=1), picture())


def test_normalize_refuses_what_cannot_be():
    with pytest.raises(ConfigurationError):
        normalize(picture(), {}, mean=[1, 2])
    with pytest.raises(ConfigurationError):
        normalize(picture(), {}, std=[1, 0, 1])


def test_layout():
    chw = layout(picture(), {})
    assert chw.shape == (3, 48, 64)
    assert chw.flags.c_contiguous
    np.testing.assert_array_equal(chw[1], picture()[:, :, 1])
    np.testing.assert_array_equal(layout(picture(), {}, order="HWC"), picture())
    with pytest.raises(ConfigurationError):
        layout(picture(), {}, order="WHC")

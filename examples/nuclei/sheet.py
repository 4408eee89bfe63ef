"""The contact sheet: picture, truth and served answer side by side, from the best to the worst."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["Panel", "draw", "spread"]

Array = np.ndarray[Any, np.dtype[Any]]

TILE = 232
GAP = 6
MARGIN = 40
HEADER = 128
CAPTION = 40
GROUND, INK, FAINT = (16, 19, 24), (238, 241, 245), (142, 152, 166)
TRUTH, GOOD, FAIR, POOR = (255, 176, 0), (76, 201, 132), (255, 176, 0), (255, 99, 99)


class Panel(NamedTuple):
    """One row of three pictures."""

    picture: bytes
    """The file that was sent."""
    truth: Array
    """uint8 [H, W]."""
    overlay: bytes
    """The PNG that the server drew."""
    iou: float
    kind: str


def spread(scores: Sequence[float], count: int) -> list[int]:
    """Return the positions of `count` scores from the best to the worst, evenly through the ranks."""
    ranked = np.argsort(scores, kind="stable")[::-1]
    count = min(count, len(ranked))
    return [int(ranked[round(rank)]) for rank in np.linspace(0, len(ranked) - 1, count)]


def draw(panels: Sequence[Panel], title: str, subtitle: str, path: Path) -> Path:
    """Write the sheet: two panels a row, each captioned with its IoU."""
    columns = 2
    rows = -(-len(panels) // columns)
    panel_width = 3 * TILE + 2 * GAP
    width = 2 * MARGIN + columns * panel_width + (columns - 1) * MARGIN
    height = HEADER + rows * (TILE + CAPTION + 14) + MARGIN // 2
    sheet = Image.new("RGB", (width, height), GROUND)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 26), title, INK, ImageFont.load_default(32))
    pen.text((MARGIN, 68), subtitle, FAINT, ImageFont.load_default(17))
    small = ImageFont.load_default(15)
    for column in range(min(columns, len(panels))):
        left = MARGIN + column * (panel_width + MARGIN)
        for place, name in enumerate(("picture", "truth", "served answer")):
            pen.text((left + place * (TILE + GAP), HEADER - 24), name, FAINT, small)
    for index, panel in enumerate(panels):
        left = MARGIN + (index % columns) * (panel_width + MARGIN)
        top = HEADER + (index // columns) * (TILE + CAPTION + 14)
        _draw_panel(sheet, pen, panel, left, top)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG", optimize=True)
    return path


def _draw_panel(sheet: Image.Image, pen: ImageDraw.ImageDraw, panel: Panel, left: int, top: int) -> None:
    picture = _decode(panel.picture)
    gain = _gain(picture)
    truth = np.where(panel.truth[..., None] > 0, np.array(TRUTH, np.uint8), np.uint8(0)).astype(np.uint8)
    # Lit alike, so that the two can be compared.
    tiles = (_brighten(picture, gain), truth, _brighten_grey(_decode(panel.overlay), gain))
    for place, tile in enumerate(tiles):
        sheet.paste(_fit(tile), (left + place * (TILE + GAP), top))
    colour = GOOD if panel.iou >= 0.75 else FAIR if panel.iou >= 0.5 else POOR
    bar = top + TILE + 8
    pen.text((left, bar), f"IoU {panel.iou:.3f}", colour, ImageFont.load_default(19))
    pen.text((left + 112, bar + 4), panel.kind, FAINT, ImageFont.load_default(15))
    full = 3 * TILE + 2 * GAP
    pen.rectangle((left, top + TILE + 2, left + full - 1, top + TILE + 4), (40, 46, 56))
    pen.rectangle((left, top + TILE + 2, left + max(1, round(full * panel.iou)) - 1, top + TILE + 4), colour)


def _decode(data: bytes) -> Array:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def _gain(picture: Array) -> float:
    """How much brighter a picture has to be for its light parts to look light."""
    return float(max(1.0, 235 / max(1.0, np.percentile(picture, 99.7))))


def _brighten(picture: Array, gain: float) -> Array:
    return (picture * gain).clip(0, 255).astype(np.uint8)


def _brighten_grey(overlay: Array, gain: float) -> Array:
    """Brighten what the server left as it was; its own colours stay."""
    drawn = np.ptp(overlay, axis=2) > 8
    return np.where(drawn[..., None], overlay, _brighten(overlay, gain))


def _fit(pixels: Array) -> Image.Image:
    """Scale into a square tile, the longer side cropped at the centre."""
    image = Image.fromarray(pixels)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((TILE, TILE), Image.Resampling.LANCZOS)

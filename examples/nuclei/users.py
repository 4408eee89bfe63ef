"""Users of the story: each sends a tile of a picture, looks at the mask, and says how good it was."""

import base64
import http.client
import io
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from dataset import Sample
from PIL import Image

__all__ = ["Answer", "Tile", "Users", "cut"]

Array = np.ndarray[Any, np.dtype[Any]]

PATIENCE = 60.0
"""Seconds for which somebody who is told to come again does."""


class Tile(NamedTuple):
    """A part of a picture, flipped and turned."""

    domain: str
    image: bytes
    """PNG."""
    truth: Array
    """uint8 [H, W], 1 where there is a nucleus."""


class Answer(NamedTuple):
    """What a user got."""

    at: float
    """Seconds since the epoch."""
    domain: str
    version: int
    iou: float
    seconds: float
    """From sending the tile first to having read its mask."""


def cut(samples: Sequence[Sample], count: int, seed: int, side: int = 192) -> list[Tile]:
    """Cut square tiles out of pictures that are larger, each turned and flipped by chance."""
    draw = np.random.default_rng(seed)
    tiles = []
    for number in range(count):
        sample = samples[number % len(samples)]
        with Image.open(io.BytesIO(sample.image), formats=["PNG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
        height, width = sample.mask.shape
        top, left = int(draw.integers(height - side + 1)), int(draw.integers(width - side + 1))
        inside = np.s_[top : top + side, left : left + side]
        turns, flip = int(draw.integers(4)), int(draw.integers(2))
        picture, truth = (np.rot90(one[inside], turns)[:, :: 1 - 2 * flip] for one in (pixels, sample.mask))
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG", compress_level=1)
        tiles.append(Tile(sample.domain, buffer.getvalue(), np.ascontiguousarray(truth)))
    return tiles


class Users:
    """A few at a time, each asking once, until `end`.

    Attributes:
        seen: answers so far, in their order.
        failed: what went wrong, in words.
        put_off: how often somebody was told to come again later (429), and did.
        pause: seconds that each waits before the next one comes.
    """

    def __init__(self, url: str, tiles: Sequence[Tile], *, masks: str, threads: int = 2, pause: float = 0.15) -> None:
        """`tiles` are sent in turn; those of the domain `masks` come back with their truth, the others with a score."""
        self.seen: list[Answer] = []
        self.failed: list[str] = []
        self.put_off = 0
        self.pause = pause
        self._tiles, self._masks = tiles, masks
        self._parts = urlsplit(url)
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._threads = self._come(threads, self._stop)

    def send(self, tiles: Sequence[Tile]) -> None:
        """From now on these are sent."""
        self._tiles = tiles

    @contextmanager
    def crowd(self, threads: int) -> Iterator[None]:
        """So many more at a time, until the block ends."""
        stop = threading.Event()
        more = self._come(threads, stop)
        try:
            yield
        finally:
            _leave(more, stop)

    def end(self) -> None:
        """Let everybody finish."""
        _leave(self._threads, self._stop)

    def _come(self, threads: int, stop: threading.Event) -> list[threading.Thread]:
        more = [threading.Thread(target=self._live, args=(stop,), daemon=True) for _ in range(threads)]
        for thread in more:
            thread.start()
        return more

    def _live(self, stop: threading.Event) -> None:
        connection = http.client.HTTPConnection(str(self._parts.hostname), self._parts.port, timeout=60)
        while not stop.is_set():
            number, tiles = next(self._numbers), self._tiles
            try:
                self._ask(connection, f"user-{number}", tiles[number % len(tiles)])
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
                connection.close()
            stop.wait(self.pause)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, unit: str, tile: Tile) -> None:
        headers = {"content-type": "image/png", "accept": "image/png", "rung-unit": unit}
        begun = time.perf_counter()
        while True:
            connection.request("POST", "/predict/nuclei", tile.image, headers)
            reply = connection.getresponse()
            body = reply.read()
            later = reply.headers.get("retry-after")
            if reply.status != 429 or later is None or time.perf_counter() - begun > PATIENCE:
                break
            self.put_off += 1
            time.sleep(float(later))
        seconds = time.perf_counter() - begun
        if reply.status != 200:
            self.failed.append(f"{reply.status}: {body[:200]!r}")
            return
        with Image.open(io.BytesIO(body), formats=["PNG"]) as mask:
            said = np.asarray(mask) > 0
        truth = tile.truth > 0
        iou = float((said & truth).sum() / max(int((said | truth).sum()), 1))
        self.seen.append(Answer(time.time(), tile.domain, int(reply.headers["rung-version"]), iou, seconds))
        event = {"id": reply.headers["rung-prediction-id"], "source": "user"}
        self._tell(connection, {**event, "score": iou})
        if tile.domain == self._masks:
            self._tell(connection, {**event, "mask": base64.b64encode(_png(tile.truth)).decode()})

    def _tell(self, connection: http.client.HTTPConnection, event: dict[str, Any]) -> None:
        connection.request("POST", "/feedback", json.dumps(event), {"content-type": "application/json"})
        reply = connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            self.failed.append(f"feedback {reply.status}: {body[:200]!r}")


def _leave(threads: Sequence[threading.Thread], stop: threading.Event) -> None:
    stop.set()
    for thread in threads:
        thread.join(60)


def _png(truth: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(truth * np.uint8(255)).save(buffer, "PNG")
    return buffer.getvalue()

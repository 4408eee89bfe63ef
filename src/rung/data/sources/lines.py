"""JSON lines: an object a line."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from rung.data.sources import Address
from rung.data.sources.files import Files
from rung.data.sources.records import piece_of
from rung.domain.datasets import Piece, Quarantined

__all__ = ["open_jsonl", "read_lines"]

_ROWS = 20_000
_SHOWN = 200


def read_lines(lines: Iterable[bytes], where: str) -> Iterator[Piece]:
    """Rows of JSON lines; a line that is no object is refused."""
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    refused: list[Quarantined] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            refused.append(Quarantined(where, number, f"no JSON: {error}", line[:_SHOWN].decode(errors="replace")))
            continue
        if not isinstance(row, dict):
            refused.append(Quarantined(where, number, "no object", line[:_SHOWN].decode(errors="replace")))
            continue
        rows.append(row)
        numbers.append(number)
        if len(rows) >= _ROWS:
            yield piece_of(rows, numbers, where, refused)
            rows, numbers, refused = [], [], []
    yield piece_of(rows, numbers, where, refused)


def open_jsonl(address: Address) -> Files:
    """`jsonl:PATH`."""
    address.allow()

    def read(path: Path) -> Iterator[Piece]:
        with path.open("rb") as file:
            yield from read_lines(file, str(path))

    return Files(address, read)

"""What a model was asked, joined with what turned out to be right: the prediction log as training data."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import orjson

from rung.data.asked import rows_of
from rung.data.feedback import labelled
from rung.data.sources import Address
from rung.domain.datasets import Piece, Quarantined
from rung.settings.file import load_project
from rung.store.blobs import open_store

__all__ = ["open_log"]

_ROWS = 20_000


class _Log:
    """Rows in the order in which their labels came, so that a label that comes late is not missed."""

    incremental = True

    def __init__(self, address: Address) -> None:
        address.allow("kind")
        self._model, self._kind = address.rest, address.options.get("kind", "label")
        project = load_project(address.folder).project
        self._store = open_store(_under(address.folder, project.data))
        self._log = address.folder / project.log

    def read(self, cursor: str) -> Iterator[Piece]:
        """Labelled requests of one row each: its fields, `label`, `prediction_id`, `predicted_at`, `version`, `arm`."""
        import polars as pl

        joined = labelled(self._store, self._log, self._model, kind=self._kind, columns=["time", "body", "media"])  # type: ignore[arg-type]
        joined = joined.sort("labelled", "id")
        after = msgspec.json.decode(cursor, type=tuple[float, str]) if cursor else None
        if after is not None:
            later = (pl.col("labelled") > after[0]) | ((pl.col("labelled") == after[0]) & (pl.col("id") > after[1]))
            joined = joined.filter(later)
        for start in range(0, joined.height, _ROWS):
            yield self._piece(joined[start : start + _ROWS])

    def keep(self, cursor: str) -> None:
        """Nothing to keep."""

    def _piece(self, part: Any) -> Piece:
        import polars as pl

        rows: list[dict[str, Any]] = []
        refused: list[Quarantined] = []
        last = ("", "")
        for number, one in enumerate(part.iter_rows(named=True), 1):
            last = (one["labelled"], one["id"])
            try:
                asked = _fields(one["body"], one["media"])
            except ValueError as error:
                refused.append(Quarantined(f"log:{self._model}", number, str(error), one["id"]))
                continue
            rows.append(
                {
                    **asked,
                    "label": _label(one["value"]),
                    "prediction_id": one["id"],
                    "predicted_at": one["time"],
                    "version": one["version"],
                    "arm": one["arm"],
                }
            )
        return Piece(
            pl.DataFrame(rows, infer_schema_length=None, strict=False), refused, msgspec.json.encode(last).decode()
        )


def _fields(body: bytes | None, media: str) -> dict[str, Any]:
    rows = rows_of(body, media, ())
    if len(rows) != 1:
        raise ValueError("it asked about several rows at once, and its label is about one")
    return rows[0]


def _label(value: str) -> Any:
    found = orjson.loads(value)
    if isinstance(found, dict) and found.keys() == {"media", "data"}:
        return base64.b64decode(found["data"])  # a mask: the file, as the pictures are
    return found if isinstance(found, str | int | float | bool | None) else value


def _under(folder: Path, place: str) -> str:
    return place if "://" in place else str(folder / place)


def open_log(address: Address) -> _Log:
    """`log:MODEL?kind=label`, of the project in this folder."""
    return _Log(address)

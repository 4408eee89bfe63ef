"""A file on the web: CSV, JSON lines or Parquet, by its content type or its name."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from rung.data.sources import Address, without_password
from rung.data.sources.delimited import read_rows
from rung.data.sources.lines import read_lines
from rung.data.sources.tables import read_table
from rung.domain.datasets import Piece
from rung.domain.errors import InvalidData

__all__ = ["open_web"]

_SECONDS = 60.0
_KINDS = {
    "text/csv": "csv",
    "application/csv": "csv",
    "application/x-ndjson": "jsonl",
    "application/jsonl": "jsonl",
    "application/vnd.apache.parquet": "parquet",
}
_SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


class _Web:
    incremental = False

    def __init__(self, address: Address) -> None:
        self._url = address.url
        self._shown = without_password(address.url)

    def read(self, cursor: str) -> Iterator[Piece]:
        """Fetch it whole, then read it: a connection that breaks off leaves nothing half."""
        with tempfile.TemporaryDirectory(prefix="rung-fetch-") as folder:
            path = Path(folder, "body")
            kind = self._fetch(path)
            if kind == "csv":
                with path.open(newline="", encoding="utf-8-sig") as file:
                    yield from read_rows(file, self._shown)
            elif kind == "jsonl":
                with path.open("rb") as lines:
                    yield from read_lines(lines, self._shown)
            else:
                yield from read_table(path, self._shown)

    def keep(self, cursor: str) -> None:
        """Nothing to keep."""

    def _fetch(self, path: Path) -> str:
        import httpx2

        try:
            with httpx2.stream("GET", self._url, timeout=_SECONDS, follow_redirects=True) as response:
                if response.status_code != 200:
                    raise InvalidData(f"{self._shown} answered {response.status_code}")
                with path.open("wb") as file:
                    for chunk in response.iter_bytes():
                        file.write(chunk)
                media = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        except httpx2.HTTPError as error:
            raise InvalidData(f"{self._shown} cannot be read: {error or type(error).__name__}") from None
        kind = _KINDS.get(media) or _SUFFIXES.get(Path(urlsplit(self._url).path).suffix.lower())
        if kind is None:
            raise InvalidData(
                f"{self._shown} is {media or 'of no stated type'}; CSV, JSON lines or Parquet is expected"
            )
        return kind


def open_web(address: Address) -> _Web:
    """`https://host/rows.csv`; what stands behind a question mark goes to the server."""
    return _Web(address)

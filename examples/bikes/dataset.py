"""Hourly bike rentals of Washington, D.C., 2011 and 2012: 17,379 hours with weather and calendar.

UCI Bike Sharing Dataset, CC BY 4.0: Fanaee-T and Gama, Progress in Artificial Intelligence 2, 113 (2014). Looked for in
`RUNG_DATA`, beside the repository, and on the web, in that order; always with this checksum.
"""

import hashlib
import io
import os
import urllib.error
import urllib.request
from pathlib import Path

import polars as pl

__all__ = ["rows"]

SHA256 = "462d1c779b4d3825c35555e6dffa3063cc0d66b89feeffcaa5093cd475e4a1c3"
FOLDER, FILE = "bike_sharing", "hour.csv"
PUBLIC = "https://raw.githubusercontent.com/justmarkham/DAT3/03099f4777170d838680d923ed2a67c674ba297c/data/hour.csv"
BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[3] / "shared" / "data"


def rows() -> pl.DataFrame:
    """One row an hour, in the order of time. `cnt` is what is to be predicted; `casual` and `registered` sum to it."""
    return pl.read_csv(io.BytesIO(_content()), infer_schema_length=None)


def _content() -> bytes:
    asked = os.environ.get("RUNG_DATA")
    for place in [Path(asked).expanduser()] if asked else [BESIDE_THE_REPOSITORY]:
        for path in (place / FILE, place / FOLDER / FILE):
            if path.is_file():
                return _checked(path.read_bytes(), str(path))
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rung" / FOLDER / FILE
    if not cached.is_file():
        try:
            with urllib.request.urlopen(PUBLIC, timeout=20) as response:
                content = _checked(response.read(), PUBLIC)
        except (OSError, urllib.error.URLError) as error:
            raise FileNotFoundError(
                f"there is no {FOLDER}/{FILE} in {asked or BESIDE_THE_REPOSITORY}, and {PUBLIC} cannot be had "
                f"({error}): set RUNG_DATA to the folder that holds it"
            ) from None
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(content)
    return _checked(cached.read_bytes(), str(cached))


def _checked(content: bytes, where: str) -> bytes:
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise ValueError(f"{where} is not the file that this example is about: its SHA-256 is {found[:12]}...")
    return content

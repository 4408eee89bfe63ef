"""How fast rows come back from a file: CSV, JSON lines, Parquet, mapped Arrow records, and the parts rung keeps.

Each format is read whole and gone through in float32 batches, as the first epoch of a training does, in turns within
one run. Later epochs go through rows that are in memory, whatever they came from.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import polars as pl
from processes import OUT
from report import table, write

from rung.data import datasets
from rung.settings.project import DataSection
from rung.store.blobs import open_store

__all__ = ["formats"]

COLUMNS = 20
BATCH = 1024


def formats(rows: int = 500_000, rounds: int = 5) -> None:
    """Print the table."""
    rng = np.random.default_rng(3)
    frame = pl.DataFrame({f"x{number}": rng.normal(size=rows).astype(np.float32) for number in range(COLUMNS)})
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        frame.write_csv(here / "rows.csv")
        frame.write_ndjson(here / "rows.jsonl")
        frame.write_parquet(here / "rows.parquet")
        frame.write_ipc(here / "rows.arrow", compression="uncompressed")
        store = open_store(str(here / "store"))
        version = datasets.ingest(store, "rows", DataSection(source="parquet:rows.parquet"), here)
        kept = sum(part.size for part in version.parts)
        readers: dict[str, tuple[int, Callable[[], pl.DataFrame]]] = {
            "CSV": (_size(here / "rows.csv"), lambda: pl.read_csv(here / "rows.csv")),
            "JSON lines": (_size(here / "rows.jsonl"), lambda: pl.read_ndjson(here / "rows.jsonl")),
            "Parquet": (_size(here / "rows.parquet"), lambda: pl.read_parquet(here / "rows.parquet")),
            "Arrow, mapped": (_size(here / "rows.arrow"), lambda: pl.scan_ipc(here / "rows.arrow").collect()),
            "rung, first run": (kept, lambda: datasets.frame(store, version)),
            "rung, later runs": (kept, lambda: datasets.frame(store, version, cache=here / "cache")),
        }
        held = datasets.frame(store, version, cache=here / "cache")
        readers["rung, later epochs"] = (kept, lambda: held)
        times: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(rounds):
            for name, (_, read) in readers.items():
                begun = perf_counter()
                _batches(read())
                times[name].append(perf_counter() - begun)
    best = min(median(found) for found in times.values())
    lines = [
        [
            name,
            f"{readers[name][0] / 1e6:.0f}",
            f"{median(found):.3f}",
            f"{min(found):.3f}-{max(found):.3f}",
            f"{rows / median(found) / 1e6:.2f}",
            f"{median(found) / best:.2f}",
        ]
        for name, found in times.items()
    ]
    text = table(["format", "MB", "seconds", "spread", "million rows/s", "times the best"], lines)
    write("formats", text, times, OUT)


def _size(path: Path) -> int:
    return path.stat().st_size


def _batches(frame: pl.DataFrame) -> float:
    """Go through all rows as float32 batches; the sum keeps a lazy reader from reading nothing."""
    return sum(float(part.to_numpy()[:, 0].sum()) for part in frame.iter_slices(BATCH))

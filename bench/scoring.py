"""Scoring of data sets against bare onnxruntime, and the memory that it takes.

    python bench/scoring.py [--rows 1000000] [--rounds 3] [--data FOLDER]

Bare onnxruntime has the same rows in memory as tensors, already prepared, and gets its best of batch sizes, with all
cores in one call or one core in each of several. rung reads a file, prepares, computes, finishes and writes a result
that survives a loss of power. Rounds of both alternate; throughput of rung is that between its first and its last
commit, so that neither loading the model nor choosing the batch counts. On a machine that others use too, the ratio by
processor time says more than that by the clock.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import polars as pl
from workloads import PICTURE_STEPS

from rung.catalog import models
from rung.domain.models import Step, Transforms
from rung.domain.predictions import Payload
from rung.offline.scoring.order import Order
from rung.offline.scoring.run import score
from rung.serving.lanes import cores
from rung.store.blobs import open_store
from rung.testing.models import segmentation
from rung.transforms.pipeline import Pipeline

COLUMNS = [f"c{number}" for number in range(10)]


class Workload(msgspec.Struct):
    """A model and its rows."""

    name: str
    model: str
    source: str
    out: str
    inputs: Any
    """What bare onnxruntime computes."""
    artifact: Path
    key: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1, 16, 64, 256, 1024, 4096)


def forest(folder: Path, trees: int, depth: int) -> Path:
    """A forest over ten numbers."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.ensemble import RandomForestRegressor

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, 10)).astype(np.float32)
    trained = RandomForestRegressor(trees, max_depth=depth, random_state=0, n_jobs=2)
    trained.fit(rows, rows[:, 0] * 3 + np.sin(rows[:, 1] * 2) + rows[:, 2] * rows[:, 3])
    path = folder / f"forest{trees}.onnx"
    path.write_bytes(to_onnx(trained, initial_types=[("x", FloatTensorType([None, 10]))]).SerializeToString())
    return path


def workloads(folder: Path, count: int, pictures: Path | None) -> list[Workload]:
    """Rows through a small and a large forest, from Parquet and from CSV; pictures through a U-Net."""
    store = open_store(str(folder / "repository"))
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(count, 10)).astype(np.float32)
    frame = pl.DataFrame(dict(zip(COLUMNS, rows.T, strict=True))).with_columns(pl.int_range(count).alias("id"))
    frame.write_parquet(folder / "rows.parquet", row_group_size=100_000)
    frame.write_csv(folder / "rows.csv")
    steps = Transforms(
        (Step("tabular.columns", {"columns": [{"name": name} for name in COLUMNS], "extra": "ignore"}),),
        (Step("regression.value"),),
    )
    made = []
    for name, trees, depth in (("small", 20, 6), ("large", 200, 8)):
        artifact = forest(folder, trees, depth)
        models.register(store, artifact, name=name, task="regression", transforms=steps)
        made += [
            Workload(
                f"{name} forest, {kind}", name, f"{kind}:rows.{kind}", "out.parquet", {"x": rows}, artifact, ("id",)
            )
            for kind in ("parquet", "csv")
        ]
    if pictures is not None:
        artifact = segmentation(folder / "unet.onnx", 256, 16)
        manifest = models.register(store, artifact, name="unet", task="segmentation", transforms=PICTURE_STEPS)
        files = [one.read_bytes() for one in sorted(pictures.glob("*.png"))[:160]]
        (folder / "cells").mkdir()
        for number, content in enumerate(files):
            (folder / "cells" / f"{number:04d}.png").write_bytes(content)
        inputs = Pipeline.build(manifest).prepare(Payload("image", files)).inputs
        made.append(Workload("U-Net, 160 PNG", "unet", "files:cells", "masks", inputs, artifact, (), (1, 2, 4, 8)))
    return made


def session(path: Path, threads: int) -> ort.InferenceSession:
    """As a user would open it, with so many threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def bare(work: Workload, how: tuple[int, int, int], rows: int) -> tuple[float, float]:
    """Rows a second of `rows` rows, and per second of processor time: calls at once, threads and rows of a call."""
    at_once, threads, size = how
    opened = session(work.artifact, threads)
    name, array = next(iter(work.inputs.items()))
    opened.run(None, {name: array[:size]})
    starts = range(0, rows, size)
    began, used = time.perf_counter(), time.process_time()
    if at_once == 1:
        for start in starts:
            opened.run(None, {name: array[start : start + size]})
    else:
        with ThreadPoolExecutor(at_once) as pool:
            list(pool.map(lambda start: opened.run(None, {name: array[start : start + size]}), starts))
    return rows / (time.perf_counter() - began), rows / (time.process_time() - used)


def best(work: Workload) -> tuple[int, int, int]:
    """How bare onnxruntime is fastest, by a part of the rows."""
    total = len(next(iter(work.inputs.values())))
    ways = [(at_once, threads, size) for at_once, threads in ((1, cores()), (cores(), 1)) for size in work.sizes]
    some = min(total, max(8 * max(work.sizes), 16)) if total > 1000 else min(total, 16)
    rates = {how: bare(work, how, some)[0] for how in ways}
    leading = sorted(rates, key=rates.__getitem__, reverse=True)[:3]
    return max(leading, key=lambda how: bare(work, how, min(total, 2 * some))[0])


def ours(work: Workload, folder: Path) -> tuple[float, float, float]:
    """Rows a second between the first and the last commit, per second of processor time, and over all."""
    seen: list[tuple[float, float, int]] = []
    order = Order(model=work.model, source=work.source, out=work.out, key=work.key)
    began = time.perf_counter()
    scored = score(
        order,
        folder,
        open_store(str(folder / "repository")),
        progress=lambda done, _: seen.append((time.perf_counter(), time.process_time(), done)),
    )
    whole = time.perf_counter() - began
    (first, used, before), (last, after_use, after) = seen[0], seen[-1]
    return (after - before) / (last - first), (after - before) / (after_use - used), scored.rows / whole


def compare(work: Workload, folder: Path, rounds: int) -> None:
    """Print the ratio of interleaved rounds."""
    how = best(work)
    total = len(next(iter(work.inputs.values())))
    # Half a round of both that does not count: files and libraries are in memory then.
    ours(work, folder)
    theirs, mine = [], []
    for _ in range(rounds):
        theirs.append(bare(work, how, total))
        mine.append(ours(work, folder))
    ratios = [one[0] / other[0] for one, other in zip(mine, theirs, strict=True)]
    work_ratios = [one[1] / other[1] for one, other in zip(mine, theirs, strict=True)]
    print(
        f"{work.name:22s} bare {median(one[0] for one in theirs):9,.0f}/s ({how[0]} x {how[1]} threads, {how[2]} rows) "
        f"rung {median(one[0] for one in mine):9,.0f}/s ({median(one[2] for one in mine):,.0f} with its start)  "
        f"ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"by processor time {median(work_ratios):.2f} ({min(work_ratios):.2f} to {max(work_ratios):.2f})",
        flush=True,
    )


def peak(folder: Path, source: str, out: str) -> int:
    """Largest resident memory of `rung score`, in bytes."""
    command = [sys.executable, "-m", "rung", "score", "small", source, "--out", out, "--key", "id", "-r", "repository"]
    # By a small process in between: what its parent holds counts for a child, too.
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=folder, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RUNG_DATA", "/nonexistent")))
    parser.add_argument("--only", default="")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    pictures = given.data / "nuclei_dsb2018" / "images"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        print(f"{cores()} cores, onnxruntime {ort.__version__}, {given.rows:,} rows, {given.rounds} rounds")
        for work in workloads(folder, given.rows, pictures if pictures.is_dir() else None):
            if given.only in work.name:
                compare(work, folder, given.rounds)
        if not given.memory:
            return
        for kind in ("parquet", "csv"):
            table = pl.read_parquet(folder / "rows.parquet", n_rows=100)
            getattr(table, f"write_{kind}")(folder / f"few.{kind}")
            for out in ("out.parquet", "out.csv", "sqlite:out.db?table=answers"):
                few, many = peak(folder, f"few.{kind}", out), peak(folder, f"rows.{kind}", out)
                print(f"{kind} -> {out}: {(many - few) / 1e6:,.0f} MB above 100 rows ({few / 1e6:,.0f} MB)", flush=True)


if __name__ == "__main__":
    main()

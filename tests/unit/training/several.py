"""One of several processes, or the only one: trains a small network and writes down what came of it."""

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import nn

from rung.domain.datasets import DatasetVersion
from rung.domain.errors import TrainingFailed
from rung.domain.runs import RunSpec
from rung.settings.project import DataSection
from rung.training.checkpoints import Checkpoints
from rung.training.context import Context, Watch
from rung.training.distributed import any_of, barrier, gather, join, leave, mean_of
from rung.training.feeding import Feed

ROWS, SIZE, EPOCHS = 57, 8, 3  # The last batch has one row: fewer than processes.


def context(folder: Path, rank: int, world: int, params: dict) -> Context:
    generator = np.random.default_rng(3)
    rows = generator.normal(size=(ROWS, 5)).astype(np.float32)
    frame = pl.DataFrame({f"x{i}": rows[:, i] for i in range(5)}).with_columns(y=pl.Series(rows.sum(1) ** 2))
    version = DatasetVersion("m", "0" * 64, dict.fromkeys(frame.columns, "number"), ())
    feed = Feed(version, {"train": frame}, DataSection(label="y"))
    made = Context(
        RunSpec("m", "m:train", params=params, seed=5, workers=world),
        feed,
        Watch("loss", True),
        Checkpoints(folder / "checkpoints"),
        folder=folder,
        device="cpu",
        tell=lambda event: None,
        rank=rank,
    )
    made.begin()
    return made


def train(ctx: Context) -> nn.Module:
    torch.manual_seed(ctx.seed)
    drop = ctx.params.get("drop", 0.0)
    inner = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(drop), nn.Linear(16, 1))
    network = ctx.wrap(inner)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    ctx.track(network=network, optimizer=optimizer)
    for epoch in ctx.epochs(EPOCHS):
        for place, batch in enumerate(ctx.data.batches("train", SIZE)):
            x = torch.from_numpy(np.stack([batch[f"x{i}"] for i in range(5)], 1))
            loss = ((network(x)[:, 0] - torch.from_numpy(batch["y"])) ** 2).mean()
            if ctx.params.get("bad") == [epoch, place] and ctx.rank == ctx.world - 1:
                loss = loss * float("nan")
            ctx.step(loss, optimizer, clip=1.0)
            if ctx.params.get("die") == [epoch, place] and ctx.rank == ctx.world - 1:
                os.kill(os.getpid(), signal.SIGKILL)
        ctx.report(loss=1.0 / (epoch + 1))
    ctx.end()
    return inner


def together(rank: int, world: int) -> dict:
    """What the collectives give."""
    found = {
        "mean": mean_of({"b": float(rank), "a": 1.0}),
        "any": [any_of(False), any_of(rank == 1)],
        "gathered": [part.decode() for part in gather(b"x" * (3 * rank))],
    }
    try:
        mean_of({"a" if rank else "b": 1.0})
    except TrainingFailed as error:
        found["refused"] = str(error)
    barrier()
    return found


def main() -> None:
    folder, rank, world, meet = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    torch.set_num_threads(1)
    # As a run does it: what a checkpoint holds is read before they meet.
    runs = {name: context(folder / name, rank, world, params) for name, params in json.loads(sys.argv[5]).items()}
    join(rank, world, str(folder / meet))
    found = {"together": together(rank, world)}
    for name, ctx in runs.items():
        model = train(ctx)
        weights = [value.tolist() for value in model.state_dict().values()]
        found[name] = {"weights": weights, "skipped": ctx.skipped, "steps": ctx.steps}
    leave()
    (folder / f"{meet}-{rank}.json").write_text(json.dumps(found))
    os._exit(0)  # as a run's processes end


if __name__ == "__main__":
    main()

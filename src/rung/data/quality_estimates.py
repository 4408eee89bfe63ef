"""Estimates of accuracy from the probabilities in the log, apart from all labels."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rung.data.predictions import scan
from rung.domain.models import Manifest
from rung.domain.packing import unpack
from rung.domain.quality import Check, Estimate
from rung.domain.scorecards import Figure
from rung.ports import BlobStore

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Estimates", "Head", "check", "estimate", "head_of", "probabilities"]

_MOST = 50_000
"""Latest answers whose whole outputs are read."""


class Head(msgspec.Struct, frozen=True):
    """How a classifier's output becomes probabilities."""

    output: str = ""
    """Its name; empty: the only one."""
    activation: str = "none"
    """`none`, `softmax` or `sigmoid`, as `classification.top_k` knows them."""


class Estimates(msgspec.Struct, frozen=True):
    """What the log says of confidence."""

    series: tuple[Estimate, ...]
    confidence: "pl.DataFrame"
    """`id`, and `confidence`: the probability that the likeliest class is right."""
    notes: tuple[str, ...] = ()


def head_of(manifest: Manifest) -> Head | None:
    """Of a version whose answers go through `classification.top_k`; None for any other."""
    step = next((one for one in manifest.transforms.output if one.name == "classification.top_k"), None)
    if step is None:
        return None
    return Head(str(step.params.get("output") or ""), str(step.params.get("activation") or "none"))


def estimate(
    store: BlobStore,
    log: Path | None,
    model: str,
    rows: "pl.DataFrame",
    heads: Mapping[int, Head],
    *,
    since: float,
    until: float,
    cohort: float,
) -> Estimates:
    """Expected accuracy by version and cohort, of mature and young predictions alike: it needs no label.

    Args:
        store: where the tables of the log lie.
        log: folder of its segments.
        model: its name.
        rows: answers, with `start` (of their cohort) and the columns of the log without `outputs`.
        heads: version -> how its outputs are read.
        since: seconds since the epoch.
        until: the same.
        cohort: length in seconds.
    """
    import polars as pl

    classes = rows.filter(pl.col("predicted") != "", pl.col("rows") == 1)
    if not classes.height:
        return Estimates((), _confidence({}))
    summarised = _from_summaries(classes, heads)
    whole = dict(_whole(store, log, model, classes, heads, since, until))
    known = {**summarised, **{one: float(p.max()) for one, p in whole.items()}}
    confidence = _confidence(known)
    series = []
    for (version, start), part in classes.join(confidence, on="id").group_by("version", "start", maintain_order=True):
        full = [whole[one] for one in part["id"] if one in whole]
        found = _estimate(int(version), float(start), float(start) + cohort, part, full)
        if found is not None:
            series.append(found)
    notes: tuple[str, ...] = ()
    if not known:
        notes = ('no estimate: the log has no probabilities; set [models.NAME.serve.log] outputs = "tensors"',)
    return Estimates(tuple(series), confidence, notes)


def check(mature: "pl.DataFrame", confidence: "pl.DataFrame") -> tuple[Check, ...]:
    """What the estimate was worth where the truth is known, by version: on mature answers that were right or wrong."""
    import polars as pl

    from rung.stats.estimates import interval, mean

    judged = mature.filter(pl.col("quality").is_in([0.0, 1.0]), pl.col("predicted") != "").join(confidence, on="id")
    checks = []
    for (version,), part in judged.group_by("version", maintain_order=True):
        units = part.group_by("unit").agg(pl.col("confidence").mean(), pl.col("quality").mean()).sort("unit")
        if units.height < 2:
            continue
        apart = interval(mean("estimated less true", (units["confidence"] - units["quality"]).to_numpy(), "free"))
        figure = Figure(
            "estimated less true", apart.estimate, apart.low, apart.high, part.height, units.height, "t, by unit"
        )
        said, true = (float(units[name].to_numpy().mean()) for name in ("confidence", "quality"))
        checks.append(Check(int(version), said, true, figure))
    return tuple(checks)


def _confidence(known: Mapping[str, float]) -> "pl.DataFrame":
    import polars as pl

    schema = {"id": pl.String, "confidence": pl.Float64}
    return pl.DataFrame({"id": list(known), "confidence": list(known.values())}, schema=schema)


def _from_summaries(classes: "pl.DataFrame", heads: Mapping[int, Head]) -> dict[str, float]:
    """The greatest element of what are probabilities: those of one row add up to 1, so that their mean is 1/classes."""
    found = {}
    for one in classes.select("id", "version", "output_summary").iter_rows():
        head = heads.get(one[1], Head())
        outputs = [row for row in one[2] or () if not head.output or row["name"] == head.output]
        if head.activation == "softmax" or len(outputs) != 1:
            continue
        (row,) = outputs
        if row["least"] == row["greatest"]:
            p = row["mean"] if head.activation == "none" else 1 / (1 + math.exp(-max(min(row["mean"], 700.0), -700.0)))
            if 0 <= p <= 1:
                found[one[0]] = max(p, 1 - p)
        elif head.activation == "none" and row["least"] >= -1e-6 and 0 < row["mean"] <= 0.5 + 1e-6:
            classes_of = round(1 / row["mean"])
            if abs(row["mean"] * classes_of - 1) < 1e-3 and row["greatest"] <= 1 + 1e-6:
                found[one[0]] = min(row["greatest"], 1.0)
    return found


def _whole(
    store: BlobStore,
    log: Path | None,
    model: str,
    classes: "pl.DataFrame",
    heads: Mapping[int, Head],
    since: float,
    until: float,
) -> Iterator[tuple[str, "Array"]]:
    """Prediction -> the probabilities of all its classes, where the log has the whole output."""
    latest = classes.tail(_MOST).select("id")
    # A model without classes may have outputs of megabytes: they are not read.
    first = float(classes["time"].tail(_MOST).min())  # type: ignore[arg-type]
    stored = scan(store, log, model, since=max(since, first), until=until, columns=["version", "outputs"])
    for one in stored.join(latest, on="id", how="semi").iter_rows(named=True):
        if one["outputs"]:
            packed = msgspec.msgpack.decode(one["outputs"])
            p = probabilities(unpack(packed), heads.get(one["version"], Head())) if packed else None
            if p is not None:
                yield one["id"], p


def probabilities(outputs: Mapping[str, Any], head: Head) -> "Array | None":
    """Of the classes of one row; None where this is something else."""
    import numpy as np

    reals = {name: array for name, array in outputs.items() if array.dtype.kind == "f"}
    if not head.output and len(reals) != 1:
        return None
    array = reals.get(head.output) if head.output else next(iter(reals.values()))
    if array is None or not array.size or not np.isfinite(array).all():
        return None
    scores = array.reshape(-1).astype(float)
    if head.activation == "softmax":
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
    elif head.activation == "sigmoid":
        scores = 1 / (1 + np.exp(-np.clip(scores, -700, 700)))
    if scores.size == 1:
        scores = np.concatenate([1 - scores, scores])
    fits = (scores >= -1e-6).all() and abs(scores.sum() - 1) < 1e-3
    return np.asarray(scores) if fits else None


def _estimate(version: int, start: float, end: float, part: "pl.DataFrame", full: list["Array"]) -> Estimate | None:
    import numpy as np
    import polars as pl

    from rung.stats import expected
    from rung.stats.estimates import interval, mean

    units = part.group_by("unit").agg(pl.col("confidence").mean())["confidence"].sort().to_numpy()
    if len(units) < 2:
        return None
    found = interval(mean("expected accuracy", np.minimum(units, 1.0), "share"))
    figure = Figure(
        "expected accuracy", found.estimate, found.low, found.high, part.height, len(units), f"{found.method}, by unit"
    )
    if len(full) < part.height or len({one.size for one in full}) != 1:
        return Estimate(version, start, end, part.height, figure)
    whole = np.clip(np.stack(full), 0, 1)
    area = expected.auc(whole) if whole.shape[1] == 2 else None
    return Estimate(version, start, end, part.height, figure, expected.f1(whole), area)

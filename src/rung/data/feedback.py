"""Predictions joined with what turned out to be right, by prediction id, exactly.

Events about one prediction are versions of each other: all are kept, in the order of the time at which they were
found out, and the last one counts. "No label yet" is never "negative": what has no label is no row here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rung.data.predictions import scan
from rung.domain.records import Kind
from rung.ports import BlobStore

if TYPE_CHECKING:
    import polars as pl

__all__ = ["coverage", "labelled", "versions"]

_ANSWERS = ("version", "arm", "epoch", "unit", "error", "propensity")


def versions(
    store: BlobStore, log: Path | None, model: str | None = None, *, prediction: str | None = None
) -> "pl.DataFrame":
    """Every event once, with its place among those of its prediction and kind.

    Columns of the table `feedback`, and `number` (from 1, by time), `counts` (whether it is the last), `delay`
    (seconds from the prediction to the event), `conflicts` (whether the prediction's events say different things).
    """
    import polars as pl

    found = scan(store, log, model, table="feedback")
    if prediction is not None:
        found = found.filter(pl.col("id") == prediction)
    group = ["id", "kind"]
    # The tie-breakers are arbitrary but the same on every machine and after every compaction.
    return (
        found.sort("id", "kind", "time", "received", "event")
        .with_columns(
            pl.int_range(1, pl.len() + 1).over(group).alias("number"),
            pl.len().over(group).alias("of"),
            (pl.col("value").n_unique().over(group) > 1).alias("conflicts"),
            (pl.col("time") - pl.col("predicted")).alias("delay"),
        )
        .with_columns((pl.col("number") == pl.col("of")).alias("counts"))
    )


def labelled(
    store: BlobStore,
    log: Path | None,
    model: str,
    *,
    since: float = 0.0,
    until: float = float("inf"),
    kind: Kind | None = None,
    columns: Sequence[str] | None = None,
) -> "pl.DataFrame":
    """One row for each prediction and kind of feedback: the prediction's columns, and the event that counts.

    Added to the prediction's: `kind`, `value` (JSON), `source`, `labelled` (time of the event), `delay`, `of` (how
    many events), `conflicts`. Predictions of `since <= time < until`; feedback whenever it came.
    """
    import polars as pl

    wanted = None if columns is None else [*_ANSWERS, *columns]
    predictions = scan(store, log, model, since=since, until=until, columns=wanted)
    events = versions(store, log, model).filter(pl.col("counts"))
    if kind is not None:
        events = events.filter(pl.col("kind") == kind)
    said = events.select("id", "kind", "value", "source", pl.col("time").alias("labelled"), "delay", "of", "conflicts")
    return predictions.join(said, on="id", how="inner", validate="1:m", maintain_order="left_right")


def coverage(
    store: BlobStore, log: Path | None, model: str, *, since: float = 0.0, until: float = float("inf")
) -> "pl.DataFrame":
    """How many answers of each arm and version have feedback, and how late it comes.

    Columns: `arm`, `version`, `answers`, `labelled`, `coverage` (share), `delay_median`, `delay_90` (seconds),
    `conflicts` (predictions whose events disagree), `unlogged` (predictions with feedback whose own record is not
    there: not in the sample, or shed).
    """
    import polars as pl

    group = ["arm", "version"]
    predictions = scan(store, log, model, since=since, until=until, columns=list(_ANSWERS))
    answers = predictions.filter(pl.col("error") == "")
    events = versions(store, log, model).filter(pl.col("counts"))
    # One row a prediction, whatever kinds of feedback it has; the first of them ends the wait.
    told = events.group_by("id").agg(pl.col("delay").min(), pl.col("conflicts").any())
    joined = answers.join(told, on="id", how="left", validate="1:1")
    by_arm = joined.group_by(group).agg(
        pl.len().alias("answers"),
        pl.col("delay").is_not_null().sum().alias("labelled"),
        pl.col("delay").is_not_null().mean().alias("coverage"),
        pl.col("delay").median().alias("delay_median"),
        pl.col("delay").quantile(0.9, "linear").alias("delay_90"),
        pl.col("conflicts").fill_null(value=False).sum().alias("conflicts"),
    )
    stray = (
        events.filter(pl.col("predicted") >= since - 0.001, pl.col("predicted") < until)
        .unique("id")
        .join(predictions, on="id", how="anti")
        .group_by(group)
        .agg(pl.len().alias("unlogged"))
    )
    return (
        by_arm.join(stray, on=group, how="full", coalesce=True)
        .with_columns(pl.col("answers", "labelled", "conflicts", "unlogged").fill_null(0))
        .sort(group)
    )

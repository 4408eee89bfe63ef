"""Live quality of a model, from its prediction log and what turned out to be right.

Only mature predictions count: those so old that 90 % of the labels of their age have come. "No label yet" is never
"wrong", and labels that come early are no fair sample. Figures are means over units: requests of one unit are alike.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rung.data.feedback import versions
from rung.data.predictions import scan
from rung.data.quality_coverage import by_arm, imbalance
from rung.data.quality_estimates import Head, check, estimate
from rung.data.quality_watch import Rule, watch
from rung.domain.quality import Cohort, Delay, QualityReport, Watch, quality_of
from rung.domain.records import Kind
from rung.domain.scorecards import Figure
from rung.ports import BlobStore

if TYPE_CHECKING:
    import polars as pl

__all__ = ["How", "measure"]

_COLUMNS = (
    "id",
    "time",
    "version",
    "arm",
    "epoch",
    "unit",
    "rows",
    "error",
    "propensity",
    "predicted",
    "output_summary",
)
_STEPS = 200
"""Points of a curve that a report keeps."""


class How(msgspec.Struct, frozen=True):
    """What a measurement goes by."""

    maturity: float = 0.0
    """Age in seconds at which a prediction counts; 0: learned from how long labels take."""
    cohort: float = 86_400.0
    """Seconds of predictions that are counted together; days are those of UTC."""
    kind: Kind | None = None
    """Feedback that is a label; None: all kinds but corrections, which come of wrong answers only."""
    version: int | None = None
    """That the detector watches; None: the one that gave most of the latest answers."""
    watch: Rule = Rule()
    scale: float | None = None
    """Distance of a predicted number from the true one that counts as a whole loss, such as the label's standard
    deviation in training."""
    heads: dict[int, Head] = {}
    """Version -> how its outputs are read; a version that is not here has probabilities, if it has classes."""


def measure(
    store: BlobStore,
    log: Path | None,
    model: str,
    *,
    now: float,
    since: float = 0.0,
    how: How | None = None,
    before: Watch | None = None,
) -> QualityReport:
    """Measure the live quality of a model.

    Args:
        store: where the tables of the log lie.
        log: folder of its segments; None leaves out what is not converted.
        model: its name.
        now: seconds since the epoch.
        since: predictions made earlier are left out.
        how: see `How`; None: all by default.
        before: the detector as of the last measurement, so that it goes on from there.
    """
    import polars as pl

    how = how or How()
    answered = scan(store, log, model, since=since, until=now, columns=_COLUMNS)
    answered = answered.filter(pl.col("error") == "")
    rows, events = _judged(answered, _events(store, log, model, since, now), how)
    delay, maturity = _delay(rows, events, now, how)
    rows = rows.with_columns((pl.col("time") // how.cohort * how.cohort).alias("start"))
    # Of a cohort all predictions are old enough, or none counts.
    old = pl.col("start") + how.cohort + maturity <= now if maturity is not None else pl.lit(value=False)
    rows = rows.with_columns(old.alias("mature"))
    mature = rows.filter("mature")
    estimates = estimate(store, log, model, rows, how.heads, since=since, until=now, cohort=how.cohort)
    version = how.version if how.version is not None else _answering(answered)
    detector = (
        None
        if version is None
        else watch(_losses(mature, version), version, how.watch, cohort=how.cohort, before=before)
    )
    # Whole cohorts are waited for by figures, not by counts.
    each = rows.filter(pl.col("time") <= now - maturity) if maturity is not None else rows.clear()
    return QualityReport(
        model=model,
        at=now,
        since=since,
        cohort_seconds=how.cohort,
        delay=delay,
        maturity_seconds=maturity,
        cohorts=tuple(_cohorts(rows, how.cohort)),
        versions=tuple(_totals(mature, how.cohort)),
        coverage=by_arm(each),
        imbalance=imbalance(each),
        estimates=estimates.series,
        checks=check(mature, estimates.confidence),
        detector=detector,
        notes=(*_notes(rows, events, how), *estimates.notes),
    )


# --- what was said of each prediction ---------------------------------------------------------------


def _events(store: BlobStore, log: Path | None, model: str, since: float, now: float) -> "pl.DataFrame":
    """Events that have come by now about predictions of this time, oldest first by when they were found out."""
    import polars as pl

    # The time in an id is rounded.
    found = versions(store, log, model).filter(pl.col("received") <= now, pl.col("predicted") >= since - 0.001)
    return found.sort("time", "received", "event")


def _judged(answered: "pl.DataFrame", events: "pl.DataFrame", how: How) -> tuple["pl.DataFrame", "pl.DataFrame"]:
    """Answers with `quality`, `distance` and `received` (of the first label), null where there is none; and labels."""
    import polars as pl

    labels = events.filter(pl.col("kind") == how.kind if how.kind else pl.col("kind") != "correction")
    single = pl.col("output_summary").list.len() == 1
    number = pl.col("output_summary").list.first().struct.field("mean")
    flat = number == pl.col("output_summary").list.first().struct.field("greatest")
    # One number of one row is what was predicted; a class has a name.
    predicted = pl.when(single & flat & (pl.col("rows") == 1) & (pl.col("predicted") == "")).then(number)
    rows = answered.with_columns(predicted.alias("said"))
    asked = rows.select("id", pl.col("predicted").alias("named"), "said")
    said: dict[str, tuple[float | None, float | None]] = {}
    for one in events.join(asked, on="id", how="inner", maintain_order="left").iter_rows(named=True):
        found = _quality(one, how.scale)
        if found != (None, None):
            said[one["id"]] = found
    judged = pl.DataFrame(
        {"id": list(said), "quality": [a for a, _ in said.values()], "distance": [b for _, b in said.values()]},
        schema={"id": pl.String, "quality": pl.Float64, "distance": pl.Float64},
    )
    first = labels.group_by("id").agg(pl.col("received").min())
    rows = rows.join(judged, on="id", how="left", validate="1:1", maintain_order="left")
    return rows.join(first, on="id", how="left", validate="1:1", maintain_order="left"), labels


def _quality(event: dict[str, Any], scale: float | None) -> tuple[float | None, float | None]:
    """Quality, and the distance of numbers, by one event."""
    value = msgspec.json.decode(event["value"])
    quality = quality_of(event["kind"], value, event["named"])
    if quality is not None or event["kind"] != "label" or event["said"] is None:
        return quality, None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None, None
    distance = abs(float(value) - event["said"])
    return (None if scale is None else 1 - min(distance / scale, 1.0)), distance


# --- how long labels take ---------------------------------------------------------------------------


def _delay(rows: "pl.DataFrame", labels: "pl.DataFrame", now: float, how: How) -> tuple[Delay, float | None]:
    """The curves, and the age of maturity."""
    import numpy as np
    import polars as pl

    from rung.stats.delays import COMPLETE, Delays, arrived

    first = labels.group_by("id").agg(pl.col("received").min(), pl.col("predicted").first()).sort("id")
    delays = Delays()
    for one in first.iter_rows(named=True):
        delays.add(_key(one["id"]), one["predicted"], one["received"])
    learned = delays.maturity(now)
    if how.maturity:
        why = "as it is set"
    elif learned is not None:
        why = f"by then {100 * COMPLETE:.0f} % of the labels have come that come at all"
    elif first.height < 20:
        why = f"it is not known: {first.height} predictions have labels, and 20 are needed"
    else:
        why = "it is not known: labels were not watched for twice as long as they take"
    ages = now - rows["time"].to_numpy()
    waits = (rows["received"] - rows["time"]).cast(pl.Float64).fill_null(float("nan")).to_numpy()
    curve = delays.curve(now) if first.height else ()
    steps = arrived(ages, np.asarray(waits, dtype=float))
    found = Delay(first.height, rows.height, tuple(_thinned(curve)), tuple(_thinned(steps)), why)
    return found, how.maturity or learned


def _key(prediction: str) -> int:
    from hashlib import blake2b

    return int.from_bytes(blake2b(prediction.encode(), digest_size=8).digest(), "big")


def _thinned(curve: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """At most so many points of a rising curve, the last among them, at even distances of its height."""
    if len(curve) <= _STEPS:
        yield from curve
        return
    last = -1.0
    for place, (x, y) in enumerate(curve):
        if y - last >= curve[-1][1] / _STEPS or place == len(curve) - 1:
            yield x, y
            last = y


# --- cohorts ----------------------------------------------------------------------------------------


def _cohorts(rows: "pl.DataFrame", length: float) -> Iterator[Cohort]:
    for (version, start), part in rows.group_by("version", "start", maintain_order=True):
        mature = bool(part["mature"][0])
        yield _cohort(int(version), float(start), float(start) + length, part, mature=mature)


def _totals(mature: "pl.DataFrame", length: float) -> Iterator[Cohort]:
    for (version,), part in mature.group_by("version", maintain_order=True):
        start, end = float(part["start"].min()), float(part["start"].max()) + length  # type: ignore[arg-type]
        yield _cohort(int(version), start, end, part, mature=True)


def _cohort(version: int, start: float, end: float, part: "pl.DataFrame", *, mature: bool) -> Cohort:
    known = int((part["quality"].is_not_null() | part["distance"].is_not_null()).sum())
    quality = _figure("quality", part, "quality") if mature else None
    error = _figure("mean absolute error", part, "distance") if mature else None
    return Cohort(version, start, end, part.height, known, known / part.height, mature, quality, error)


def _figure(name: str, part: "pl.DataFrame", column: str) -> Figure | None:
    """Mean over units of each unit's mean, with its interval; None of fewer than two units."""
    import polars as pl

    from rung.stats.estimates import interval, mean

    known = part.filter(pl.col(column).is_not_null())
    values = known.group_by("unit").agg(pl.col(column).mean())[column].sort().to_numpy()
    if len(values) < 2:
        return None
    share = column == "quality" and bool(((values >= 0) & (values <= 1)).all())
    kind = "share" if share else "free" if column == "quality" else "size"
    found = interval(mean(name, values, kind))  # type: ignore[arg-type]
    return Figure(name, found.estimate, found.low, found.high, known.height, len(values), f"{found.method}, by unit")


def _answering(answered: "pl.DataFrame") -> int | None:
    """The version that gave most of the latest answers."""
    latest = answered.tail(200)["version"].value_counts(sort=True)
    return int(latest["version"][0]) if latest.height else None


def _losses(mature: "pl.DataFrame", version: int) -> "pl.DataFrame":
    import polars as pl

    known = mature.filter(pl.col("version") == version, pl.col("quality").is_not_null())
    return known.with_columns((1 - pl.col("quality")).clip(0, 1).alias("loss"))


# --- what else is told ----------------------------------------------------------------------------


def _notes(rows: "pl.DataFrame", labels: "pl.DataFrame", how: How) -> Iterator[str]:
    import polars as pl

    if not rows.height:
        yield "nothing of this model is logged in this time"
        return
    if labels.height and rows["quality"].is_null().all() and rows["distance"].is_null().all():
        yield (
            "no feedback says how good a prediction was: send a score, a label that a logged class or number can be "
            'compared with (serve.log outputs = "summary"), or {"correct": true}'
        )
    if how.scale is None and rows["distance"].is_not_null().any():
        yield "numbers have a quality only by the label's deviation in training, and the model has no profile of it"
    if rows.filter((pl.col("quality") < 0) | (pl.col("quality") > 1)).height:
        yield "some scores are below 0 or above 1; the detector takes those as 0 or 1, so send scores from 0 to 1"
    if rows["unit"].n_unique() == 1 and rows.height > 1:
        yield "all requests are of one unit, so no figure has an interval: send rung-unit (release.unit)"

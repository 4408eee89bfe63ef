"""Has what a model is asked moved away from what it was trained on? The last windows of its log, column by column.

Nothing is remembered between two measurements: whether drift persists is told from the windows of the log itself.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from rung.catalog import models, releases
from rung.data import validation
from rung.data.asked import rows_of
from rung.data.drift_features import features_of
from rung.data.drift_reference import Reference, column_of, of_rows, reference_of
from rung.data.drift_windows import TIME, UNIT, compare, compare_column, divide
from rung.data.feedback import labelled
from rung.data.predictions import scan
from rung.domain.drift import ColumnDrift, DriftReport, Known, Outlook, Window, triage
from rung.domain.errors import NotFound
from rung.domain.models import Manifest
from rung.ports import BlobStore
from rung.settings.project import DataSection, DriftSection, ModelSettings
from rung.stats.drift import persistent, run_length

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Examined", "examine"]

_ANSWERS = ("rows", "version", "unit", "error", "output_summary", "predicted")
_COLUMNS = ("version", "unit", "error", "blame", "body", "media")
_FAULTS = ("missing column", "wrong type", "nulls", "unit change")
"""Findings of the checks of data that are the sender's mistake. Others that are red there may be the world."""
_HISTORY = 10
"""Windows of a version's first answers that later ones are compared with."""
_LABELS = 30
"""Labels below which they are not compared."""
_REFUSED = 0.05
"""Share of refused requests that is worth a note."""


class Examined(msgspec.Struct):
    """A report, and the rows that it is about, for whoever draws them."""

    report: DriftReport
    reference: Reference
    windows: "list[pl.DataFrame]"
    """Features of each window of inputs, oldest first."""


def examine(
    store: BlobStore,
    log: Path | None,
    repository: BlobStore,
    model: str,
    settings: ModelSettings,
    *,
    now: float,
    version: int | None = None,
    against: "pl.DataFrame | None" = None,
    quality_fell: bool | None = None,
    coverage_moved: bool | None = None,
) -> Examined:
    """Compare the last windows of what a model was asked, and answered, with what it was trained on.

    Args:
        store: where the tables of the log and the data sets lie.
        log: folder of the log's segments; None leaves out what is not converted.
        repository: where versions lie.
        model: its name.
        settings: its section of the project.
        now: seconds since the epoch; later requests are left out.
        version: whose training data is the reference; None: the one that most users are answered by.
        against: rows to compare with, in place of it.
        quality_fell: whether quality by mature labels has fallen; None: not known.
        coverage_moved: whether the share of predictions that get labels has changed; None: not known.

    Raises:
        NotFound: there is no such model, or nothing is known of what it was trained on.
    """
    section, rule = settings.dataset, settings.drift
    manifest = _manifest(repository, model, version, needed=against is None)
    if against is not None:
        reference = of_rows(against, section, "the rows named")
    else:
        assert manifest is not None
        reference = reference_of(store, repository, manifest, section)
    seen = _see(store, log, model, reference, manifest, rule, now)
    return Examined(_judge(seen, reference, model, rule, now, quality_fell, coverage_moved), reference, seen.frames)


class _Seen(msgspec.Struct):
    """What the log and the labels showed."""

    version: int
    rows: "pl.DataFrame"
    frames: "list[pl.DataFrame]"
    inputs: tuple[Window, ...]
    answers: tuple[Window, ...]
    labels: ColumnDrift | None
    notes: list[str]


def _see(
    store: BlobStore,
    log: Path | None,
    model: str,
    reference: Reference,
    manifest: Manifest | None,
    rule: DriftSection,
    now: float,
) -> _Seen:
    """Read the last windows, and compare each."""
    # Bodies are large: how far back to go is told without them.
    answered = scan(store, log, model, until=now, columns=_ANSWERS)
    since = _since(answered, rule, now)
    logged = scan(store, log, model, since=since, until=now, columns=_COLUMNS)
    rows, notes = _asked(logged, _names(manifest, reference), reference)
    frames = [_features(one, reference) for one in divide(rows, rule)]
    inputs = tuple(compare(one, reference.columns, reference.table, rule) for one in frames)
    version = manifest.version if manifest is not None else int(logged["version"][-1]) if logged.height else 0
    answers, more = _answers(answered, version, rule)
    labels, said = _labels(store, log, model, reference, rule, now)
    notes = [*reference.notes, *notes, *more, *said, *_small(reference, inputs)]
    return _Seen(version, rows, frames, inputs, answers, labels, notes)


def _judge(
    seen: _Seen,
    reference: Reference,
    model: str,
    rule: DriftSection,
    now: float,
    quality_fell: bool | None,
    coverage_moved: bool | None,
) -> DriftReport:
    """What the windows say together."""
    need, of = rule.persistence
    lasting = _lasting(seen.inputs, need, of)
    outlook = _outlook(seen.inputs, lasting)
    faults = _faults(seen.rows, reference, rule) if seen.inputs else None
    moved = {"drifted": True, "quiet": False}.get(outlook or "")
    by_labels = [
        flag for flag in (coverage_moved, seen.labels and seen.labels.verdict == "drifted") if flag is not None
    ]
    known = Known(faults, moved, quality_fell, any(by_labels) if by_labels else None, lasting)
    return DriftReport(
        model=model,
        version=seen.version,
        at=now,
        reference=reference.about,
        reference_rows=reference.rows,
        inputs=seen.inputs,
        answers=seen.answers,
        labels=seen.labels,
        alpha=rule.alpha,
        need=need,
        of=of,
        run_length=run_length(rule.alpha, need, of),
        persistent=lasting,
        persistent_answers=_lasting(seen.answers, need, of),
        confirmed=bool(lasting),
        outlook=outlook,
        worst=_worst(seen.inputs),
        triage=triage(known),
        notes=tuple(seen.notes),
    )


# --- what was asked -----------------------------------------------------------------------------------


def _manifest(repository: BlobStore, model: str, version: int | None, *, needed: bool) -> Manifest | None:
    """Of the version named, or the one that most users are answered by; None for a model that is only in the log."""
    release = releases.current(repository, model)
    try:
        return models.show(repository, model, version or (release.main.version if release else None))
    except NotFound:
        if needed or version:
            raise
        return None


def _names(manifest: Manifest | None, reference: Reference) -> tuple[str, ...]:
    """Of the columns of a row that came as a list."""
    if manifest is not None:
        steps, inputs = manifest.transforms.input, manifest.signature.inputs
        if steps and steps[0].name == "tabular.columns":
            return tuple(column["name"] for column in steps[0].params["columns"])
        if len(inputs) == 1 and inputs[0].columns:
            return tuple(inputs[0].columns)
    return tuple(reference.profile.columns) if reference.profile else tuple(reference.columns)


def _since(answered: "pl.DataFrame", rule: DriftSection, now: float) -> float:
    """When the first request of the windows was asked."""
    import polars as pl

    windows = rule.persistence[1]
    rows = answered.filter(pl.col("error") == "")
    if rule.seconds:
        return float(rows["time"][-1]) - windows * rule.seconds if rows.height else now
    behind = int((rows["rows"].reverse().cum_sum() < windows * rule.window).sum())
    return float(rows["time"][max(0, rows.height - 1 - behind)]) if rows.height else now


def _asked(logged: "pl.DataFrame", names: Sequence[str], reference: Reference) -> "tuple[pl.DataFrame, list[str]]":
    """A row for each row that was asked about, with its time and unit; and what was left out."""
    import polars as pl

    rows: list[dict[str, Any]] = []
    reasons: Counter[str] = Counter()
    answered = logged.filter(pl.col("error") == "")
    # Other fields may say who asks, and hold anything.
    wanted = dict.fromkeys((*(reference.profile.columns if reference.profile else ()), "image", "text"))
    for one in answered.iter_rows(named=True):
        try:
            found = rows_of(one["body"], one["media"], names)
        except ValueError as error:
            reasons[str(error)] += 1
            continue
        for row in found:
            known = {name: _value(row[name]) for name in wanted if name in row}
            rows.append({**known, TIME: one["time"], UNIT: one["unit"]})
    notes = [f"{count:,} of {answered.height:,} requests are left out: {reason}" for reason, count in reasons.items()]
    refused = int((logged["blame"] == "client").sum())
    if refused > _REFUSED * logged.height:
        notes.append(
            f"{refused:,} of {logged.height:,} requests were refused as the caller's fault: rung log shows them"
        )
    if not rows:
        return pl.DataFrame(), [*notes, "no request is logged that could be compared"]
    frame = pl.DataFrame(rows, infer_schema_length=None, strict=False)
    return _renamed(frame, reference), notes


def _value(value: Any) -> Any:
    """A value that a column can hold; None for others."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 1 << 63 else float(value)
    return value if isinstance(value, float | str | bytes | bool) else None


def _renamed(frame: "pl.DataFrame", reference: Reference) -> "pl.DataFrame":
    """A picture or a text is called in requests as it likes; in the data it has the name of its column."""
    for given, wanted in (("image", reference.pictures), ("text", tuple(reference.known))):
        if given in frame.columns and len(wanted) == 1 and wanted[0] not in frame.columns:
            frame = frame.rename({given: wanted[0]})
    return frame


def _features(rows: "pl.DataFrame", reference: Reference) -> "pl.DataFrame":
    wanted = [*(reference.profile.columns if reference.profile else reference.columns), TIME, UNIT]
    return features_of(rows.select([name for name in wanted if name in rows.columns]), reference.known)


# --- windows ------------------------------------------------------------------------------------------


def _lasting(windows: Sequence[Window], need: int, of: int) -> tuple[str, ...]:
    """Columns that drifted in enough windows, the strongest in the last one first."""
    flags: dict[str, list[bool]] = {}
    for place, window in enumerate(windows):
        for one in window.columns:
            seen = flags.setdefault(one.column, [False] * len(windows))
            seen[place] |= one.verdict == "drifted"
    strength = {one.column: one.strength for one in windows[-1].columns} if windows else {}
    found = [name for name, seen in flags.items() if persistent(seen, need, of)]
    return tuple(sorted(found, key=lambda name: -strength.get(name, 0.0)))


def _outlook(windows: Sequence[Window], lasting: Sequence[str]) -> Outlook | None:
    """Of all windows; quiet only where each could have shown drift of every column of its own, and did not."""
    if not windows:
        return None
    if lasting:
        return "drifted"
    single = [one.verdict for window in windows for one in window.columns if one.kind in ("number", "category")]
    return "quiet" if single and set(single) == {"quiet"} else "underpowered"


def _worst(windows: Sequence[Window]) -> str:
    single = [one for one in (windows[-1].columns if windows else ()) if one.kind != "joint"]
    if not single:
        return ""
    return max(single, key=lambda one: (one.strength, one.size)).column


def _small(reference: Reference, windows: Sequence[Window]) -> list[str]:
    largest = max((window.rows for window in windows), default=0)
    if reference.rows >= 10 * largest or not largest:
        return []
    text = (
        f"the reference has {reference.rows:,} rows, less than ten times a window: what is odd about it is seen in "
        "every window alike, so windows are less independent than the run length assumes"
    )
    return [text]


# --- faults, answers, labels --------------------------------------------------------------------------


def _faults(rows: "pl.DataFrame", reference: Reference, rule: DriftSection) -> tuple[str, ...] | None:
    """Mistakes of the sender in the last window; None where there is nothing to hold it against."""
    if reference.profile is None or rows.height < validation.FEW:
        return None
    names = tuple(reference.profile.columns)
    last = divide(rows, rule)[-1]
    seen = last.select([name for name in last.columns if name in names])
    if not seen.width:
        return (f"no request has any of the columns {', '.join(names[:5])}",)
    findings = validation.check(seen, reference.profile, DataSection(features=names))
    return tuple(one.text for one in findings if one.verdict == "fail" and one.fault in _FAULTS)


def _answers(answered: "pl.DataFrame", version: int, rule: DriftSection) -> tuple[tuple[Window, ...], list[str]]:
    """Windows of a version's answers, against the first that it gave."""
    import polars as pl

    logged = answered.filter(pl.col("error") == "", pl.col("version") == version)
    frame = _summaries(logged)
    windows = divide(frame, rule)
    first = frame.height - sum(one.height for one in windows)
    if not windows or first < rule.window:
        text = (
            f"version {version} has given {frame.height:,} answers: they are compared with its first ones "
            f"once there are {(rule.persistence[1] + 1) * rule.window:,}"
        )
        return (), [text]
    before = frame[: min(first, _HISTORY * rule.window)]
    references = {column.name: found for column in before if (found := column_of(column)) is not None}
    references = {name: one for name, one in references.items() if name not in (TIME, UNIT)}
    return tuple(compare(one, references, None, rule) for one in windows), []


def _summaries(logged: "pl.DataFrame") -> "pl.DataFrame":
    """Mean, least and greatest of each output; the mean alone where all three are always one number."""
    import polars as pl

    summaries = logged["output_summary"].to_list()
    names = sorted({one["name"] for row in summaries for one in row or ()})
    table: dict[str, Any] = {TIME: logged["time"], UNIT: logged["unit"]}
    for name in names:
        own = [next((one for one in row or () if one["name"] == name), None) for row in summaries]
        parts = {part: [one and one[part] for one in own] for part in ("mean", "least", "greatest")}
        if parts["least"] == parts["greatest"]:
            table[name] = parts["mean"]
        else:
            table |= {f"{name} {part}": values for part, values in parts.items()}
    if (logged["predicted"] != "").any():
        table["class"] = logged["predicted"].replace("", None)
    return pl.DataFrame(table)


def _labels(
    store: BlobStore, log: Path | None, model: str, reference: Reference, rule: DriftSection, now: float
) -> tuple[ColumnDrift | None, list[str]]:
    """What the labels of the latest windows say, against those of training."""
    import polars as pl

    before = reference.labels
    if before is None:
        return None, []
    events = labelled(store, log, model, until=now, kind="label", columns=["unit"]).sort("time")
    events = events.tail(rule.window * rule.persistence[1])
    said = [msgspec.json.decode(value) for value in events["value"]]
    plain = [isinstance(value, str | int | float) for value in said]
    values = [
        f"{value:g}" if isinstance(value, int | float) else value
        for value, flag in zip(said, plain, strict=True)
        if flag
    ]
    column = pl.Series(values, dtype=pl.String)
    if column.len() < _LABELS:
        return None, []
    units = np.unique(events["unit"].filter(pl.Series(plain)).to_numpy(), return_inverse=True)[1]
    if before.values is None and not set(column) & set(before.counts):
        return None, ["labels of users are written otherwise than those of training, and cannot be compared"]
    return compare_column("label", before, column, units, rule), []

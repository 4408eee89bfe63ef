"""Is this data fit to train on, and is it still what it was? Findings, each with its evidence and the way out.

Red (`fail`) is what is wrong with the data itself: a column that is gone, another type or unit, many unknown
categories, old or repeated rows. Yellow (`warn`) is what may be the world: a mean that moved a little. A window too
small to tell says so (`inconclusive`), and is never taken for good.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from rung.data.fingerprints import fingerprints
from rung.data.profile import make, told_apart_by
from rung.domain.errors import ConfigurationError, InvalidData
from rung.domain.profiles import ColumnProfile, Profile
from rung.settings.project import DataSection
from rung.stats.shift import mean_shift, scale_change, share_above

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ALPHA", "Finding", "check", "gate"]

ALPHA = 0.01
"""Probability that clean data has a red finding by a test, over all columns together."""
GROSS, MODEST = 2.0, 0.25
"""Shifts of a mean, in standard deviations, that are red and yellow."""
UNIT = 8.0
"""Factor between the spreads of a column from which on its unit must have changed."""
NEW_SHARE, NULL_MORE = 0.01, 0.05
"""Share of rows with new categories, and rise of the share of nulls, that are red."""
FEW = 30
"""Rows below which distributions are not compared."""
_REPEATED, _KEY_REPEATED = 0.5, 0.0
_BLOCK = 50
"""Rows in a row that were there before in the same order: that is a batch that came twice, and no chance."""
_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at, where it is not as it should be."""

    fault: str
    """What kind, such as `missing column`."""
    column: str
    """Empty where it is about rows."""
    verdict: Literal["warn", "fail", "inconclusive"]
    text: str
    """A sentence with the figures, and what to do."""
    rows: int = 0
    """Rows that are concerned, where they can be counted."""


def check(
    frame: "pl.DataFrame",
    baseline: Profile | None,
    section: DataSection,
    *,
    fresh: bool = False,
    now: datetime | None = None,
    profile: Profile | None = None,
) -> list[Finding]:
    """What is wrong with these rows, alone and compared with `baseline`.

    `fresh` says that they should all be new: then rows that the baseline has seen are a fault. `profile`
    is that of the rows, where it has been made already.
    """
    if not frame.height:
        return [Finding("empty", "", "fail", "there is no row")]
    found = [
        *_label(frame, section),
        *_repeats(frame, section),
        *_stale(frame, section, now),
        *_constant(frame, section),
    ]
    if baseline is not None:
        if frame.height < FEW:
            text = f"{frame.height} rows are too few to tell whether they are spread as they were; {FEW} are needed"
            found.append(Finding("too few rows", "", "inconclusive", text, frame.height))
        made = profile or make(frame, label=section.label, time=section.time, key=section.key)
        found += _compared(frame, made, baseline, section)
        if fresh:
            found += _seen_before(frame, baseline, section)
    order = {"fail": 0, "warn": 1, "inconclusive": 2}
    return sorted(found, key=lambda one: order[one.verdict])


def gate(findings: Sequence[Finding]) -> list[str]:
    """Sentences about what is yellow, or cannot be told.

    Raises:
        InvalidData: something is red; the message names all of it.
    """
    red = [finding.text for finding in findings if finding.verdict == "fail"]
    if red:
        raise InvalidData(f"the data is red, so nothing was trained: {'; '.join(red)}. rung data check shows more")
    return [f"data: {finding.text}" for finding in findings if finding.verdict != "fail"]


# --- alone ----------------------------------------------------------------------------------------


def _label(frame: "pl.DataFrame", section: DataSection) -> list[Finding]:
    name = section.label
    if not name:
        return []
    if name not in frame.columns:
        there = ", ".join(frame.columns)
        return [Finding("label missing", name, "fail", f"there is no label column {name!r}; there are {there}")]
    column = frame[name]
    nulls = column.null_count()
    found = []
    if nulls:
        text = f"the label {name!r} is empty in {nulls:,} of {frame.height:,} rows: leave those out, or label them"
        found.append(Finding("label empty", name, "fail", text, nulls))
    if column.drop_nulls().n_unique() == 1:
        text = f"the label {name!r} is always {column.drop_nulls()[0]!r:.40}: there is nothing to learn"
        found.append(Finding("one class", name, "fail", text, frame.height))
    return found


def _repeats(frame: "pl.DataFrame", section: DataSection) -> list[Finding]:
    key = [name for name in section.key if name in frame.columns]
    repeated = frame.height - (frame.select(key) if key else frame).n_unique()
    if not repeated:
        return []
    what = f"agree with another in {', '.join(key)}" if key else "are the same as another"
    block = 0 if key else _longest_block(frame)
    if block >= _BLOCK:
        text = f"{block:,} rows in a row were there before in the same order: has a batch been delivered twice?"
        return [Finding("duplicate batch", "", "fail", text, repeated)]
    share = repeated / frame.height
    text = f"{repeated:,} of {frame.height:,} rows {what}: take each once, or set data.key to what tells rows apart"
    verdict: Literal["warn", "fail"] = "fail" if share > (_KEY_REPEATED if key else _REPEATED) else "warn"
    return [Finding("duplicate rows", "", verdict, text, repeated)]


def _longest_block(frame: "pl.DataFrame") -> int:
    """The longest stretch of rows that repeats an earlier one."""
    import polars as pl

    rows = pl.DataFrame({"row": frame.hash_rows()}).with_row_index()
    first = rows.select(pl.col("index").min().over("row").cast(pl.Int64)).to_series().to_numpy()
    repeats = first < np.arange(len(first))
    # Within a repeated stretch each row's first place follows that of the row before.
    goes_on = repeats[1:] & repeats[:-1] & (np.diff(first) == 1)
    breaks = np.flatnonzero(~np.concatenate(([False], goes_on, [False])))
    return int(np.diff(breaks).max()) if len(breaks) > 1 else 0


def _stale(frame: "pl.DataFrame", section: DataSection, now: datetime | None) -> list[Finding]:
    if not section.stale:
        return []
    match = _AGE.match(section.stale)
    if not match or not section.time:
        raise ConfigurationError(
            f"data.stale = {section.stale!r} needs a number with s, m, h, d or w, such as 2d, and data.time"
        )
    limit = timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
    if section.time not in frame.columns:
        text = f"there is no column {section.time!r} (data.time); there are {', '.join(frame.columns)}"
        return [Finding("stale", section.time, "fail", text)]
    newest = _moment(frame[section.time].max())
    if newest is not None and newest > (now or datetime.now(UTC)) + timedelta(days=1):
        text = f"the newest row is from {newest:%Y-%m-%d}, which has not come yet: is the clock or the unit wrong?"
        return [Finding("stale", section.time, "fail", text)]
    if newest is None:
        text = f"the column {section.time!r} holds no times that can be read, so its age cannot be told"
        return [Finding("stale", section.time, "inconclusive", text)]
    age = (now or datetime.now(UTC)) - newest
    if age <= limit:
        return []
    days = age.total_seconds() / 86_400
    text = f"the newest row is {days:.1f} days old, and data.stale allows {section.stale}: take in newer rows"
    return [Finding("stale", section.time, "fail", text)]


def _moment(value: object) -> datetime | None:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, int | float):
        # Past the year 5138 as seconds, so these are milliseconds.
        seconds = value / 1000 if abs(value) > 1e11 else value
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (ValueError, OverflowError, OSError):
            return None
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _constant(frame: "pl.DataFrame", section: DataSection) -> list[Finding]:
    found = []
    # What the model does not see may be as it likes.
    others = {section.label, section.time, section.group, section.split, *section.ignore, *section.slices}
    for column in frame:
        if column.name in others or (section.features and column.name not in section.features):
            continue
        if column.null_count() == frame.height:
            text = f"the column {column.name!r} is empty in every row"
            found.append(Finding("empty column", column.name, "warn", text, frame.height))
        elif frame.height > 1 and column.n_unique() == 1:
            text = f"the column {column.name!r} is the same in every row, so it says nothing"
            found.append(Finding("constant column", column.name, "warn", text, frame.height))
    return found


# --- compared with what it was --------------------------------------------------------------------


def _compared(frame: "pl.DataFrame", now: Profile, baseline: Profile, section: DataSection) -> list[Finding]:
    # What orders rows moves with the clock.
    moving = {section.time, section.split, *section.key}
    seen = {*section.seen(frame.columns), section.label}
    names = [name for name in baseline.columns if name not in moving]
    # Two tests of a column at most, and one of all rows.
    alpha = ALPHA / (2 * len(names) + 1)
    found: list[Finding] = []
    for name in names:
        before = baseline.columns[name]
        if name not in now.columns:
            text = f"the column {name!r} is gone; there are {', '.join(frame.columns)}"
            found.append(Finding("missing column", name, "fail", text, frame.height))
            continue
        after = now.columns[name]
        if _other_kind(before, after):
            text = f"the column {name!r} was {before.kind} and is {after.kind} now"
            found.append(Finding("wrong type", name, "fail", text, frame.height))
            continue
        here = _nulls(name, before, after, baseline.rows, frame.height, alpha)
        if before.quantiles and after.quantiles and frame.height - after.nulls >= FEW:
            here += _numbers(name, frame, before, after, alpha)
        if before.top:
            here += _categories(name, before, after, frame.height, alpha)
        # What the model does not see may be as it likes, and is told.
        found += here if name in seen else [_softer(finding) for finding in here]
    found += [
        Finding("new column", name, "warn", f"the column {name!r} is new; the last version was trained without it")
        for name in frame.columns
        if name not in baseline.columns and name not in moving
    ]
    return found


def _softer(finding: Finding) -> Finding:
    return msgspec.structs.replace(finding, verdict="warn") if finding.verdict == "fail" else finding


def _other_kind(before: ColumnProfile, after: ColumnProfile) -> bool:
    alike = [{"number", "integer"}, {"text", "category"}]
    return before.kind != after.kind and not any({before.kind, after.kind} <= kinds for kinds in alike)


def _nulls(
    name: str, before: ColumnProfile, after: ColumnProfile, rows_before: int, rows: int, alpha: float
) -> list[Finding]:
    was = before.nulls / max(1, rows_before)
    if after.nulls / rows <= was or not share_above(after.nulls, rows, min(1.0, was + 0.01), alpha):
        return []
    red = share_above(after.nulls, rows, min(1.0, was + NULL_MORE), alpha)
    text = f"the column {name!r} is empty in {after.nulls / rows:.1%} of the rows, and was in {was:.1%}"
    return [Finding("nulls", name, "fail" if red else "warn", text, after.nulls)]


def _numbers(
    name: str, frame: "pl.DataFrame", before: ColumnProfile, after: ColumnProfile, alpha: float
) -> list[Finding]:
    factor = scale_change(before.quantiles, after.quantiles)
    count = frame.height - after.nulls
    if factor is not None and max(factor, 1 / factor) >= UNIT:
        text = f"the column {name!r} is about {factor:.3g} times what it was: has its unit changed?"
        return [Finding("unit change", name, "fail", text, count)]
    assert before.mean is not None
    assert before.deviation is not None
    assert after.mean is not None
    if before.deviation == 0:
        return []
    values = frame[name].drop_nulls().to_numpy().astype(np.float64)
    low, high = mean_shift(values[np.isfinite(values)], before.mean, before.deviation, alpha)
    shift = (after.mean - before.mean) / before.deviation
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    text = (
        f"the mean of {name!r} is {after.mean:.4g} and was {before.mean:.4g}: {shift:+.2f} standard deviations "
        f"[{low:+.2f}, {high:+.2f}]"
    )
    if least > GROSS:
        return [Finding("shifted mean", name, "fail", f"{text}; that is more than the world moves", count)]
    if least > MODEST:
        return [Finding("shifted mean", name, "warn", text, count)]
    return []


def _categories(name: str, before: ColumnProfile, after: ColumnProfile, rows: int, alpha: float) -> list[Finding]:
    known = {value for value, _ in before.top}
    if not after.top or before.distinct > len(known) or before.distinct > 0.2 * sum(count for _, count in before.top):
        # Names and free text: new ones are what one expects.
        return []
    new = [(value, count) for value, count in after.top if value not in known]
    count = sum(number for _, number in new)
    if not count:
        return []
    red = share_above(count, rows, NEW_SHARE, alpha)
    some = ", ".join(repr(value)[:40] for value, _ in new[:3])
    text = f"the column {name!r} holds new values in {count:,} rows ({count / rows:.1%}): {some}"
    return [Finding("new category", name, "fail" if red else "warn", text, count)]


def _seen_before(frame: "pl.DataFrame", baseline: Profile, section: DataSection) -> list[Finding]:
    if not baseline.sketch:
        return []
    sketch = np.array(baseline.sketch, np.uint64)
    made = fingerprints(frame, told_apart_by(frame, section.key))
    # Of all hashes those up to the largest kept one are known; they stand for the others.
    asked = made if baseline.whole else made[made <= sketch[-1]]
    if not len(asked):
        text = "too few rows to tell whether they were seen before"
        return [Finding("seen before", "", "inconclusive", text)]
    seen = int(np.isin(asked, sketch).sum())
    if not seen:
        return []
    share = seen / len(asked)
    rows = round(share * frame.height)
    text = f"about {share:.0%} of the rows ({rows:,}) were there before: has a batch been delivered twice?"
    red = share_above(seen, len(asked), 0.05, ALPHA / (2 * len(baseline.columns) + 1))
    return [Finding("seen before", "", "fail" if red else "warn", text, rows)]

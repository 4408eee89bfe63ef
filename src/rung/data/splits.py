"""Which rows a model learns from, which ones choose its best step, and which ones only judge it."""

from typing import TYPE_CHECKING

from rung.data.fingerprints import fingerprints
from rung.domain.datasets import SPLITS, Split
from rung.domain.errors import InvalidData
from rung.settings.project import DataSection

if TYPE_CHECKING:
    import polars as pl

__all__ = ["divide"]

_NAMES = {"val": "validation", "valid": "validation", "dev": "validation", "eval": "validation"}


def divide(frame: "pl.DataFrame", section: DataSection) -> dict[Split, "pl.DataFrame"]:
    """The rows of each split, in their order.

    A `split` column says it where there is one. Else, with `time`, the latest rows are the test and those before them
    the validation: equal times stay together. Else a hash of `group`, `key` or the whole row decides, so that a row
    stays where it is when others are added, and equal ones are together.

    Raises:
        InvalidData: a column that a setting names is not there, or the split column holds another word.
    """
    for setting in ("split", "time", "group"):
        name = getattr(section, setting)
        if name and name not in frame.columns:
            raise InvalidData(f"there is no column {name!r} (data.{setting}); there are {', '.join(frame.columns)}")
    if section.split:
        return _said(frame, section.split)
    if section.validation + section.test >= 1:
        raise InvalidData(
            f"validation = {section.validation} and test = {section.test} leave no rows to learn from: "
            "together they must be less than 1"
        )
    if section.time:
        return _by_time(frame, section)
    return _by_hash(frame, section)


def _said(frame: "pl.DataFrame", column: str) -> dict[Split, "pl.DataFrame"]:
    import polars as pl

    words = frame[column].cast(pl.String).replace(_NAMES)
    strange = words.filter(~words.is_in(SPLITS) | words.is_null())
    if strange.len():
        raise InvalidData(
            f"the split column {column!r} holds {strange[0]!r} in {strange.len()} rows; "
            "it may say train, validation or test"
        )
    return {split: frame.filter(words == split) for split in SPLITS}


def _by_time(frame: "pl.DataFrame", section: DataSection) -> dict[Split, "pl.DataFrame"]:
    ordered = frame.sort(section.time, maintain_order=True, nulls_last=False)
    times = ordered[section.time]
    count = ordered.height
    test = _edge(times, round(count * (1 - section.test)))
    validation = _edge(times, round(count * (1 - section.test - section.validation)))
    return {"train": ordered[:validation], "validation": ordered[validation:test], "test": ordered[test:]}


def _edge(times: "pl.Series", at: int) -> int:
    """The next row from `at` on whose time differs from the one before."""
    while 0 < at < times.len() and times[at] == times[at - 1]:
        at += 1
    return at


def _by_hash(frame: "pl.DataFrame", section: DataSection) -> dict[Split, "pl.DataFrame"]:
    import polars as pl

    names = [section.group] if section.group else list(section.key) or frame.columns
    missing = [name for name in names if name not in frame.columns]
    if missing:
        raise InvalidData(f"there is no column {missing[0]!r} (data.key); there are {', '.join(frame.columns)}")
    places = pl.Series(fingerprints(frame, names) / 2**64, dtype=pl.Float64)
    test, validation = section.test, section.test + section.validation
    return {
        "train": frame.filter(places >= validation),
        "validation": frame.filter((places >= test) & (places < validation)),
        "test": frame.filter(places < test),
    }

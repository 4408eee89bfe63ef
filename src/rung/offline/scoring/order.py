"""What is to be scored, and what came of it."""

import msgspec

__all__ = ["Order", "Scored"]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One data set through one version of a model, into one place."""

    model: str
    source: str
    """URL of the rows, as `data.source` of a model is."""
    out: str
    """A file (`.csv`, `.jsonl`, `.parquet`), a folder, a table of a database (`sqlite:PATH?table=NAME`), or `scores:`,
    the project's own table, which can be asked by key."""
    version: int | None = None
    """None: the one that answers most callers, else the latest."""
    where: str = ""
    """Condition on the source's columns, in SQL: only rows that meet it are scored."""
    key: tuple[str, ...] = ()
    """Columns that tell rows apart; the result has these."""
    keep: tuple[str, ...] | None = None
    """Columns of the source that the result has besides; None: all where there is no key, else none."""
    group: tuple[str, ...] = ()
    """Columns whose values say what is alike: answers stand in for one another within them."""
    features: tuple[str, ...] = ()
    """Columns that the model sees, where it does not say itself; empty: all that nothing else names."""
    ignore: tuple[str, ...] = ()
    """Columns that it does not see, such as the label."""
    as_of: str = ""
    """What day the answers are of, as `2026-01-31`; empty: the day of the start, UTC."""
    chunk: int = 0
    """Rows that are committed together, at most; 0: 50,000, or 64 pictures."""
    threads: int = 0
    """Calls of the model at once; 0: one a core."""
    days: int = 0
    """Of `scores:`: rows of days further back are forgotten; 0: never."""
    resume: bool = False
    """Go on with a run of the same order that was cut off."""


class Scored(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did, over all its parts."""

    model: str
    version: int
    digest: str
    """Of the version."""
    source: str
    out: str
    as_of: str
    read: int
    """Rows that the source gave: those scored, refused and left out."""
    rows: int
    """Rows that were answered."""
    refused: int
    """Rows that could not be read or were not answered, each told with its reason in the file of refusals."""
    left_out: int
    """Rows that did not meet the condition."""
    batch: int
    """Rows in one call of the model."""
    seconds: float = 0.0
    """Of the last part of the run."""
    resumed: int = 0
    """Rows of `read` that an earlier part of the run had committed."""
    refusals: tuple[str, ...] = ()
    """Why, for the first few."""
    finished: str = ""
    """RFC 3339, UTC."""

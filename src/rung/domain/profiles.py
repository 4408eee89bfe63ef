"""What data looks like, column by column: small enough to lie in a bundle, enough to notice when it changes."""

import msgspec

from rung.domain.datasets import Kind

__all__ = ["QUANTILES", "ColumnProfile", "Profile"]

QUANTILES = tuple(place / 20 for place in range(21))
"""Places of the quantiles of a column of numbers: 0, 0.05, ... 1."""


class ColumnProfile(msgspec.Struct, frozen=True):
    """One column. What its kind does not have is empty."""

    kind: Kind
    nulls: int = 0
    distinct: int = 0
    """Different values, null apart."""
    mean: float | None = None
    deviation: float | None = None
    """Sample standard deviation."""
    quantiles: tuple[float, ...] = ()
    """At `QUANTILES`."""
    top: tuple[tuple[str, int], ...] = ()
    """Texts, categories, booleans, and whole numbers where there are few, with their counts; the most common first."""
    size: float | None = None
    """Mean length of texts in characters, of files in bytes."""


class Profile(msgspec.Struct, frozen=True):
    """Rows of one time."""

    rows: int
    columns: dict[str, ColumnProfile]
    label: str = ""
    time: str = ""
    """Column that says when a row is from."""
    newest: str = ""
    """Its largest value, as text."""
    sketch: tuple[int, ...] = ()
    """The smallest 1,024 of the hashes of all rows: by them rows that were seen before are recognised."""
    whole: bool = False
    """Whether `sketch` holds all hashes."""

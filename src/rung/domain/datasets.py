"""What a data set is made of: its columns, its parts, and how its rows are divided."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import msgspec

__all__ = ["SPLITS", "DatasetVersion", "Kind", "Part", "Piece", "Quarantined", "Split"]

Kind = Literal["number", "integer", "boolean", "text", "category", "time", "bytes", "other"]
"""What the values of a column are. Pictures and masks are `bytes`: the encoded file."""

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
"""`validation` picks the best step of a run; `test` is looked at once, by `rung evaluate`."""


class Part(msgspec.Struct, frozen=True):
    """Some rows in one file, never changed."""

    sha256: str
    """Of the file's bytes, by which it is found."""
    rows: int
    size: int
    """Bytes."""


class DatasetVersion(msgspec.Struct, frozen=True):
    """All rows of a data set at one time. The sha256 of `identity` is its name for ever.

    Versions share parts: what came in later adds parts and leaves the earlier ones as they are.
    """

    name: str
    digest: str
    """sha256 of columns and parts in canonical form: equal content has an equal digest."""
    columns: dict[str, Kind]
    parts: tuple[Part, ...]
    source: str = ""
    """URL that it was read from, without passwords."""
    cursor: str = ""
    """How far the source has been read; what that means is the source's own."""
    quarantined: int = 0
    """Rows that were refused on the way to this version, over all its reads."""
    created: str = ""
    """RFC 3339, UTC; not part of the digest."""
    parent: str = ""
    """Digest of the version that this one adds to."""
    split: str = ""
    """Column that says how its rows are divided; empty: as the project's settings say."""

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(part.rows for part in self.parts)


class Quarantined(msgspec.Struct, frozen=True):
    """A row that was refused, where it stood, and why."""

    source: str
    """File or URL."""
    row: int
    """Number within it, from 1, as an editor or a query counts."""
    reason: str
    value: str
    """The row as it came, shortened."""


class Piece(msgspec.Struct):
    """Rows that a source gave at once."""

    frame: Any
    """A polars DataFrame; text columns may still be of any kind, see `rung.data.spool`."""
    refused: Sequence[Quarantined] = ()
    cursor: str = ""
    """Where the next read begins, once these rows are kept."""
    numbers: Sequence[int] = ()
    """Where each row stood in `where`, as an editor or a query counts; empty: from 1 on."""
    where: str = ""
    """File or URL of these rows; empty: the source's."""
    loose: Sequence[str] = ()
    """Text columns whose type is told from all rows: those of formats without types, or of mixed values."""

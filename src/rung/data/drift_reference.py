"""What windows are compared with: the rows that a version was trained on, else the profile in its bundle."""

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from rung.data import datasets
from rung.data.drift_features import features_of, free_text, vocabulary
from rung.data.kinds import kind_of
from rung.data.profile import make
from rung.data.splits import divide
from rung.domain.errors import InvalidData, NotFound
from rung.domain.models import Manifest
from rung.domain.profiles import QUANTILES, Profile
from rung.ports import BlobStore
from rung.settings.project import DataSection

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = [
    "Column",
    "Reference",
    "column_of",
    "counts_of",
    "names_of",
    "numbers_of",
    "of_profile",
    "of_rows",
    "reference_of",
]

_ROWS = 50_000
"""Rows of a reference, at most: more make no bound narrower that a window does not widen."""
_PICTURES = 400
_CODES = 10
"""Different numbers up to which a column is one of categories."""
_POINTS = 2_000
_OUTER = 1
"""Quantiles of a profile at either end that are cut off: between them and the extremes nothing is known."""


class Column(msgspec.Struct):
    """One column of a reference."""

    values: "Array | None"
    """Of numbers; None for categories."""
    counts: dict[str, float]
    """Of categories."""
    rows: float
    """Known values that it stands for."""
    nulls: float
    """Further rows where it is missing."""
    ends: tuple[float, float] | None = None
    """Numbers beyond count as these, in the window too."""


class Reference(msgspec.Struct):
    """What windows are compared with."""

    about: str
    rows: int
    columns: dict[str, Column]
    profile: "Profile | None"
    """Of the rows before pictures and texts became numbers."""
    table: "pl.DataFrame | None" = None
    """Those rows with features; None where only a profile is known."""
    known: dict[str, frozenset[str]] = {}
    """Column of free text -> its vocabulary."""
    pictures: tuple[str, ...] = ()
    labels: "Column | None" = None
    notes: tuple[str, ...] = ()


def reference_of(store: BlobStore, repository: BlobStore, manifest: Manifest, section: DataSection) -> Reference:
    """The rows that the version learned from, else its profile.

    Raises:
        NotFound: nothing is known of what it was trained on.
    """
    digest = manifest.lineage.data.get(manifest.name) or next(iter(manifest.lineage.data.values()), "")
    reason = "its lineage names no data"
    if digest:
        try:
            version = datasets.load(store, manifest.name, digest)
            section = datasets.divided(section, version)
            rows = divide(datasets.frame(store, version), section)["train"]
            if rows.height:
                return of_rows(rows, section, f"the rows that version {manifest.version} learned from")
            reason = "no row of its data is one to learn from"
        except (NotFound, InvalidData) as error:
            reason = str(error)
    if manifest.profile:
        content = repository.get(f"{manifest.name}/{manifest.version}/{manifest.profile}")
        note = f"compared with the profile in the bundle, since the training data is not here ({reason})"
        return of_profile(msgspec.json.decode(content, type=Profile), section, manifest.version, note)
    raise NotFound(
        f"nothing is known of what {manifest.name} version {manifest.version} was trained on: {reason}, and its bundle "
        "has no profile; name rows to compare with by --against"
    )


def of_rows(rows: "pl.DataFrame", section: DataSection, about: str) -> Reference:
    """A reference of rows."""
    import polars as pl

    names = [name for name in section.seen(rows.columns) if name in rows.columns]
    chance = np.random.default_rng(6)
    label = _label(rows, section)
    pictures = tuple(name for name in names if rows.schema[name] == pl.Binary)
    limit = _PICTURES if pictures else _ROWS
    whole = rows.height
    seen = rows.select(names)
    profile = make(seen)
    if seen.height > limit:
        seen = seen[np.sort(chance.permutation(seen.height)[:limit])]
    texts = [name for name in names if free_text(seen[name])]
    known: dict[str, frozenset[str]] = {}
    if texts:
        # Words are known from one half and counted in the other: nothing is unknown to rows of its own.
        order = chance.permutation(seen.height)
        known = {name: vocabulary(seen[order[::2]][name]) for name in texts}
        seen = seen[np.sort(order[1::2])] if seen.height > 1 else seen
    table = features_of(seen, known)
    columns = {column.name: found for column in table if (found := column_of(column)) is not None}
    return Reference(about, whole, columns, profile, table, known, pictures, label)


def of_profile(profile: Profile, section: DataSection, version: int, note: str) -> Reference:
    """A reference of quantiles and counts; pictures and free texts are not in them."""
    columns: dict[str, Column] = {}
    missing = []
    for name in section.seen(profile.columns):
        one = profile.columns.get(name)
        if one is None:
            continue
        rows, nulls = float(profile.rows - one.nulls), float(one.nulls)
        counted = sum(count for _, count in one.top)
        if one.kind != "time" and one.top and (not one.quantiles or one.distinct <= _CODES) and counted >= 0.8 * rows:
            columns[name] = Column(None, {value: float(count) for value, count in one.top}, rows, nulls)
        elif one.quantiles:
            ends = (one.quantiles[_OUTER], one.quantiles[-1 - _OUTER])
            places = (np.arange(_POINTS) + 0.5) / _POINTS
            values = np.interp(places, QUANTILES, one.quantiles).clip(*ends)
            columns[name] = Column(values, {}, rows, nulls, ends)
        elif one.kind != "time":
            missing.append(name)
    notes = [note]
    if missing:
        notes.append(f"a profile says too little to compare {', '.join(missing)}")
    about = f"the profile of what version {version} learned from"
    kept = {name: one for name, one in profile.columns.items() if name in section.seen(profile.columns)}
    return Reference(about, profile.rows, columns, msgspec.structs.replace(profile, columns=kept), notes=tuple(notes))


def numbers_of(column: "pl.Series") -> "tuple[Array, NDArray[np.int64]]":
    """Finite values, and their places."""
    import polars as pl

    values = column.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    places = np.flatnonzero(np.isfinite(values))
    return values[places], places


def names_of(column: "pl.Series") -> "tuple[pl.Series, NDArray[np.int64]]":
    """Values as texts, in one way for whole numbers and fractions, and their places."""
    import polars as pl

    if column.dtype.is_numeric():
        values, places = numbers_of(column)
        return pl.Series([f"{value:g}" for value in values], dtype=pl.String), places
    known = column.cast(pl.String, strict=False)
    places = np.flatnonzero(known.is_not_null().to_numpy())
    return known.drop_nulls(), places


def counts_of(texts: "pl.Series") -> dict[str, float]:
    """Value -> rows."""
    counted = texts.alias("value").value_counts().sort(["count", "value"], descending=[True, False])
    return {str(value): float(count) for value, count in counted.iter_rows()}


def column_of(column: "pl.Series") -> Column | None:
    """A column as a reference of its own; None where it cannot be compared."""
    kind = kind_of(column.dtype)
    if kind in ("time", "bytes", "other") or not column.len():
        return None
    if kind in ("number", "integer"):
        values, _ = numbers_of(column)
        nulls = float(column.len() - values.size)
        if np.unique(values).size > _CODES:
            return Column(values, {}, float(values.size), nulls)
    texts, _ = names_of(column)
    return Column(None, counts_of(texts), float(texts.len()), float(column.len() - texts.len()))


def _label(rows: "pl.DataFrame", section: DataSection) -> Column | None:
    return column_of(rows[section.label]) if section.label in rows.columns else None

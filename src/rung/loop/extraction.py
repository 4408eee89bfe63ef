"""What a model is trained on anew: its data, and the labelled requests of its users in the order in which they came.

The latest requests are held out, so that old and new version are compared on what the world is like now and neither
has seen. Those before them choose the best step of a run, and the rest are learned from.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rung.data import datasets
from rung.data.sources.function import function_of
from rung.data.splits import divide
from rung.domain.datasets import Split
from rung.domain.errors import ConfigurationError, InvalidData
from rung.ports import BlobStore
from rung.settings.project import DataSection, ModelSettings, RetrainSection

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Extracted", "Window", "extract", "labelled_rows"]

SPLIT = "rung_split"
"""Column that divides the rows where the data has none that does."""
_VALIDATION = 0.2
"""Share of the labelled requests before the held-out ones that choose the best step."""


class Window(msgspec.Struct, frozen=True):
    """One choice of how far back to learn from."""

    name: str
    """As the settings say it, such as `all`."""
    dataset: str
    """Digest."""
    rows: int
    """That are learned from, the earlier data included."""
    earlier: int
    """Rows of it, whatever they are for, before the labelled requests, which follow them."""


class Extracted(msgspec.Struct, frozen=True):
    """Data sets for one retraining."""

    windows: tuple[Window, ...]
    labelled: int
    fresh: int
    """Of them, the latest: those that the serving version cannot have learned from."""
    held_out: int
    """Labelled requests that nobody learns from."""
    until: float
    """When the last of them was asked, in seconds since the epoch."""


def labelled_rows(folder: Path, name: str, section: RetrainSection, *, before: float) -> "pl.DataFrame":
    """Requests that were asked before a time, with their labels, oldest first.

    Columns: the fields of the requests, `label`, `prediction_id`, `predicted_at`, `version`, `arm`.

    Raises:
        InvalidData: the log cannot be read.
    """
    import polars as pl

    found = datasets.read(f"log:{name}?kind={section.kind}", folder)
    if not found.height:
        return found
    return found.filter(pl.col("predicted_at") < before).sort("predicted_at", "prediction_id")


def extract(
    store: BlobStore, folder: Path, name: str, model: ModelSettings, labelled: "pl.DataFrame", *, since: float = 0.0
) -> Extracted:
    """Keep the data sets of a retraining: the same ones for the same rows.

    Args:
        store: where data sets lie.
        folder: of the project.
        name: of the model.
        model: its settings.
        labelled: what `labelled_rows` gave.
        since: up to when the serving version may have learned from requests, in seconds since the epoch.

    Raises:
        InvalidData: there are too few labelled requests, or they do not fit the data.
        ConfigurationError: the source or the function of rows is not there.
    """
    import polars as pl

    retrain, section = model.retrain, model.dataset
    if labelled.height < retrain.least:
        raise InvalidData(f"{labelled.height} labelled requests are there, and {retrain.least} are needed (least)")
    version = datasets.ingest(store, name, section, folder)
    earlier = datasets.frame(store, version)
    column = section.split or SPLIT
    old = earlier if section.split else _with_split(earlier, section)
    make = function_of(retrain.rows, folder, "rows") if retrain.rows else None
    made, asked = _rows_of(labelled, section, make, old.schema.get(section.time))
    new = _like(old, made)
    held = max(1, round(new.height * retrain.holdout))
    choosing = max(1, round((new.height - held) * _VALIDATION))
    learned = new.height - held - choosing
    if learned < 1:
        raise InvalidData(f"of {new.height} labelled requests none is left to learn from: raise least")
    words = ["train"] * learned + ["validation"] * choosing + ["test"] * held
    new = new.with_columns(pl.Series(column, words, dtype=old.schema[column]))
    windows = []
    for word in dict.fromkeys(retrain.windows):
        before, after = _window(word, old, new, column)
        rows = pl.concat([before, after], how="vertical_relaxed")
        kept = datasets.keep(store, name, rows, source=f"{version.source} and log:{name}", split=column)
        windows.append(Window(word, kept.digest, int((rows[column] == "train").sum()), before.height))
    fresh = int((asked > since).sum())
    return Extracted(tuple(windows), new.height, fresh, held, float(asked[-1]))


def _window(word: str, old: "pl.DataFrame", new: "pl.DataFrame", column: str) -> "tuple[pl.DataFrame, pl.DataFrame]":
    """What is left of both; the rows of the other splits are in every window, so that runs can be compared."""
    kind, _, count = word.partition(":")
    if kind == "all" and not count:
        return old, new
    if kind not in ("requests", "rows") or not count.isdigit() or not int(count):
        raise ConfigurationError(
            f"[models.NAME.retrain] windows: {word!r:.60} is none; use all, requests:COUNT or rows:COUNT"
        )
    after = _latest(new, int(count), column)
    left = max(int(count) - int((new[column] == "train").sum()), 0)
    return (_latest(old, left, column) if kind == "rows" else old), after


def _latest(rows: "pl.DataFrame", count: int, column: str) -> "pl.DataFrame":
    """Without all but the last so many rows to learn from."""
    import polars as pl

    learned = rows[column] == "train"
    behind = learned.reverse().cast(pl.Int64).cum_sum().reverse()
    return rows.filter(~learned | (behind <= count))


def _with_split(rows: "pl.DataFrame", section: DataSection) -> "pl.DataFrame":
    import polars as pl

    names: tuple[Split, ...] = ("train", "validation", "test")
    parts = divide(rows, section)
    return pl.concat([parts[name].with_columns(pl.lit(name).alias(SPLIT)) for name in names if name in parts])


def _rows_of(labelled: "pl.DataFrame", section: DataSection, make: Any, clock: Any) -> "tuple[pl.DataFrame, pl.Series]":
    """The labelled requests as rows, and when each was asked; `clock` is the type of the data's times."""
    import polars as pl

    asked = labelled["predicted_at"]
    if make is not None:
        made = [make(one) for one in labelled.iter_rows(named=True)]
        rows = [row for row in made if row is not None]
        if not rows:
            raise InvalidData("the function of rows made no row of the labelled requests")
        return pl.DataFrame(rows, infer_schema_length=None), asked.filter(pl.Series([row is not None for row in made]))
    found = labelled.rename({"label": section.label}) if section.label != "label" else labelled
    # What a request cannot know by itself.
    given = {section.time: _moments(asked, clock)} if section.time else {}
    if len(section.key) == 1 and section.key[0] != section.time:
        given[section.key[0]] = labelled["prediction_id"]
    return found.with_columns(values.alias(name) for name, values in given.items() if name not in found.columns), asked


def _like(old: "pl.DataFrame", rows: "pl.DataFrame") -> "pl.DataFrame":
    """These rows with the columns of the data, in their order."""
    import polars as pl

    columns = []
    for name, dtype in old.schema.items():
        values = rows[name] if name in rows.columns else pl.Series([None] * rows.height, dtype=dtype)
        try:
            columns.append(values.cast(dtype).alias(name))
        except pl.exceptions.PolarsError:
            raise InvalidData(
                f"{name!r} of the labelled requests is {values.dtype}, and of the data {dtype}: make rows that fit "
                "with [models.NAME.retrain] rows"
            ) from None
    return pl.DataFrame(columns)


def _moments(seconds: "pl.Series", dtype: Any) -> "pl.Series":
    import polars as pl

    if dtype.is_numeric():
        return seconds
    moments = (seconds * 1e6).cast(pl.Int64).cast(pl.Datetime("us"))
    return moments.dt.to_string("%Y-%m-%dT%H:%M:%S") if dtype == pl.String else moments

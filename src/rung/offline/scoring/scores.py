"""The project's own table of answers to data sets: written by runs, asked by key, with the group as a way out.

A row stands under model, key, day and version, once. When a run is finished, each group of its rows has an answer too:
the mean of the numbers, or the most frequent class; that is what a key without a row of its own gets, marked as such.
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from sqlalchemy import Connection, text

from rung.domain.errors import ConfigurationError, InvalidData, NotFound
from rung.offline.scoring.results import PREFIX, Answers
from rung.offline.scoring.tables import Identity
from rung.store.database import Database, open_database

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Found", "How", "RunOf", "ScoreStore", "Scores", "named"]

_ROWS = 5_000
"""Rows of one transaction: others get their turn in between."""
_COLUMNS = "model, key, as_of, version, place, value, label, answer, written"
_CHANGES = "place = excluded.place, value = excluded.value, label = excluded.label, answer = excluded.answer"
_PUT = {
    "sqlite": f"""
INSERT INTO rung_scores ({_COLUMNS})
VALUES (:model, :key, :as_of, :version, :place, :value, :label, :answer, :written)
ON CONFLICT (model, key, as_of, version) DO UPDATE SET {_CHANGES}, written = excluded.written
""",  # noqa: S608 - constants
    # All rows in one parameter: several times faster than a statement for each.
    "postgresql": f"""
INSERT INTO rung_scores ({_COLUMNS})
SELECT {_COLUMNS} FROM json_to_recordset(CAST(:rows AS json)) AS fresh(
  model text, key text, as_of text, version integer, place text, value float8, label text, answer text, written float8)
ON CONFLICT (model, key, as_of, version) DO UPDATE SET {_CHANGES}, written = excluded.written
""",  # noqa: S608 - constants
}
_GROUPS = text("""
SELECT place, label, count(*) AS rows, avg(value) AS value FROM rung_scores
WHERE model = :model AND as_of = :as_of AND version = :version AND place <> ''
GROUP BY place, label ORDER BY place, count(*) DESC, label
""")
_PUT_GROUP = text("""
INSERT INTO rung_score_groups (model, place, as_of, version, rows, answer, written)
VALUES (:model, :place, :as_of, :version, :rows, :answer, :written)
ON CONFLICT (model, place, as_of, version) DO UPDATE SET rows = excluded.rows, answer = excluded.answer,
  written = excluded.written
""")
_OLD = [
    text(f"DELETE FROM {table} WHERE model = :model AND as_of < :as_of")  # noqa: S608 - constants
    for table in ("rung_scores", "rung_score_groups")
]
_FIND = text("""
SELECT key, as_of, version, place, answer, written, 1 AS rows FROM rung_scores
WHERE model = :model AND key = :key AND (:as_of = '' OR as_of <= :as_of) ORDER BY as_of DESC, written DESC LIMIT 1
""")
_FIND_GROUP = text("""
SELECT '' AS key, as_of, version, place, answer, written, rows FROM rung_score_groups
WHERE model = :model AND place = :place AND (:as_of = '' OR as_of <= :as_of) ORDER BY as_of DESC, written DESC LIMIT 1
""")
_RUNS = text("""
SELECT as_of, version, count(*) AS rows, max(written) AS written FROM rung_scores WHERE model = :model
GROUP BY as_of, version ORDER BY as_of DESC, version DESC LIMIT :limit
""")

How = Literal["own", "stale", "group", "missing"]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a key."""

    model: str
    key: tuple[str, ...]
    answer: dict[str, Any]
    """Column of the result -> its value."""
    version: int
    as_of: str
    age_seconds: float
    """Since it was written."""
    fallback: bool
    """Whether the key has no row that is young enough, so that this is the answer of its group."""
    stale: bool
    """Whether it is older than was asked for, because there was nothing better."""
    group: tuple[str, ...]
    rows: int
    """Rows that it speaks for: 1, or those of the group."""


class RunOf(msgspec.Struct, frozen=True):
    """Rows of one day and version."""

    as_of: str
    version: int
    rows: int
    age_seconds: float


class Scores:
    """Sink of a run that writes into the table.

    Args:
        store: URL of the project's database.
        identity: what the rows have in common.
        key: columns.
        group: columns; empty: none.
        answers: what the version gives.
        days: rows of days that lie further back are forgotten when the run is finished; 0: never.

    Raises:
        ConfigurationError: answers of this kind cannot stand for a group.
    """

    def __init__(
        self,
        store: str,
        identity: Identity,
        key: Sequence[str],
        group: Sequence[str],
        answers: Answers,
        *,
        days: int = 0,
    ) -> None:
        if group and not (answers.value or answers.label):
            raise ConfigurationError("--group needs answers that are numbers or classes: of others there is no mean")
        self._identity, self._key, self._group, self._answers, self._days = identity, key, group, answers, days
        self._database = open_database(store)

    def begin(self, mark: Any) -> None:
        """What was not committed is written again, over itself."""

    def write(self, number: int, rows: "pl.DataFrame") -> Any:
        """Write the rows, a few thousand in a transaction."""
        nulls = [name for name in self._key if rows[name].null_count()]
        if nulls:
            raise InvalidData(f"the key {nulls[0]!r} is empty in some rows: nobody could find them")
        # Of rows of one key the last counts, as it would if they came one after the other.
        rows = rows.unique(subset=list(self._key), keep="last", maintain_order=True)
        values = self._values(rows)
        for start in range(0, len(values), _ROWS):
            part = values[start : start + _ROWS]
            self._database.write(lambda connection, part=part: _put(connection, part))  # type: ignore[misc]
        return number

    def finish(self) -> None:
        """Answer for the groups, forget what is too old."""
        if self._group:
            self._database.write(self._answer_groups)
        if self._days:
            before = date.fromisoformat(self._identity.as_of) - timedelta(days=self._days)
            oldest = {"model": self._identity.model, "as_of": before.isoformat()}
            self._database.write(lambda connection: [connection.execute(one, oldest) for one in _OLD])

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def _values(self, rows: "pl.DataFrame") -> list[dict[str, Any]]:
        others = {"row", *self._key, *self._group}
        answers = [name for name in rows.columns if name not in others]
        value, label = (self._column(one, answers) for one in (self._answers.value, self._answers.label))
        same = msgspec.structs.asdict(self._identity) | {"written": time.time()}
        keys = [named(one) for one in rows.select(self._key).iter_rows()]
        places = [named(one) for one in rows.select(self._group).iter_rows()] if self._group else [""] * len(keys)
        told = [_json(one) for one in rows.select(answers).iter_rows(named=True)]
        values = rows[value].to_list() if value else [None] * len(keys)
        labels = rows[label].to_list() if label else [None] * len(keys)
        return [
            {**same, "key": one, "place": place, "answer": answer, "value": number, "label": word}
            for one, place, answer, number, word in zip(keys, places, told, values, labels, strict=True)
        ]

    def _column(self, name: str, answers: Sequence[str]) -> str:
        return next((one for one in (name, PREFIX + name) if name and one in answers), "")

    def _answer_groups(self, connection: Connection) -> None:
        same = msgspec.structs.asdict(self._identity)
        found: dict[str, dict[str, Any]] = {}
        for place, label, rows, value in connection.execute(_GROUPS, same):
            one = found.setdefault(place, {"rows": 0, "most": rows, "label": label, "value": value})
            one["rows"] += rows
        now = time.time()
        for place, one in found.items():
            answer = {self._answers.value: one["value"]}
            if self._answers.label:
                answer |= {self._answers.label: one["label"], "share": one["most"] / one["rows"]}
            values = same | {"place": place, "rows": one["rows"], "answer": _json(answer), "written": now}
            connection.execute(_PUT_GROUP, values)


class ScoreStore:
    """Answers by key; its methods may be called from any thread."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database, self._clock = database, clock
        self._counts: Counter[tuple[str, How]] = Counter()

    def find(
        self, model: str, key: Sequence[str], *, group: Sequence[str] = (), as_of: str = "", max_age: float = 0.0
    ) -> Found:
        """The newest answer to a key; else that of its group, marked; else an old one, marked.

        Args:
            model: its name.
            key: a value for each column of the key.
            group: a value for each column of the group; empty: that of the key's last row, if it has one.
            as_of: no day after this; empty: the newest.
            max_age: seconds since it was written, at most; 0: any.

        Raises:
            NotFound: nothing is known of the key, nor of its group.
        """
        own = self._one(_FIND, {"model": model, "key": named(key), "as_of": as_of})
        now = self._clock()
        if own is not None and (not max_age or now - own.written <= max_age):
            return self._found("own", model, key, own, now)
        place = named(group) if group else own.place if own is not None else ""
        other = self._one(_FIND_GROUP, {"model": model, "place": place, "as_of": as_of}) if place else None
        # An old answer of the group is no better than an old one of its own.
        if other is not None and (own is None or now - other.written <= max_age):
            return self._found("group", model, key, other, now, stale=bool(max_age) and now - other.written > max_age)
        if own is not None:
            return self._found("stale", model, key, own, now, stale=True)
        self._counts[model, "missing"] += 1
        of = f", nor of the group {place}" if place else ""
        raise NotFound(f"nothing is known of {named(key)!r:.200} of {model}{of}: it was in no data set scored so far")

    def runs(self, model: str, limit: int = 30) -> list[RunOf]:
        """Days and versions that there are rows of, the newest first."""
        now = self._clock()
        return [
            RunOf(as_of, version, rows, max(now - written, 0.0))
            for as_of, version, rows, written in self._database.read(
                lambda connection: connection.execute(_RUNS, {"model": model, "limit": limit}).all()
            )
        ]

    def counts(self, model: str) -> dict[How, int]:
        """Look-ups since the start, by what came of them."""
        return {how: self._counts[model, how] for how in ("own", "stale", "group", "missing")}

    def _one(self, query: Any, values: dict[str, Any]) -> Any:
        return self._database.read(lambda connection: connection.execute(query, values).first())

    def _found(self, how: How, model: str, key: Sequence[str], row: Any, now: float, *, stale: bool = False) -> Found:
        self._counts[model, how] += 1
        return Found(
            model=model,
            key=tuple(key),
            answer=msgspec.json.decode(row.answer),
            version=row.version,
            as_of=row.as_of,
            age_seconds=max(now - row.written, 0.0),
            fallback=how == "group",
            stale=stale,
            group=_unnamed(row.place),
            rows=row.rows,
        )


def named(values: Sequence[Any]) -> str:
    """One text for the values of several columns, and another for other values; one value stands for itself."""
    if len(values) == 1 and not str(values[0]).startswith("["):
        return "" if values[0] is None else str(values[0])
    return msgspec.json.encode(["" if one is None else str(one) for one in values]).decode()


def _unnamed(place: str) -> tuple[str, ...]:
    if not place:
        return ()
    return tuple(msgspec.json.decode(place)) if place.startswith("[") else (place,)


def _put(connection: Connection, rows: list[dict[str, Any]]) -> None:
    statement = text(_PUT[connection.dialect.name])
    if connection.dialect.name == "sqlite":
        connection.execute(statement, rows)
    else:
        connection.execute(statement, {"rows": _json(rows)})


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()

"""Runs as they are recorded: read straight from MLflow's tables, without importing MLflow, and without writing.

A thousand runs with a hundred metrics each are listed in a fraction of a second; through the client it takes seconds.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from rung.domain.errors import InvalidData, InvalidInput, NotFound
from rung.training.journal import JOURNAL, STORE, entries
from rung.training.tracking import folder_of, standing, unsent

__all__ = ["SYSTEM", "Comparison", "Point", "Run", "compare", "find", "history", "list_runs", "measured"]

SYSTEM = "system/"
"""How the names of metrics begin that are about the machine."""
_MANY = 500
"""Values in one question: SQLite allows 32,766."""


class Run(msgspec.Struct, frozen=True):
    """One run."""

    id: str
    """MLflow's, 32 hexadecimal digits; empty as long as MLflow does not have it."""
    name: str
    model: str
    status: str
    """`running`, `finished`, `stopped`, `failed` or `killed`."""
    started: float
    """Seconds since the epoch."""
    ended: float | None
    params: dict[str, str]
    metrics: dict[str, float]
    """The last of each."""
    tags: dict[str, str]
    folder: Path

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        return None if self.ended is None else self.ended - self.started


class Point(msgspec.Struct, frozen=True):
    """A metric at a step."""

    step: int
    value: float
    at: float
    """Seconds since the epoch."""


class Comparison(msgspec.Struct, frozen=True):
    """What differs between runs: for each name a value of each run, or None."""

    runs: tuple[str, ...]
    params: dict[str, tuple[str | None, ...]]
    metrics: dict[str, tuple[float | None, ...]]
    facts: dict[str, tuple[str | None, ...]]
    """Data, code, seed, transforms, environment and so on, by the name of the tag."""


def list_runs(folder: Path, *, model: str | None = None, limit: int = 0) -> list[Run]:
    """Runs of the project in `folder`, newest first; with `limit`, so many.

    Raises:
        InvalidData: MLflow's store is damaged.
    """
    where, values = "", []
    if model is not None:
        where, values = " AND e.name = ?", [model]
    bound = f" LIMIT {int(limit)}" if limit else ""
    fresh = [run for run in _unsent(folder) if model is None or run.model == model]
    found = fresh + _read(folder, where, values, bound)
    return found[: limit or None]


def find(folder: Path, text: str) -> Run:
    """The run of a name, an id, or the beginning of an id.

    Raises:
        NotFound: there is none.
        InvalidInput: several ids begin like this.
    """
    beginning = "".join(letter for letter in text if letter.isalnum())
    found = _read(folder, " AND (r.name = ? OR r.run_uuid LIKE ?)", [text, f"{beginning or '-'}%"])
    found += [run for run in _unsent(folder) if run.name == text]
    exact = [run for run in found if text in (run.name, run.id)]
    if exact:
        return exact[0]
    if not found or len(text) < 4:
        near = ", ".join(run.name for run in list_runs(folder, limit=5)) or "none yet"
        raise NotFound(f"there is no run {text!r}; the newest are: {near}")
    if len(found) > 1:
        raise InvalidInput(f"several runs begin with {text!r}: {', '.join(run.id for run in found[:5])}", field="run")
    return found[0]


def history(folder: Path, run: Run) -> dict[str, list[Point]]:
    """Every value of every metric, by step."""
    points: dict[str, list[Point]] = {}
    if not run.id:
        for entry in entries(run.folder / JOURNAL)[0]:
            for name, value in entry.values.items() if entry.kind == "metrics" else ():
                points.setdefault(name, []).append(Point(entry.step, float(value), entry.at))
        return points
    with _reading(folder) as store:
        rows = store.execute(
            "SELECT key, step, value, is_nan, timestamp FROM metrics WHERE run_uuid = ? ORDER BY key, step, timestamp",
            [run.id],
        )
        for key, step, value, is_nan, at in rows:
            points.setdefault(key, []).append(Point(step, float("nan") if is_nan else value, at / 1000))
    return points


def compare(runs: Sequence[Run]) -> Comparison:
    """What these runs do not have in common, and all their metrics."""
    facts = {
        name: values
        for name, values in _columns([run.tags for run in runs]).items()
        if name.startswith("rung.")
        and name not in ("rung.run", "rung.version", "rung.data_wait")
        and len(set(values)) > 1
    }
    params = {name: values for name, values in _columns([run.params for run in runs]).items() if len(set(values)) > 1}
    metrics = {
        name: tuple(run.metrics.get(name) for run in runs)
        for name in sorted({n for run in runs for n in measured(run)})
    }
    return Comparison(
        tuple(run.name for run in runs), params, metrics, {n.removeprefix("rung."): v for n, v in facts.items()}
    )


def measured(run: Run) -> dict[str, float]:
    """The metrics that training reported, without what the machine's were."""
    return {name: value for name, value in run.metrics.items() if not name.startswith(SYSTEM)}


def _columns(tables: Sequence[dict[str, str]]) -> dict[str, tuple[str | None, ...]]:
    names = sorted({name for table in tables for name in table})
    return {name: tuple(table.get(name) for table in tables) for name in names}


@contextmanager
def _reading(folder: Path) -> Iterator[sqlite3.Connection]:
    path = (folder / STORE).resolve()
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as store:
            yield store
    except sqlite3.Error as error:
        raise InvalidData(
            f"{STORE} cannot be read as MLflow's store: {error}. Move it away: the next run makes a new one, and the "
            "runs of the old one are read from their folders"
        ) from None


def _unsent(folder: Path) -> list[Run]:
    """Runs that are in their folders only, newest first."""
    known: set[str] = set()
    if (folder / STORE).exists():
        with _reading(folder) as store:
            known = {name for (name,) in store.execute("SELECT name FROM runs")}
    found = []
    for name, state, journal in unsent(folder, known):
        tables: dict[str, dict[str, Any]] = {"params": {}, "tags": {}, "metrics": {}}
        for entry in journal:
            tables.setdefault(entry.kind, {}).update(entry.values)
        ended = [entry.at for entry in journal if entry.kind == "finish"]
        found.append(
            Run(
                id=state.id,
                name=name,
                model=state.model,
                status=standing(folder, name, "", "RUNNING"),
                started=journal[0].at if journal else 0.0,
                ended=ended[-1] if ended else None,
                params=tables["params"],
                metrics={metric: float(value) for metric, value in tables["metrics"].items()},
                tags=tables["tags"],
                folder=folder_of(folder, name),
            )
        )
    return sorted(found, key=lambda run: run.started, reverse=True)


def _read(folder: Path, where: str, values: Sequence[str], bound: str = "") -> list[Run]:
    if not (folder / STORE).exists():
        return []
    query = (
        "SELECT r.run_uuid, r.name, e.name, r.status, r.start_time, r.end_time FROM runs r "  # noqa: S608
        "JOIN experiments e ON e.experiment_id = r.experiment_id "
        # What is put in here are our own words; what was typed goes in as values.
        f"WHERE r.lifecycle_stage = 'active'{where} ORDER BY r.start_time DESC, r.rowid DESC{bound}"
    )
    with _reading(folder) as store:
        heads = store.execute(query, values).fetchall()
        ids = [head[0] for head in heads]
        params = _values(store, "params", ids)
        tags = _values(store, "tags", ids)
        metrics = _values(store, "latest_metrics", ids)
    found = []
    for run, name, model, status, began, ended in heads:
        stands = standing(folder, name, tags.get(run, {}).get("rung.ended", ""), status)
        found.append(
            Run(
                id=run,
                name=name,
                model=model,
                status=stands,
                started=began / 1000,
                # A run that goes on again has still the time at which it was interrupted.
                ended=None if ended is None or stands == "running" else ended / 1000,
                params=params.get(run, {}),
                metrics=metrics.get(run, {}),
                tags=tags.get(run, {}),
                folder=folder_of(folder, name),
            )
        )
    return found


def _values(store: sqlite3.Connection, table: str, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for begin in range(0, len(ids), _MANY):
        some = ids[begin : begin + _MANY]
        marks = ",".join("?" * len(some))
        # The table is one of ours, never what somebody typed.
        query = f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN ({marks})"  # noqa: S608
        for run, key, value in store.execute(query, some):
            found.setdefault(run, {})[key] = value
    return found

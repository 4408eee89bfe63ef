"""Bodies of `rung runs`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from rung.cli.printing import print_json, print_table
from rung.domain.errors import InvalidInput
from rung.domain.metrics import direction
from rung.training import runs as recorded
from rung.training.runs import SYSTEM, Run, measured

__all__ = ["compare", "list_runs", "show"]

_SHOWN = 4
"""Metrics in a line of the list."""


def list_runs(model: str, limit: int, sort: str, *, as_json: bool) -> None:
    """Print the runs of the project in this folder."""
    found = recorded.list_runs(Path(), model=model or None, limit=0 if sort else limit)
    if sort:
        found = _best_first(found, sort)[: limit or None]
    if as_json:
        print_json([{**_plain(run), "params": run.params, "metrics": run.metrics} for run in found])
        return
    if not found:
        print("there are no runs yet; rung train makes the first")
        return
    rows = [
        (run.name, run.status, _when(run.started), _time(run.seconds), run.tags.get("rung.version", ""), _metrics(run))
        for run in found
    ]
    print_table(("RUN", "STATUS", "STARTED", "TOOK", "VERSION", "METRICS"), rows)


def show(name: str, plot: Path | None, *, as_json: bool) -> None:
    """Print one run."""
    run = recorded.find(Path(), name)
    if plot is not None:
        from rung.training.plots import draw_runs

        draw_runs({run.name: recorded.history(Path(), run)}, plot)
    if as_json:
        print_json({**_plain(run), "params": run.params, "metrics": run.metrics, "tags": run.tags})
        return
    print(f"{run.name}  {run.status}  {_when(run.started)}  {_time(run.seconds)}".rstrip())
    if reason := run.tags.get("rung.reason"):
        print(f"  because  {reason}")
    _block("metrics", {key: f"{value:.6g}" for key, value in measured(run).items()})
    _block("parameters", run.params)
    facts = {key.removeprefix("rung."): value for key, value in run.tags.items() if key.startswith("rung.")}
    _block("record", {key: value for key, value in facts.items() if key not in ("run", "reason", "model", "ended")})
    print(f"  folder   {run.folder}")
    if plot is not None:
        print(f"  picture  {plot}")


def compare(names: Sequence[str], plot: Path | None, *, as_json: bool) -> None:
    """Print what differs."""
    if len(names) < 2:
        raise InvalidInput("name two runs at least; rung runs list shows them", field="run")
    found = [recorded.find(Path(), name) for name in names]
    made = recorded.compare(found)
    if plot is not None:
        from rung.training.plots import draw_runs

        histories = {run.name: recorded.history(Path(), run) for run in found}
        draw_runs(
            {
                name: {metric: points for metric, points in history.items() if not metric.startswith(SYSTEM)}
                for name, history in histories.items()
            },
            plot,
        )
    if as_json:
        print_json(made)
        return
    rows = [(key, *(_number(value) for value in values)) for key, values in made.metrics.items()]
    rows += [(key, *(value or "" for value in values)) for key, values in made.params.items()]
    rows += [(key, *((value or "")[:24] for value in values)) for key, values in made.facts.items()]
    print_table(("", *made.runs), rows)
    same = [fact for fact in ("dataset", "code", "environment") if fact not in made.facts]
    if same:
        print(f"the same in all: {', '.join(same)}")
    if plot is not None:
        print(f"picture  {plot}")


def _best_first(found: list[Run], metric: str) -> list[Run]:
    having = [run for run in found if metric in run.metrics]
    if not having:
        there = sorted({name for run in found for name in measured(run)})
        raise InvalidInput(f"no run has a metric {metric!r}; there are {', '.join(there) or 'none'}", field="sort")
    return sorted(having, key=lambda run: run.metrics[metric], reverse=direction(metric) == "maximize")


def _plain(run: Run) -> dict[str, object]:
    return {
        "id": run.id,
        "name": run.name,
        "model": run.model,
        "status": run.status,
        "started": run.started,
        "ended": run.ended,
        "folder": str(run.folder),
    }


def _block(title: str, values: Mapping[str, str]) -> None:
    if values:
        print(f"  {title}")
        width = max(map(len, values))
        for name, value in sorted(values.items()):
            print(f"    {name.ljust(width)}  {value[:100]}")


def _metrics(run: Run) -> str:
    shown = [f"{name} {value:.4g}" for name, value in sorted(measured(run).items())]
    return "  ".join(shown[:_SHOWN]) + ("  ..." if len(shown) > _SHOWN else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _time(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"

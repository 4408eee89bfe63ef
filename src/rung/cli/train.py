"""The body of `rung train`: what is typed becomes a specification, what happens becomes lines or a bar."""

import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rung.domain.errors import Cancelled, ConfigurationError, InvalidInput, NotFound
from rung.domain.names import rather
from rung.domain.runs import RunResult
from rung.settings.file import load_project
from rung.settings.project import ModelSettings, ProjectSettings
from rung.telemetry import configure_logs
from rung.training import events
from rung.training.params import with_params
from rung.training.run import spec_of, train_model
from rung.training.smoke import Forecast, forecast

__all__ = ["Display", "asked_by_ctrl_c", "changed", "display_for", "model_of", "run"]


def run(
    name: str,
    changes: Sequence[str],
    given: Mapping[str, Any],
    resume: str,
    *,
    smoke: bool,
    register: bool,
    as_json: bool,
) -> None:
    """Train, showing how far it is; Ctrl-C once saves and ends, twice ends at once."""
    configure_logs()
    folder = Path()
    project = load_project(folder)
    wanted = {key: value for key, value in given.items() if value is not None}
    if resume:
        asked = ["set"] * bool(changes) + list(wanted) + ["smoke"] * smoke + ["no-register"] * (not register)
        if asked:
            raise InvalidInput(f"--resume goes on with a run as it was begun: leave out --{asked[0]}", field="resume")
        name, resume = _interrupted(folder, name, resume)
    name, model = model_of(project, name)
    spec = spec_of(name, model, params=changed(model.params, changes, name), register=register, **wanted)
    display = display_for(as_json=as_json)
    with display, asked_by_ctrl_c(display) as stop:
        if smoke:
            try:
                found = forecast(project, folder, spec, model.run.smoke, on_event=display.hear, stop=stop)
            except Cancelled:
                sys.exit(130)
        else:
            result = train_model(project, folder, spec, on_event=display.hear, stop=stop, resume=resume)
    if smoke:
        print(msgspec.json.encode(found).decode() if as_json else _say_forecast(found, name))
        return
    print(msgspec.json.encode(result).decode() if as_json else _say(result, project, name))
    if result.ended == "stopped":
        sys.exit(130)


def model_of(project: ProjectSettings, name: str) -> tuple[str, ModelSettings]:
    """A model of the project, by default the only one.

    Raises:
        ConfigurationError: there are several, or none.
        NotFound: there is none of that name.
    """
    there = ", ".join(project.models)
    if not project.models:
        raise ConfigurationError("rung.toml has no model: add a section [models.NAME]")
    if not name:
        if len(project.models) > 1:
            raise ConfigurationError(f"say which model: {there}")
        name = next(iter(project.models))
    if name not in project.models:
        raise NotFound(f"there is no model {name!r} in rung.toml; {rather(name, project.models)}")
    return name, project.models[name]


def changed(params: Mapping[str, Any], changes: Sequence[str], name: str) -> dict[str, Any]:
    """Parameters with the `NAME=VALUE`s put in; a value is read as JSON, or as text where the file's is text.

    Raises:
        InvalidInput: no `=`, a name that the file does not have, or a value of another kind than the file's.
    """
    given: dict[str, Any] = {}
    for change in changes:
        key, sign, text = change.partition("=")
        if not sign:
            raise InvalidInput(f"--set {change} will not do: write --set NAME=VALUE", field="set")
        try:
            given[key] = text if isinstance(params.get(key), str) else msgspec.json.decode(text)
        except msgspec.DecodeError:
            given[key] = text
    return with_params(params, given, name)


def _interrupted(folder: Path, name: str, resume: str) -> tuple[str, str]:
    """Model and name of the run to go on with."""
    from rung.training import runs

    if resume != "last":
        found = runs.find(folder, resume)
        if name and name != found.model:
            raise InvalidInput(f"{found.name} is a run of {found.model}, not of {name}", field="resume")
        return found.model, found.name
    for one in runs.list_runs(folder, model=name or None):
        # Small trials, and trials of a study, are nobody's to go on with.
        whole = one.tags.get("rung.smoke", "0.0") == "0.0" and "rung.trial" not in one.tags
        if one.status in ("stopped", "killed", "failed") and whole:
            return one.model, one.name
    raise NotFound("there is no run that was interrupted; rung runs list shows all")


@contextmanager
def asked_by_ctrl_c(display: "Display") -> Iterator[Callable[[], bool]]:
    """Yield what says whether Ctrl-C was pressed; pressed twice it interrupts."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        display.hear(events.Said("saving and ending; Ctrl-C again ends at once"))

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


# --- what is shown -----------------------------------------------------------------------------------


class Display(Protocol):
    """Shows a run while the block runs."""

    def hear(self, event: events.Event) -> None:
        """Show what matters of it."""
        ...

    def __enter__(self) -> object: ...

    def __exit__(self, *details: object) -> None: ...


def display_for(*, as_json: bool) -> Display:
    """A bar on a terminal, lines elsewhere, nothing where the result is to be read by programs."""
    return _Silent() if as_json else _Bar() if sys.stdout.isatty() else _Lines()


class _Silent:
    """Nothing but the result."""

    def __enter__(self) -> None:
        return

    def __exit__(self, *_details: object) -> None:
        return

    def hear(self, event: events.Event) -> None:
        """Ignore it."""


class _Lines:
    """A line for each report: for files and pipes."""

    def __enter__(self) -> None:
        return

    def __exit__(self, *_details: object) -> None:
        return

    def hear(self, event: events.Event) -> None:
        """Print what matters."""
        for line in _lines(event):
            print(line, flush=True)


class _Bar:
    """A bar at the bottom of the terminal, lines above it."""

    def __init__(self) -> None:
        self._console = Console(highlight=False)
        self._bar = Progress(
            TextColumn("  {task.description}"),
            BarColumn(28),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[metrics]}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=None, metrics="", visible=False)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *_details: object) -> None:
        self._bar.stop()

    def hear(self, event: events.Event) -> None:
        """Move the bar, or print above it."""
        if isinstance(event, events.Progress):
            self._bar.update(self._task, completed=event.step, total=event.total or None, visible=True)
        elif isinstance(event, events.Reported):
            self._bar.update(self._task, metrics=_metrics(event.metrics))
        if not isinstance(event, events.Reported) or event.best:
            for line in _lines(event):
                self._console.print(escape(line))


def _lines(event: events.Event) -> Iterator[str]:
    match event:
        case events.Started():
            yield f"{event.name}  started; rung runs show {event.name}"
        case events.Ready():
            rows = ", ".join(f"{count:,} {split}" for split, count in event.rows.items())
            again = f"; goes on from step {event.resumed}" if event.resumed else ""
            yield f"  data {event.dataset[:12]}: {rows} rows; {event.device}, {event.threads} threads{again}"
        case events.Reported():
            best = "  best so far" if event.best else ""
            yield f"  step {event.step:>6}  {_metrics(event.metrics)}{best}"
        case events.Said():
            yield f"  {event.text}"
        case events.Restarted():
            yield f"  goes on from the last checkpoint: {event.reason}"


def _metrics(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())


def _say(result: RunResult, project: ProjectSettings, name: str) -> str:
    lines = [f"{result.name}  {result.ended} in {result.seconds:.1f} s  {_metrics(result.metrics)}".rstrip()]
    if result.ended == "stopped":
        return f"{lines[0]}\n  rung train --resume {result.name}  goes on"
    if result.last_step:
        which = "the best, not the last" if result.best_step < result.last_step else "the last"
        saved = f"; stopping early saved {result.saved:.0%} of the steps" if result.saved else ""
        lines.append(f"  step     {result.best_step} of {result.last_step}, {which}{saved}")
    if result.skipped:
        lines.append(f"  skipped  {result.skipped} steps whose loss was not finite")
    lines.append(
        f"  memory   {result.peak_memory >> 20} MiB at most; waited {result.data_wait:.0%} of the time for data"
    )
    lines.append(f"  weights  {result.weights[:12]}")
    if result.version:
        lines.append(f"  version  {name} {result.version} in {project.project.repository}")
        lines.append(f"  next     rung evaluate {name};  rung serve {project.project.repository}")
    return "\n".join(lines)


def _say_forecast(found: Forecast, name: str) -> str:
    return "\n".join(
        [
            f"{name}  the whole way works on {found.rows:,} rows",
            f"  all {found.all_rows:,} rows would take about {found.seconds:.0f} s and {found.memory >> 20} MiB",
            f"  told from {found.rows:,} rows in {found.measured:.1f} s, right within a factor of 2 for most",
        ]
    )

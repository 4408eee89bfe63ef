"""The body of `rung tune`: trials as lines, then the winner, then what mattered."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from rung.cli.train import asked_by_ctrl_c, changed, display_for, model_of
from rung.domain.errors import InvalidInput
from rung.domain.studies import Pruner, Sampler, State, StudyPlan, StudyResult, TrialResult
from rung.settings.file import load_project
from rung.settings.project import ModelSettings
from rung.telemetry import configure_logs
from rung.training import events
from rung.training.run import spec_of
from rung.training.tuning import newest, next_name, plan_of, register_winner, tune

__all__ = ["Wanted", "run"]


class Wanted(msgspec.Struct, frozen=True):
    """What was typed; None and empty leave it to the project's file."""

    trials: int | None
    sampler: Sampler | None
    pruner: Pruner | None
    workers: int | None
    study: str
    resume: bool


def run(name: str, changes: Sequence[str], wanted: Wanted, *, register: bool, as_json: bool) -> None:
    """Search, showing each trial; Ctrl-C once puts back what is under way and ends, twice ends at once."""
    configure_logs(level="warning")
    folder = Path.cwd()
    project = load_project(folder)
    name, model = model_of(project, name)
    model = _overlaid(model, wanted)
    params = changed(model.params, changes, name)
    plan = plan_of(name, model, params)
    workers = model.tune.workers
    # Trials share the cores; the winner is trained with as many threads, so that it is the same model.
    threads = model.run.threads or max(1, len(os.sched_getaffinity(0)) // (workers * model.run.workers))
    spec = spec_of(name, model, params=params, threads=threads)
    study = _study(folder, name, wanted)
    lines, shown = _Trials(plan, silent=as_json), display_for(as_json=as_json)
    with asked_by_ctrl_c(lines) as stop:
        if not as_json:
            print(
                f"{study}  {plan.sampler}, pruner {plan.pruner}, {workers} at once; {plan.metric} is to be "
                f"{'small' if plan.minimize else 'large'}",
                flush=True,
            )
        result = tune(
            folder,
            spec,
            plan,
            study=study,
            workers=workers,
            storage=model.tune.storage,
            hear=lines.ended,
            stop=stop,
        )
        open_trials = result.count("waiting") + result.count("running")
        if register and result.best is not None and not open_trials:
            with shown:
                result = register_winner(
                    project, folder, spec, result, storage=model.tune.storage, on_event=shown.hear, stop=stop
                )
    print(msgspec.json.encode(result).decode() if as_json else _say(result, project.project.repository))
    if open_trials:
        sys.exit(130)


def _overlaid(model: ModelSettings, wanted: Wanted) -> ModelSettings:
    """The model's settings with what was typed."""
    typed = {key: getattr(wanted, key) for key in ("trials", "sampler", "pruner", "workers")}
    tuned = msgspec.structs.replace(model.tune, **{key: value for key, value in typed.items() if value is not None})
    return msgspec.structs.replace(model, tune=tuned)


def _study(folder: Path, name: str, wanted: Wanted) -> str:
    if wanted.study and wanted.resume:
        raise InvalidInput("--resume takes the newest study, --study NAME one by its name: give one of them")
    if wanted.study:
        return wanted.study
    return newest(folder, name) if wanted.resume else next_name(folder, name)


class _Trials:
    """A line for each trial that ends."""

    def __init__(self, plan: StudyPlan, *, silent: bool) -> None:
        self._plan, self._is_silent = plan, silent
        self._best: float | None = None

    def __enter__(self) -> None:
        return

    def __exit__(self, *_details: object) -> None:
        return

    def hear(self, event: events.Event) -> None:
        """Print what is said to people."""
        if isinstance(event, events.Said) and not self._is_silent:
            print(f"  {event.text}", flush=True)

    def ended(self, trial: TrialResult) -> None:
        """Print the trial, unless it has only begun."""
        if trial.state != "running" and not self._is_silent:
            print(_line(trial, self._plan, self._is_best(trial)), flush=True)

    def _is_best(self, trial: TrialResult) -> bool:
        if trial.state != "complete" or trial.value is None:
            return False
        sign = 1 if self._plan.minimize else -1
        if self._best is not None and sign * trial.value >= sign * self._best:
            return False
        self._best = trial.value
        return True


def _line(trial: TrialResult, plan: StudyPlan, best: bool) -> str:
    head = f"  trial {trial.number:>3}"
    if trial.state == "failed":
        return f"{head}  failed: {trial.reason}"
    value = "" if trial.value is None else f"{plan.metric} {trial.value:.4g}"
    end = {"pruned": f"  pruned after {trial.reports} reports", "lost": "  put back"}.get(trial.state, "")
    again = f"  again, for {trial.retry_of}" if trial.retry_of is not None else ""
    return f"{head}  {value}  {_params(trial)}{end}{again}{'  best so far' if best else ''}"


def _params(trial: TrialResult) -> str:
    return "  ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in trial.params.items()
    )


def _say(result: StudyResult, repository: str) -> str:
    states: tuple[State, ...] = ("complete", "pruned", "failed", "waiting", "running")
    counts = [f"{result.count(state)} {state}" for state in states if result.count(state)]
    if result.retried:
        counts.append(f"{result.retried} tried again")
    lines = [f"{result.study}  {', '.join(counts)}"]
    if result.count("waiting"):
        lines.append(f"  rung tune {result.plan.model} --study {result.study}  goes on")
    best = result.best
    if best is not None:
        lines.append(f"  best     trial {best.number} ({best.run})  {result.plan.metric} {best.value:.4g}")
        lines.append(f"  params   {_params(best)}")
    if result.importance:
        lines.append("  matters  " + ", ".join(f"{name} {share:.0%}" for name, share in result.importance.items()))
    lines += [f"  picture  {Path(path).relative_to(Path.cwd())}" for path in result.pictures]
    if result.version:
        lines.append(f"  version  {result.plan.model} {result.version} in {repository}, trained by {result.run}")
    return "\n".join(lines)

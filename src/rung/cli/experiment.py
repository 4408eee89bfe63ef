"""Bodies of `rung experiment` and `rung selftest stats`."""

from pathlib import Path

import msgspec

from rung.cli.printing import print_json, print_table
from rung.fleet import plot as pictures
from rung.fleet import report as reports
from rung.fleet.controller import gather
from rung.fleet.policy import Policy, read_policy
from rung.fleet.selftest import GuardTest, LadderTest, Quiet, climb_ladder, quiet, replay_guards
from rung.ports import BlobStore
from rung.settings.file import project_here
from rung.settings.project import ModelSettings
from rung.store.blobs import open_store

__all__ = ["Chance", "Where", "experiment", "stats"]

_HARMS = (0.0, 0.01, 0.05)
_RUNS_PER_ROLLOUT = 5


class Where(msgspec.Struct, frozen=True):
    """Where things lie, as flags say; empty: as the project says."""

    repository: str = ""
    log: str = ""


class Chance(msgspec.Struct, frozen=True):
    """How to draw."""

    runs: int
    rate: float | None
    seed: int


class _Place(msgspec.Struct, frozen=True):
    store: BlobStore
    log: Path
    data: BlobStore | None
    policy: Policy


def _place(where: Where, model: str) -> _Place:
    """The project in this folder, or its defaults; flags win."""
    settings = project_here()
    project, section = settings.project, settings.models.get(model, ModelSettings()).release
    return _Place(
        open_store(where.repository or project.repository),
        Path(where.log or project.log),
        # Another log than the project's has no tables here.
        open_store(project.data) if where.log in ("", project.log) else None,
        read_policy(msgspec.to_builtins(section), f"models.{model}.release"),
    )


def experiment(model: str, where: Where, arm: str, plot: Path | None, *, as_json: bool) -> None:
    """Print how an experiment stands, and draw it.

    Raises:
        NotFound: there is no such model.
        Conflict: it never had an experiment.
        MissingDependency: a picture was asked for without matplotlib.
    """
    place = _place(where, model)
    report = reports.observe(place.store, place.log, model, place.policy, data=place.data, arm=arm)
    if plot is not None:
        pictures.draw(report, {guard.name: guard.rule for guard in place.policy.guards}, plot)
    if as_json:
        print_json(reports.as_json(report))
        return
    print(reports.as_text(report))
    if plot is not None:
        print(f"\npicture: {plot}")


def stats(model: str | None, where: Where, chance: Chance, *, as_json: bool) -> None:
    """Replay the quiet log, let made-up candidates climb, and print how often either is wrong."""
    import numpy as np

    place = _place(where, model or "")
    rng = np.random.default_rng(chance.seed)
    values = quiet(gather(place.log, place.data, model), model) if model else Quiet([], [], [], [])
    guards = replay_guards(place.policy, values, rng=rng, runs=chance.runs) if model else []
    measured = sum(values.errors) / len(values.errors) if values.errors else None
    rate = chance.rate if chance.rate is not None else measured if measured is not None else 0.05
    runs = max(chance.runs // _RUNS_PER_ROLLOUT, 2)
    ladder = [climb_ladder(place.policy, rate, harm, rng=rng, runs=runs) for harm in _HARMS if rate + harm <= 1]
    if as_json:
        print_json({"model": model, "guards": guards, "rollouts": ladder})
        return
    if model:
        _print_guards(model, guards)
    _print_ladder(ladder)


def _print_guards(model: str, guards: list[GuardTest]) -> None:
    print(f"Quiet traffic of {model}, split by chance, looked at all along:\n")
    for one in guards:
        print(f"{one.name}: {one.units:,} units, mean {one.rate:.4g}, allowed {100 * one.alpha:.2g} % false alarms")
        if one.false_alarms is not None:
            print(f"  without harm     fires in {one.false_alarms}")
        if one.power is not None:
            print(f"  with harm {one.harm:<6.3g} fires in {one.power}")
        if one.note:
            print(f"  {one.note}")
    print()


def _print_ladder(tests: list[LadderTest]) -> None:
    print(f"Whole simulated rollouts, errors at {100 * tests[0].rate:.3g} % of units:\n")
    head = ("harm", "taken back", "of these before 25 %", "promoted")
    print_table(
        head, [(f"{100 * one.harm:g} pp", str(one.taken_back), str(one.early), str(one.promoted)) for one in tests]
    )

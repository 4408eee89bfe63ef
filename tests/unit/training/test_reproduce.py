"""Every grade, over real runs of a tiny project; where only the judgement is at stake, of a run that is made up."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from rung.domain.runs import RunResult
from rung.settings.file import load_project
from rung.settings.project import ProjectSettings
from rung.training import reproduce as reproducing
from rung.training import runs
from rung.training.environment import Environment, environment
from rung.training.reproduce import Report, differences, reproduce
from rung.training.run import ENVIRONMENT, SNAPSHOT, spec_of, train_model

PROJECT = """
[models.steady]
task = "classification"
train = "model:steady"
data = { source = "csv:rows.csv", label = "y" }
run = { threads = 1 }

[models.clock]
task = "classification"
train = "model:clock"
data = { source = "csv:rows.csv", label = "y" }
run = { threads = 1 }
"""

MODEL = """
import time
from sklearn.linear_model import SGDClassifier


def fitted(ctx, seed):
    X, y = ctx.data.arrays("train")
    model = SGDClassifier(loss="log_loss", max_iter=20, tol=None, random_state=seed).fit(X, y)
    ctx.report(accuracy=model.score(*ctx.data.arrays("validation")))
    return model


def steady(ctx):
    return fitted(ctx, ctx.seed)


def clock(ctx):
    return fitted(ctx, time.time_ns() % 2**31)
"""


@pytest.fixture(scope="module")
def trained(first_runs: tuple[Path, list[dict]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "project"
    (folder / ".rung").mkdir(parents=True)
    shutil.copyfile(first_runs[0] / ".rung/mlflow.db", folder / ".rung/mlflow.db")
    (folder / "rung.toml").write_text(PROJECT)
    (folder / "model.py").write_text(MODEL)
    rows = "".join(f"{i % 17},{i * 7 % 23},{'yes' if (i % 17) + (i * 7 % 23) > 20 else 'no'}\n" for i in range(300))
    (folder / "rows.csv").write_text("a,b,y\n" + rows)
    project = load_project(folder)
    for name in ("steady", "clock"):
        assert train_model(project, folder, spec_of(name, project.models[name])).version == 1
    return folder


@pytest.fixture
def folder(trained: Path) -> Iterator[Path]:
    """The project; what a test breaks in it is mended after it."""
    # Not MLflow's store, which stays open, nor environments, which no test breaks.
    kept = shutil.ignore_patterns("mlflow.*", "environments")
    spare = trained.with_name("spare")
    shutil.copytree(trained / ".rung", spare, ignore=kept)
    yield trained
    shutil.copytree(spare, trained / ".rung", dirs_exist_ok=True)
    shutil.rmtree(spare)
    (trained / "rung.toml").write_text(PROJECT)
    (trained / "model.py").write_text(MODEL)


def again(folder: Path, name: str, *, same_environment: bool = False) -> Report:
    return reproduce(load_project(folder), folder, runs.find(folder, name), same_environment=same_environment)


def test_run_is_bit_equal_also_after_code_settings_and_data_have_changed(folder: Path) -> None:
    (folder / "model.py").write_text("def train(ctx): raise ValueError('another one')\n")
    (folder / "rung.toml").write_text(PROJECT.replace('label = "y"', 'label = "a"'))
    report = again(folder, "steady-1")
    assert (report.grade, report.environment) == ("bit-equal", ())
    assert report.weights[0] == report.weights[1] != ""
    assert report.metrics["accuracy"][0] == report.metrics["accuracy"][1]
    rerun = runs.find(folder, report.rerun)
    assert rerun.tags["rung.reproduces"] == "steady-1"
    assert "rung.version" not in rerun.tags, "nothing is registered"
    assert "system/memory_mib" in rerun.metrics


def test_run_that_looks_at_the_clock_is_different(folder: Path) -> None:
    report = again(folder, "clock-1")
    assert report.grade == "different"
    assert "the weights differ" in report.reason
    assert "no tolerance is declared" in report.reason
    assert report.weights[0] != report.weights[1]


def made_up(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    """Train nothing: the rerun ends as the run did, with changes."""

    def train(project: ProjectSettings, folder: Path, spec: object, *, record: Path, **_: object) -> RunResult:
        before = msgspec.json.decode((record / ".rung/runs/clock-1/result.json").read_bytes(), type=RunResult)
        return msgspec.structs.replace(before, **{"weights": "0" * 64, "name": "clock-2"} | changes)

    monkeypatch.setattr(reproducing, "train_model", train)


@pytest.mark.parametrize(("tolerance", "grade"), [(0.1, "within tolerance"), (0.01, "different"), (0.0, "different")])
def test_metrics_within_the_tolerance_that_the_project_declares(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tolerance: float, grade: str
) -> None:
    then = runs.find(folder, "clock-1").metrics["accuracy"]
    made_up(monkeypatch, metrics={"accuracy": then - 0.05})
    (folder / "rung.toml").write_text(PROJECT.replace("threads = 1 }", f"threads = 1, tolerance = {tolerance} }}"))
    report = again(folder, "clock-1")
    assert report.grade == grade
    assert "0.05" in report.reason


def test_metric_that_is_not_reported_any_more_is_different(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, metrics={})
    report = again(folder, "clock-1")
    assert (report.grade, report.reason) == ("different", "it did not report accuracy this time")


def test_rerun_that_was_stopped_has_no_grade(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch, ended="stopped", reason="somebody asked it to end")
    report = again(folder, "clock-1")
    assert report.grade == "not possible"
    assert "did not come to its end" in report.reason


def lose_data(folder: Path) -> None:
    parts = [path for path in (folder / ".rung").rglob("*") if path.is_file() and path.read_bytes()[:4] == b"PAR1"]
    assert parts
    for part in parts:
        part.unlink()


def lose_code(folder: Path) -> None:
    (folder / ".rung/runs/steady-1" / SNAPSHOT).unlink()


def change_code(folder: Path) -> None:
    shutil.copyfile(folder / ".rung/runs/steady-1" / SNAPSHOT, folder / "spare.tar.gz")
    reproducing.unpack(folder / "spare.tar.gz", folder / ".rung/elsewhere")
    (folder / "spare.tar.gz").unlink()
    (folder / ".rung/elsewhere/model.py").write_text("def steady(ctx): ...\n")
    from rung.training.environment import snapshot

    snapshot(folder / ".rung/elsewhere", folder / ".rung/runs/steady-1" / SNAPSHOT)


def damage_code(folder: Path) -> None:
    path = folder / ".rung/runs/steady-1" / SNAPSHOT
    path.write_bytes(path.read_bytes()[:100])


def other_packages(folder: Path) -> None:
    here = environment()
    other = Environment(here.python, here.system, ("no-such-thing==1.0",), ())
    (folder / ".rung/runs/steady-1" / ENVIRONMENT).write_bytes(msgspec.json.encode(other))


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lose_data, "has lost a part"),
        (lose_code, "has lost .*code.tar.gz"),
        (change_code, "is not what steady-1 ran: model.py"),
        (damage_code, "code.tar.gz, cannot be read"),
        (other_packages, "pip install .*no-such-thing.*--same-environment"),
    ],
)
def test_what_is_not_there_any_more_makes_it_impossible(
    folder: Path, monkeypatch: pytest.MonkeyPatch, breaks: object, said: str
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(reproducing, "train_model", lambda *_, **__: pytest.fail("it was started"))
    breaks(folder)
    report = again(folder, "steady-1")
    assert report.grade == "not possible"
    assert re.search(said, report.reason), report.reason


def test_other_packages_are_named_where_it_goes_on_nevertheless(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made_up(monkeypatch)
    here = environment()
    packages = tuple("numpy==1.0" if one.startswith("numpy==") else one for one in here.packages)
    then = Environment("3.4.10", here.system, packages, here.unpublished)
    (folder / ".rung/runs/clock-1" / ENVIRONMENT).write_bytes(msgspec.json.encode(then))
    report = again(folder, "clock-1", same_environment=True)
    assert report.grade == "different"
    numpy = next(one.partition("==")[2] for one in here.packages if one.startswith("numpy=="))
    assert report.environment == (f"Python {here.python} instead of 3.4.10", f"numpy {numpy} instead of 1.0")


def test_differences_of_environments_in_words() -> None:
    before = Environment("3.11.7", "Linux x86_64", ("a==1", "b==2"))
    now = Environment("3.11.7", "Linux aarch64", ("b==3", "c==1"))
    said = ("Linux aarch64 instead of Linux x86_64", "a is missing", "b 3 instead of 2", "c is new")
    assert differences(before, now) == said
    assert differences(before, before) == ()


def test_run_that_did_not_finish_cannot_be_reproduced(folder: Path) -> None:
    run = msgspec.structs.replace(runs.find(folder, "steady-1"), status="failed")
    report = reproduce(load_project(folder), folder, run)
    assert (report.grade, "is failed" in report.reason) == ("not possible", True)

"""What a study is made of, before its first trial."""

from pathlib import Path

import pytest

pytest.importorskip("optuna")

from rung.domain.errors import ConfigurationError, NotFound, TrainingFailed
from rung.domain.runs import RunSpec
from rung.domain.studies import StudyResult
from rung.settings.file import parse
from rung.training.studies import Book
from rung.training.tuning import newest, next_name, plan_of, register_winner, status

PROJECT = parse(
    """
[models.m]
train = "model:train"
metric = "val_loss"
params = { depth = 3, rate = 0.1 }
run = { seed = 9 }
tune = { space = { depth = { low = 1, high = 9 } }, sampler = "cmaes", pruner = "hyperband", retries = 1 }
[models.bare]
params = { depth = 3 }
"""
)


def test_a_plan_is_what_the_file_and_the_command_line_say() -> None:
    plan = plan_of("m", PROJECT.models["m"], {"depth": 3, "rate": 0.2})
    assert (plan.metric, plan.minimize, plan.sampler, plan.pruner) == ("val_loss", True, "cmaes", "hyperband")
    assert (plan.seed, plan.retries, plan.params) == (9, 1, {"depth": 3, "rate": 0.2})


def test_a_model_without_a_space_cannot_be_tuned() -> None:
    with pytest.raises(ConfigurationError, match=r"\[models.bare.tune\] has no space to search"):
        plan_of("bare", PROJECT.models["bare"], {"depth": 3})


def test_studies_are_numbered_and_the_newest_is_found(tmp_path: Path) -> None:
    model = PROJECT.models["m"]
    with pytest.raises(NotFound, match="no study of m was begun"):
        newest(tmp_path, "m")
    for number in (1, 2):
        name = next_name(tmp_path, "m")
        assert name == f"m-study-{number}"
        Book.begin(tmp_path, "", name, plan_of("m", model, model.params))
    assert newest(tmp_path, "m") == "m-study-2"
    with pytest.raises(NotFound):
        newest(tmp_path, "bare")


def test_a_study_without_a_complete_trial_has_no_winner(tmp_path: Path) -> None:
    model = PROJECT.models["m"]
    Book.begin(tmp_path, "", "s", plan_of("m", model, model.params)).fill(2)
    result: StudyResult = status(tmp_path, "", "s")
    assert (result.count("waiting"), result.best, result.pictures) == (2, None, [])
    with pytest.raises(TrainingFailed, match="no trial of s is complete"):
        register_winner(PROJECT, tmp_path, RunSpec("m", "model:train"), result)

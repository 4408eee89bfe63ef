import pytest

from rung.domain.errors import ConfigurationError
from rung.domain.metrics import METRICS, default_metric, direction, measure


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("accuracy", "maximize"),
        ("rmse", "minimize"),
        ("val_loss", "minimize"),
        ("valLoss", "minimize"),
        ("test/mean_error", "minimize"),
        ("glossary_score", "maximize"),
        ("reward", "maximize"),
    ],
)
def test_the_direction_of_a_metric_that_only_the_user_knows(metric: str, expected: str) -> None:
    assert direction(metric) == expected


def test_the_usual_metric_of_a_task_is_one_of_it() -> None:
    for task in ("classification", "text-classification", "regression", "segmentation"):
        assert METRICS[default_metric(task)].task == task.rpartition("-")[2]
    assert default_metric("embedding") == "loss"


def test_an_unknown_metric_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"no metric 'acuracy'; there are accuracy, .*iou"):
        measure("acuracy")

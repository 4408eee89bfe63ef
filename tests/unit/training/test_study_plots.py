"""The pictures of a study are pictures, and only of what there is."""

from pathlib import Path

from PIL import Image

from rung.domain.studies import Range, StudyPlan, StudyResult, TrialResult
from rung.training.study_plots import draw

PLAN = StudyPlan("m", {"x": Range(0.0, 1.0)}, "loss", minimize=True, params={"x": 0.5})


def test_a_study_without_values_has_no_picture(tmp_path: Path) -> None:
    assert draw(StudyResult("s", PLAN, [TrialResult(0, "waiting")]), tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_history_and_importance(tmp_path: Path) -> None:
    trials = [TrialResult(number, "complete", {"x": 0.1}, 1 / (number + 1)) for number in range(6)]
    trials += [TrialResult(6, "pruned", {"x": 0.3}, 4.0, reports=2), TrialResult(7, "failed", reason="no number")]
    result = StudyResult("s", PLAN, trials, trials[5], {"x": 0.8, "y": 0.2})
    made = draw(result, tmp_path)
    assert [path.name for path in made] == ["history.png", "importance.png"]
    for path in made:
        with Image.open(path) as picture:
            assert picture.width > 600
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10

from pathlib import Path

import pytest
from PIL import Image

from rung.domain.errors import InvalidInput
from rung.training.plots import draw_runs
from rung.training.runs import Point


def line(*values: float) -> list[Point]:
    return [Point(step, value, float(step)) for step, value in enumerate(values)]


def test_picture_has_a_panel_for_each_metric_and_for_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "runs.svg"
    histories = {
        "a-1": {
            "loss": line(3, 2, 1),
            "accuracy": line(0.9),
            "system/cpu": line(99, 101),
            "system/memory_mib": line(5),
        },
        "a-2": {"loss": line(4, 2, float("nan")), "accuracy": line(0.8)},
    }
    draw_runs(histories, path)
    text = path.read_text()
    assert text.count('id="axes_') == 4
    assert all(f"<!-- {word} -->" in text for word in ("loss", "accuracy", "processor, % of one core", "memory, MiB"))
    assert all(f"<!-- {word} -->" in text for word in ("step", "seconds", "a-1", "a-2"))


def test_png_can_be_opened_and_is_not_blank(tmp_path: Path) -> None:
    path = tmp_path / "runs.png"
    draw_runs({"a-1": {"loss": line(3, 2, 1)}}, path)
    with Image.open(path) as picture:
        assert picture.width > 500
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10


@pytest.mark.parametrize(("histories", "name"), [({"a": {"x": line(1)}}, "runs.gif"), ({"a": {}}, "runs.png")])
def test_what_cannot_be_drawn(tmp_path: Path, histories: dict, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"\.png or \.svg|nothing was reported"):
        draw_runs(histories, tmp_path / name)
    assert not (tmp_path / name).exists()

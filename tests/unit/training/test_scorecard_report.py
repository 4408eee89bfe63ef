from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rung.domain.metrics import METRICS
from rung.domain.rules import Verdict
from rung.domain.scorecards import Figure, Latency, Scorecard
from rung.stats.scores import Answers
from rung.training.evaluation import Evaluation
from rung.training.grading import Graded
from rung.training.scorecard import calibration, compare, confusion_of, figures, slices
from rung.training.scorecard_report import as_html, figure_text, number, write

VOID = {"meta", "img", "br", "!doctype"}


class _Tags(HTMLParser):
    """Keeps what is open; a page is well formed when nothing is left and nothing was closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def evaluation() -> Evaluation:
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=400)
    likely = np.clip(rng.normal(0.3 + 0.4 * truth, 0.2), 0.01, 0.99)
    graded = Graded(np.arange(400), Answers(np.c_[1 - likely, likely], truth, ("<b>ham</b>", "spam")))
    town = pl.DataFrame({"town": np.where(np.arange(400) < 390, "<script>", "rare")})
    found, notes = figures(graded, "classification", "accuracy", None)
    time = Figure("p50", 0.0021, 0.002, 0.0023, 40, 40, "order statistics", 0.95, "s")
    card = Scorecard(
        model="mail",
        version=3,
        digest="d" * 64,
        task="classification",
        metric="accuracy",
        direction="maximize",
        figures=tuple(found),
        rows=400,
        refused=2,
        refusals=("row 7: <bad>",),
        slices=tuple(slices(graded, town, ("town",), METRICS["accuracy"], None)),
        calibration=calibration(graded, None),
        confusion=confusion_of(graded),
        checks=(Verdict("fail", "rows in both", "3 rows & more"),),
        comparison=compare(graded, graded, (2, "e" * 64), METRICS["accuracy"], None),
        latency=(Latency(1, 40, time, None),),
        size=12_345,
        notes=tuple(notes),
    )
    return Evaluation(card, graded)


def test_one_page_that_needs_nothing_else(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "worst-03.png").write_bytes(b"of an earlier card")
    written = write(evaluation, tmp_path)

    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in written} == {
        "slices.png",
        "calibration.png",
        "confusion.png",
        "scorecard.json",
        "scorecard.html",
    }
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in written if path.suffix == ".png")
    page = (tmp_path / "scorecard.html").read_text()
    tags = _Tags()
    tags.feed(page)
    assert (tags.open, tags.wrong) == ([], [])
    assert "src='data:image/png;base64," in page
    assert "http" not in page
    for text in ("accuracy", "rows in both", "3 rows & more", "Inconclusive does not mean no worse", "12,345 bytes"):
        assert text in tags.text
    # Nothing of the data becomes markup.
    assert "<script>" not in page
    assert "<b>" not in page
    assert "town = <script>" in tags.text


def test_equal_cards_give_equal_files(evaluation: Evaluation, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in write(evaluation, tmp_path / "a")}
    second = {path.name: path.read_bytes() for path in write(evaluation, tmp_path / "b")}
    assert first == second


def test_a_page_without_pictures_is_still_one(evaluation: Evaluation) -> None:
    assert "<img" not in as_html(evaluation.card, {})


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.91234, "", "0.912"),
        (0.0, "", "0.000"),
        (-4.5, "", "-4.500"),
        (50.83, "", "50.8"),
        (29_159.1, "", "29,159"),
        (0.000206, "", "0.0002"),
        (0.00004, "", "4e-05"),
        (0.00213, "s", "2.13 ms"),
    ],
)
def test_numbers_as_people_read_them(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_a_figure_never_stands_without_its_interval() -> None:
    assert figure_text(Figure("iou", 0.8, 0.75, 0.84, 50, 50, "t")) == "0.800 [0.750, 0.840]"

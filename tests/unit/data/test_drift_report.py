import io
import re

import msgspec
import numpy as np
import polars as pl
import pytest
from PIL import Image

from rung.data.drift_plots import draw, ranked
from rung.data.drift_report import as_html, p_value, words, write
from rung.settings.project import DriftSection

from .conftest import Project
from .test_drift import SETTINGS, Place, asked, table


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    rng = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("drift")
    place = Place(Project(folder), folder)
    place.train(table(2_000, rng))
    rows = table(200, rng, shift=0.9).with_columns(b=pl.when(pl.Series(rng.random(200) < 0.5)).then(pl.col("b")))
    place.ask(asked(table(100, rng)) + asked(rows))
    return place.look(msgspec.structs.replace(SETTINGS, drift=DriftSection(window=100)))


def test_the_page_stands_alone(found, tmp_path):
    page = write(tmp_path / "out" / "page.html", found)
    text = page.read_text()
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "<script" not in text
    assert "data bug" in text.lower()
    assert text.count("data:image/png") == 3
    assert "b (missing)" in text


def test_pictures_can_be_opened(found):
    pictures = draw(found)
    assert set(pictures) == {"columns.png", "effects.png", "windows.png"}
    for data in pictures.values():
        with Image.open(io.BytesIO(data)) as picture:
            assert min(picture.size) > 100


def test_words_name_the_worst_column_and_the_run_length(found):
    said = " | ".join(words(found.report))
    assert "drift is confirmed in 2 of 3 windows" in said
    assert f"moved most is {found.report.worst}" in said
    assert "once in 225 windows or more" in said
    assert ranked(found.report.inputs[-1])[0].strength > 1


def test_what_cannot_be_told_says_how_large_a_shift_would_be(found):
    small = [msgspec.structs.replace(one, verdict="underpowered") for one in found.report.inputs[0].columns]
    window = msgspec.structs.replace(found.report.inputs[0], columns=tuple(small))
    report = msgspec.structs.replace(found.report, outlook="underpowered", inputs=(window,), persistent=())
    said = " | ".join(words(report))
    assert "cannot be told yet" in said
    assert re.search(r"a shift below 0\.\d\d standard deviations", said)


def test_names_of_columns_are_no_markup(found):
    window = found.report.inputs[-1]
    evil = msgspec.structs.replace(window.columns[0], column="<b>$x^2")
    report = msgspec.structs.replace(found.report, inputs=(msgspec.structs.replace(window, columns=(evil,)),), worst="")
    assert "<b>$x" not in as_html(report, {})


def test_a_report_without_windows_has_no_picture(found):
    report = msgspec.structs.replace(found.report, inputs=(), answers=(), outlook=None, worst="")
    assert draw(msgspec.structs.replace(found, report=report)) == {}
    assert "nothing was asked" in " ".join(words(report))


def test_p_values_for_people():
    assert (p_value(0.5), p_value(1e-9)) == ("0.5000", "<0.0001")

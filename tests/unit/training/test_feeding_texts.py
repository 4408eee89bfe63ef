"""`ctx.data.arrays` where the one feature is a text: its words are counted, and that is what serves."""

import numpy as np
import polars as pl
import pytest

from rung.domain.datasets import DatasetVersion
from rung.domain.errors import InvalidData
from rung.domain.models import Transforms
from rung.domain.predictions import Payload
from rung.domain.tensors import Signature, TensorSpec
from rung.settings.project import DataSection
from rung.training.feeding import Feed
from rung.transforms.pipeline import Pipeline

TRAIN = pl.DataFrame(
    {
        "text": ["win a prize", "see you at nine", "a prize to win", "you win", "at nine then"],
        "label": ["spam", "ham", "spam", "spam", "ham"],
    }
)
HELD_OUT = pl.DataFrame({"text": ["win at nine", "unheard words"], "label": ["ham", "ham"]})


def feed(train: pl.DataFrame = TRAIN, **section: object) -> Feed:
    kinds = dict.fromkeys(train.columns, "text")
    version = DatasetVersion("m", "0" * 64, kinds, ())
    return Feed(version, {"train": train, "validation": HELD_OUT}, DataSection(label="label", **section))


def test_the_words_of_the_training_rows_become_columns_and_serve() -> None:
    data = feed()
    inside, targets = data.arrays("validation")
    assert data.columns is not None
    assert data.columns.name == "text.tfidf"
    assert "unheard" not in data.columns.params["vocabulary"]
    assert targets.tolist() == [0, 0]
    assert inside[0].any()
    assert not inside[1].any()
    signature = Signature((TensorSpec("x", "FP32", (-1, inside.shape[1])),), (TensorSpec("y", "FP32", (-1, 2)),))
    pipeline = Pipeline.of(Transforms((data.columns,)), signature)
    served = pipeline.prepare(Payload("text", HELD_OUT["text"].to_list())).inputs["x"]
    assert served.tobytes() == inside.tobytes()
    np.testing.assert_array_equal(data.arrays("train")[1], [1, 0, 1, 1, 0])


def test_settings_of_the_words() -> None:
    data = feed()
    data.arrays(text={"ngrams": (1, 1), "least": 1, "sublinear": True, "most": 3})
    assert data.columns is not None
    assert len(data.columns.params["vocabulary"]) == 3
    assert data.columns.params["sublinear"] is True


def test_a_text_that_repeats_is_a_category_unless_it_is_said_to_be_one() -> None:
    town = pl.DataFrame({"text": ["north side", "south side"] * 10, "label": ["a", "b"] * 10})
    data = feed(town)
    data.arrays()
    assert data.columns is not None
    assert data.columns.params["columns"][0]["categories"] == ["north side", "south side"]
    said = feed(town)
    said.arrays(text={})
    assert said.columns is not None
    assert said.columns.params["vocabulary"] == ["north", "north side", "side", "south", "south side"]


def test_words_are_for_one_column_and_for_texts() -> None:
    two = TRAIN.with_columns(other=pl.lit("x"))
    with pytest.raises(InvalidData, match=r"for one column of texts, and the features are text, other"):
        feed(two).arrays(text={})
    gap = pl.concat([TRAIN, pl.DataFrame({"text": [None], "label": ["ham"]}, schema=TRAIN.schema)])
    with pytest.raises(InvalidData, match=r"row 5 of the training texts is None, which is no text"):
        feed(gap).arrays()
